"""Uploads and results go: an hour after they were written, with the page, and after a page that was killed."""

import os
import tempfile
import time

import pytest

from app.place import PREFIX, Place, remove_abandoned
from common.errors import WriteError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def aged(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"film")
    for each in (path, path.parent):
        os.utime(each, (time.time() - seconds,) * 2)
    return path


def test_old_files_go_and_what_is_used_stays():
    with Place(kept_seconds=100) as place:
        old, new = aged(place.files / "a" / "old.mp4", 200), aged(place.files / "b" / "new.mp4", 50)
        upload, result = aged(place.files / "c" / "upload.mp4", 200), aged(place.files / "d" / "result.wav", 200)
        example = aged(place.examples / "example.mp4", 200)
        with place.using(upload, result.parent):
            place.sweep()
            assert not old.parent.exists()
            assert all(path.exists() for path in (new, upload, result, example, place.files))
        place.sweep()
        assert not upload.exists()
        assert not result.parent.exists()
        assert new.exists()
        assert example.exists()


def test_the_sweeper_runs_by_itself():
    with Place(kept_seconds=0.2) as place:
        path = aged(place.files / "a" / "old.mp4", 60)
        deadline = time.monotonic() + 20
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not path.exists()


def test_all_goes_with_the_page_and_it_is_nobody_elses(temporary):
    with Place() as place:
        (place.new_folder() / "film.mp4").write_bytes(b"film")
        assert place.folder.stat().st_mode & 0o077 == 0
    assert list(temporary.iterdir()) == []


def test_what_a_killed_page_left_goes_and_a_living_one_stays(temporary):
    dead = aged(temporary / f"{PREFIX}dead" / ".in-use", 0).parent  # its lock ended with it
    aged(dead / "files" / "film.mp4", 0)
    other = aged(temporary / "mfm-mapper-page" / ".in-use", 0)
    with Place() as place:
        assert not dead.exists()
        remove_abandoned()
        assert place.files.is_dir()
    assert other.exists()


def test_no_room_is_said(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "nowhere"))
    with pytest.raises(WriteError, match="nowhere"), Place():
        pass
