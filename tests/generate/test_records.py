"""What made.parquet says of clips, and an OUT folder that belongs to another kind of job."""

import pyarrow.parquet as pq
import pytest

from common.errors import CacheError
from generate.film_plan import plan_folder
from generate.records import About, Outcome, prepare_folder, write_made
from manifests.folders import MADE_FILMS
from manifests.manifest import Clip
from presets import load_preset
from tests.media_factory import make_media

PRESET = load_preset("micro")
CLIPS = [Clip(name, "", 0, "rain", "test", f"{name}.mp4") for name in ("a", "b")]


def reasons(out, **outcome):
    write_made(About(PRESET, {}), CLIPS, Outcome(**outcome), out)
    return [row["reason"] for row in pq.read_table(out / "made.parquet").to_pylist()]


def test_a_clip_whose_sound_is_of_another_video_has_its_reason(tmp_path):
    """The old wav stays; the list says what is wrong with it until it is made again or the video is back."""
    assert reasons(tmp_path) == ["not made yet", "not made yet"]
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "a.wav").touch()
    assert reasons(tmp_path) == ["", "not made yet"]  # of a job that was killed after the wav
    assert reasons(tmp_path, failed={"a": "another file", "b": "no file"}) == ["another file", "no file"]
    assert reasons(tmp_path) == ["another file", "no file"]  # another task knows nothing of them
    assert reasons(tmp_path, skipped=["a"]) == ["", "no file"]


def test_a_split_and_a_folder_have_folders_of_their_own(tmp_path):
    """``OUT/mp4`` of the one could be the mirrored folder ``mp4`` of the other."""
    make_media(tmp_path / "films" / "mp4" / "a.mp4", seconds=0.2)
    split, films = tmp_path / "split", tmp_path / "made"
    prepare_folder(split, {})
    reasons(split)
    (split / "wav").mkdir()
    with pytest.raises(CacheError, match="holds the clips of a split"):
        plan_folder(tmp_path / "films", split)
    plan_folder(tmp_path / "films", films)
    films.mkdir()
    (films / MADE_FILMS).touch()
    with pytest.raises(CacheError, match="folder of videos"):
        prepare_folder(films, {})
    plan_folder(tmp_path / "films", films)
