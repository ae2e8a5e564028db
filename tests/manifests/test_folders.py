"""Folders as people have them: links, forbidden places, names of every kind."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ClipError, InputError
from manifests.builders import clips_from_folder
from manifests.folders import VIDEO_SUFFIXES, find_videos
from manifests.manifest import make_manifest, read_manifest, write_manifest
from manifests.names import MAX_ID_BYTES, id_fault, ids_of_files, safe_id
from pipeline.decoding import DecodePool
from pipeline.probing import probe_clips
from tests.media_factory import make_media


def put(folder, *names):
    """Files of these names; where links go, ``name -> target``."""
    for name in names:
        name, _, target = name.partition(" -> ")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        else:
            path.write_bytes(b"x")
    return folder


def ids(folder):
    return sorted(clip.clip_id for clip in clips_from_folder(folder))


# What lies in the folder (``name -> target`` is a link), the ids of its clips, and what is named as left out.
TREES = {
    "a loop at the top": (["a.mp4", "loop -> ."], ["a"], ["loop"]),
    "a loop below": (["x/a.mp4", "x/up -> .."], ["a"], ["x/up"]),
    "a loop of two": (["x/a.mp4", "y/b.mp4", "x/y -> ../y", "y/x -> ../x"], ["a", "b"], []),
    "a folder by two names": (["x/a.mp4", "b -> x"], ["a"], []),
    "a link out and back": (["in/a.mp4", "in/up -> ../.."], ["a"], ["in/up"]),
    "a link to nothing": (["a.mp4", "disk2 -> /nowhere/at/all"], ["a"], ["disk2"]),
    "a link to itself": (["a.mp4", "b -> b"], ["a"], ["b"]),
    "hidden and temporary": (
        ["a.mp4", "._a.mp4", ".a.123.tmp.mp4", ".trash/b.mp4", ".mfm-0123456789ab-12-3-01234567.tmp.mp4"],
        ["a"],
        [],
    ),
    "one name, two kinds": (["a.mp4", "a.mkv"], ["a", "a__mkv"], []),
    "one name, two cases": (["a.mp4", "a.MP4"], ["a", "a__mp4"], []),
    "one name, two folders": (["x/a.mp4", "y/a.mp4", "a.mov"], ["a", "x__a", "y__a"], []),
    "both": (["x/a.mp4", "x/a.webm", "y/a.mp4"], ["x__a", "x__a__webm", "y__a"], []),
    "one VGGSound clip twice": (
        ["abcdefghijk_000007.mp4", "abcdefghijk_7000_17000.mp4", "abcdefghijk_7_17.mkv"],
        ["abcdefghijk_000007", "abcdefghijk_000007__mkv", "abcdefghijk_000007__mp4"],
        [],
    ),
    "markup": (["Clip [official].mp4", "a[/x].mp4", "a$b.mp4"], ["Clip [official]", "a$b", "x]"], []),
    "every kind": ([f"{s[1:]}{s.upper()}" for s in VIDEO_SUFFIXES], sorted(s[1:] for s in VIDEO_SUFFIXES), []),
    "other files": (["a.mp4", "a.txt", "a.wav", "a.mp4.part", "mp4"], ["a"], []),
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_found(name, tmp_path):
    files, expected, left_out = TREES[name]
    folder = put(tmp_path / "parent" / "videos", *files)
    put(tmp_path / "parent", "beside.mp4")  # never reached, whatever leads up
    assert ids(folder) == expected
    assert sorted(clips_from_folder(folder).left_out) == [str(folder / path) for path in left_out]


def test_links_to_other_places_are_followed(tmp_path):
    other = put(tmp_path / "disk2", "b.mp4", "sub/c.mp4")
    folder = put(tmp_path / "videos", "a.mp4", f"more -> {other}", f"d.mp4 -> {other}/b.mp4")
    assert ids(folder) == ["a", "b", "c", "d"]
    clips = {clip.clip_id: clip for clip in clips_from_folder(folder)}
    assert (clips["b"].label, clips["c"].label) == ("more", "sub")


def test_a_name_that_is_not_utf8_is_named_and_left_out(tmp_path):
    folder = put(tmp_path, "a.mp4")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")).write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/notes\xe9.txt")).write_bytes(b"x")
    os.mkdir(os.fsencode(folder) + b"/dir\xe9")
    clips = clips_from_folder(folder)
    assert [clip.clip_id for clip in clips] == ["a"]
    assert sorted(os.path.basename(os.fsencode(path)) for path in clips.left_out) == [b"caf\xe9.mp4", b"dir\xe9"]
    assert all("not UTF-8" in reason for reason in clips.left_out.values())
    write_manifest(make_manifest(clips, 2), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="not UTF-8"):
        find_videos(os.fsdecode(os.fsencode(folder) + b"/dir\xe9"))


@contextmanager
def nobody():
    """An ordinary user, also where the tests are root's, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class InThisProcess(DecodePool):
    """Nobody may not start the tests' interpreter."""

    def map(self, calls):
        for call in calls:
            try:
                yield call.function(*call.arguments)
            except ClipError as error:
                yield error


