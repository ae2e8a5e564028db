"""A folder of videos as MANIFEST whose files change between two runs of ``make extract``."""

from tests.commands import run_here
from tests.media_factory import make_media
from tests.tiny import TINY


def test_files_added_replaced_and_removed(tmp_path):
    videos = tmp_path / "videos"

    def make(name, seconds=1):
        make_media(videos / f"{name}.mp4", seconds=seconds, fps=4, size=(32, 32))

    def extract(*more, code=0):
        small = ("--preset", TINY, "--set", "cache.clips_per_shard=2", "--set", "cache.decode_workers=1")
        where = ("--manifest", videos, "--cache", tmp_path / "cache", "--stage", "cavp")
        return run_here("pipeline", "extract", *where, *small, *more, code=code)

    for name in ("b", "c", "d", "e"):
        make(name)
    assert "cavp 4" in extract()
    make("c", seconds=2)
    text = extract()
    assert "1 made, 1 already there" in text
    assert "1 whose file is another: c" in text
    make("f")  # behind the last shard
    assert "1 made, 2 already there" in extract()
    make("a")  # before the first: every shard holds others
    text = extract(code=6)
    assert "1 clip added (a)" in text
    assert "3 shards from 0 on would hold other clips" in text
    assert "--rebuild" in text
    assert "train 5" in run_here("pipeline", "join", tmp_path / "cache", "--stages", "cavp")
    # What moves: a, c and e are new in their shards. (b, d and f stay: shards are [a b] [c d] [e f].)
    assert "cavp 3" in extract("--rebuild")
    for name in ("d", "e", "f"):
        (videos / f"{name}.mp4").unlink()
    assert "3 clips removed (d, e, f)" in extract(code=6)
    text = extract("--rebuild")
    assert "1 of an older manifest (may be deleted): cavp/shard-00002.h5" in text
    assert "1 ignored" in run_here("pipeline", "status", tmp_path / "cache")
    assert "wrong    0" in run_here("pipeline", "verify", tmp_path / "cache")
    assert "train 3" in run_here("pipeline", "join", tmp_path / "cache", "--stages", "cavp")
