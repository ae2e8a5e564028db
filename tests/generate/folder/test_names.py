"""What outputs are called, and which files are videos."""

import io
import os
import tarfile
from pathlib import PurePath

import pytest

from common.errors import InputError
from generate.film_plan import output_stems
from tests.generate.folder.made import SMALL, files
from tests.generate.test_mux import make_picture


def test_names_that_would_collide():
    assert output_stems([PurePath("a.mkv"), PurePath("a.mp4"), PurePath("b/a.mp4")]) == ["a__mkv", "a", "a"]
    with pytest.raises(InputError, match=r"a__mkv.mp4 .*would both be written as 'a__mkv'|would both be written"):
        output_stems([PurePath("a.mkv"), PurePath("a.mp4"), PurePath("a__mkv.mp4")])


def test_a_picture_that_the_container_does_not_take(generate, sampled, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    make_picture(folder / "a.mkv", "libvpx")
    for _ in range(2):
        text = generate(folder, "-o", tmp_path / "out", *SMALL)
        assert files(tmp_path / "out") == {"a.mkv"}
    assert "1 already there" in text
    text = generate(folder, "-o", tmp_path / "none", "--suffix", "mov", "--video-codec", "copy", *SMALL, code=8)
    assert "vp8 cannot be copied into .mov" in text
    assert len(sampled) == 1, "it is said before anything is computed"


def test_videos_in_tars(generate, sampled, clip, tmp_path):
    (tmp_path / "videos").mkdir()
    with tarfile.open(tmp_path / "videos" / "shard.tar", "w") as tar:
        tar.add(clip, "a.mp4")
        text = b'{"caption": "bell ringing"}'
        entry = tarfile.TarInfo("a.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    for done in ("1 made, 0 already there", "0 made, 1 already there"):
        assert done in generate(tmp_path / "videos", "-o", tmp_path / "out", *SMALL)
    assert files(tmp_path / "out") == {"shard.tar/a.mp4"}
    assert [labels for labels, _, _ in sampled] == [["bell ringing"]]


def test_links(generate, videos, sampled, clip, tmp_path):
    folder = videos("a.mp4")
    os.symlink(clip, folder / "linked.mp4")
    os.symlink(folder, folder / "back")
    text = generate(folder, "-o", tmp_path / "out", *SMALL)
    assert files(tmp_path / "out") == {"a.mp4", "linked.mp4"}
    assert "back: it is a link back to" in " ".join(text.split())