def test_places_that_may_not_be_read(monkeypatch):
    monkeypatch.setattr("pipeline.probing.DecodePool", InThisProcess)
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    try:
        folder.chmod(0o755)
        make_media(folder / "a.mp4", seconds=0.2, audio=None)
        put(folder, "locked/b.mp4", "c.mp4 -> locked/b.mp4", "way -> locked")
        (folder / "locked").chmod(0)
        with nobody():
            found = clips_from_folder(folder)
            clips = probe_clips(found)
            assert found.left_out == {
                str(folder / "locked"): "the folder cannot be read: Permission denied",
                str(folder / "c.mp4"): "Permission denied",
            }
            # The same, in a manifest that was made when it could be read.
            (listed,) = probe_clips([replace(clips[0], path=str(folder / "c.mp4"))])
            with pytest.raises(InputError, match="cannot be read: Permission denied"):
                clips_from_folder(folder / "locked")
        assert [(clip.clip_id, clip.status) for clip in clips] == [("a", "ok")]
        assert (listed.status, "Permission denied" in listed.reason) == ("unreadable", True)
    finally:
        (folder / "locked").chmod(0o755)
        shutil.rmtree(folder)


def test_a_link_longer_than_names_may_be(tmp_path):
    folder = put(tmp_path, "a.mp4", f"b.mp4 -> {'x' * 300}", f"c -> {'x' * 300}")
    found = clips_from_folder(folder)
    assert sorted(clip.clip_id for clip in found) == ["a"]
    assert sorted(found.left_out) == [str(folder / "b.mp4"), str(folder / "c")]


@pytest.mark.parametrize("size", range(247, 252))
def test_names_as_long_as_they_may_be(tmp_path, size):
    put(tmp_path, "ü" * (size // 2) + "x" * (size % 2) + ".mp4")
    (clip,) = clips_from_folder(tmp_path)
    assert len(clip.clip_id.encode()) == size
    assert id_fault(clip.clip_id) is None
    put(tmp_path, f"folder/{Path(clip.path).name}")  # both ids get longer than a name may be
    assert all(id_fault(name) is None for name in ids(tmp_path))
    assert len(set(ids(tmp_path))) == 2


def test_control_characters_in_names(tmp_path):
    put(tmp_path, "a\nb.mp4", "a\tb.mp4", "a\x1b[2Jb.mp4")
    found = clips_from_folder(tmp_path)
    assert len({clip.clip_id for clip in found}) == 3
    manifest = make_manifest(found, 2)
    write_manifest(manifest, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet") == manifest
    assert {Path(clip.path).name for clip in manifest.clips} == {"a\nb.mp4", "a\tb.mp4", "a\x1b[2Jb.mp4"}


def test_nothing_to_find(tmp_path):
    put(tmp_path, "notes.txt", "up -> ..")
    with pytest.raises(InputError, match=r"(?s)holds no videos \(\.mp4.*up: it is a link back"):
        find_videos(tmp_path)
    for folder, said in (("none", "does not exist"), ("notes.txt", "is not a folder"), ("a\0b", "does not exist")):
        with pytest.raises(InputError, match=said):
            find_videos(tmp_path / folder)


# --- ids ------------------------------------------------------------------------------------------------------

stems = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)
suffixes = st.sampled_from([".mp4", ".mkv", ".MP4", ".gif"])
paths = st.builds(
    lambda folders, stem, suffix: PurePosixPath(*folders, f"{stem}{suffix}"),
    st.lists(st.sampled_from(["a", "b", "a__b", "train"]), max_size=3),
    stems | st.sampled_from(["x", "a__x", "abcdefghijk_000007", "abcdefghijk_7_17", "x" * 251]),
    suffixes,
)


@given(st.lists(paths, unique=True, max_size=12), st.randoms(use_true_random=False))
def test_ids_are_safe_distinct_and_the_same_in_any_order(found, dice):
    made = dict(zip(found, ids_of_files(found, VIDEO_SUFFIXES), strict=True))
    assert len(set(made.values())) == len(found)
    assert [clip_id for clip_id in made.values() if id_fault(clip_id)] == []
    dice.shuffle(found)
    assert dict(zip(found, ids_of_files(found, VIDEO_SUFFIXES), strict=True)) == made


plain = st.builds(
    lambda folder, stem, suffix: PurePosixPath(folder, f"{stem}{suffix}"),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from("xyz"),
    suffixes,
)


@given(st.lists(plain, unique=True, max_size=8), plain)
def test_a_file_that_is_added_changes_no_id_of_another_name(found, added):
    before = dict(zip(found, ids_of_files(found, VIDEO_SUFFIXES), strict=True))
    more = [*found, *([added] if added not in found else [])]
    after = dict(zip(more, ids_of_files(more, VIDEO_SUFFIXES), strict=True))
    assert {p: i for p, i in before.items() if p.stem != added.stem} == {
        p: after[p] for p in before if p.stem != added.stem
    }


def test_a_second_kind_of_file_leaves_the_first_its_id(tmp_path):
    for name, added in (("a.mp4", "a.mkv"), ("b.mkv", "b.gif")):
        before = ids(put(tmp_path / name, name))
        assert set(before) < set(ids(put(tmp_path / name, added)))


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_makes_an_id(one, other):
    for text in (one, other):
        if text:
            assert id_fault(safe_id(text)) is None
            assert safe_id(safe_id(text)) == safe_id(text)
            assert len(safe_id(text).encode()) <= MAX_ID_BYTES
    if one and other and one != other:
        assert safe_id(one) != safe_id(other)


def test_what_was_generated_does_not_come_back_as_the_truth(tmp_path):
    """OUT below the folder of videos: a second extraction took generated sound for that of new clips."""
    put(tmp_path, "train/dog/a.mp4", "train/dog/mp4/b.mp4")
    assert ids(tmp_path) == ["a", "b"]
    put(tmp_path, *(f"train/dog/{name}" for name in ("made.parquet", "settings.json", "wav/a.wav", "mp4/a.mp4")))
    found = clips_from_folder(tmp_path)
    assert [clip.clip_id for clip in found] == ["a"]
    assert "make generate made" in found.left_out[str(tmp_path / "train" / "dog" / "mp4")]
