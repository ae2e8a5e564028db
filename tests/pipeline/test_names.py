import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.names import MAX_ID_BYTES, check_id

HOSTILE = [
    "../../victim",
    "/etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "x" * 252,
    "ü" * 126,
]


@pytest.mark.parametrize("clip_id", HOSTILE)
def test_ids_that_name_no_file_are_refused(clip_id):
    with pytest.raises(InputError, match="cannot be the name of a file") as caught:
        check_id(clip_id)
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("clip_id", ["-rf", "-0jeONf82dE_000021", "a b", "100% #1?", "é$x_{$", "x" * MAX_ID_BYTES])
def test_odd_ids_that_are_fine(clip_id, tmp_path):
    (tmp_path / f"{check_id(clip_id)}.wav").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [f"{clip_id}.wav"]


@given(st.text(max_size=260))
def test_what_passes_stays_in_its_folder(tmp_path_factory, clip_id):
    try:
        check_id(clip_id)
    except InputError:
        return
    folder = tmp_path_factory.mktemp("f")
    path = folder / f"{clip_id}.wav"
    path.write_text("x")
    assert os.listdir(folder) == [path.name]
    assert Path(os.path.normpath(path)).parent == folder
