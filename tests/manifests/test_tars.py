"""Videos in WebDataset shards, written by the libraries that people write them with."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset

from common.errors import ClipError
from generate.mux import mux
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from manifests.tars import find_member, label_of
from pipeline.cache import open_store
from pipeline.encoders import load_encoder
from pipeline.extract import Extractor
from pipeline.media import check_file, decode_clip, probe
from pipeline.probing import probe_clips
from pipeline.sources import SourceFile
from presets import load_preset
from tests.media_factory import make_media, tone


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [make_media(folder / f"{number}.mp4", audio=tone(10, frequency=220 * (number + 1))) for number in range(2)]


@pytest.fixture
def shards(tmp_path, films):
    """Two shards as video2dataset leaves them, one of them beside a clip that could not be fetched."""
    said = [{"key": "000000", "caption": "dog  barking", "status": "success"}, {"key": "000001", "label": "a bell"}]
    for number, split in enumerate(("train", "test")):
        (tmp_path / "set" / split).mkdir(parents=True)
        with webdataset.TarWriter(str(tmp_path / "set" / split / f"0000{number}.tar")) as writer:
            writer.write({"__key__": f"00000{number}", "mp4": films[number].read_bytes(), "json": said[number]})
            writer.write({"__key__": f"00001{number}", "json": {"status": "failed_to_download", "caption": "lost"}})
    return tmp_path / "set"


def test_clips_with_label_and_split(shards):
    clips = probe_clips(clips_from_folder(shards))
    assert [(clip.clip_id, clip.label, clip.split, clip.status) for clip in clips] == [
        ("000001", "a bell", "test", "ok"),
        ("000000", "dog barking", "train", "ok"),
    ]
    assert all(clip.has_audio and clip.bytes for clip in clips)


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_decoded_as_the_file_itself(backend, shards, films):
    media = load_preset("micro").media
    inside = shards / "train" / "00000.tar" / "000000.mp4"
    ours, theirs = (decode_clip(path, media, backend=backend) for path in (inside, films[0]))
    assert np.array_equal(ours.frames, theirs.frames)
    assert np.array_equal(ours.waveform, theirs.waveform)
    assert probe(inside) == probe(films[0])


def test_extracted_where_they_lie(shards, films, tmp_path):
    preset = load_preset("micro", ["cache.decode_workers=1", "cache.dtype=float32"])
    manifest = make_manifest(probe_clips(clips_from_folder(shards)), 4)
    store = open_store(tmp_path / "cache")
    with Extractor(manifest, store, preset, ["audiomae"]) as extractor:
        extractor.run([0])
    content = store.read("audiomae", 0)
    waveforms = np.stack([decode_clip(path, preset.media).waveform for path in films])
    wanted = load_encoder("audiomae", preset=preset).encode(waveforms)
    assert content.clip_ids == ("000000", "000001")
    assert np.allclose(content.features, wanted, atol=1e-5)


def test_the_picture_is_copied_out_of_a_tar(shards, tmp_path):
    out = tmp_path / "out.mp4"
    mux(shards / "train" / "00000.tar" / "000000.mp4", np.zeros(160_000, np.float32), 16_000, out)
    assert probe(out).has_audio
    assert probe(out).duration_s == pytest.approx(10, abs=0.1)


def test_a_tar_that_is_written_again_is_noticed(shards, films):
    tar = shards / "train" / "00000.tar"
    recorded = SourceFile(tar / "000000.mp4").state
    content = tar.read_bytes()
    tar.write_bytes(content)  # another time, the same bytes
    assert SourceFile(tar / "000000.mp4").same_as(recorded)
    with webdataset.TarWriter(str(tar)) as writer:
        writer.write({"__key__": "000000", "mp4": films[1].read_bytes()})
    assert not SourceFile(tar / "000000.mp4").same_as(recorded)


def test_damaged_tars_are_named_and_what_is_whole_is_taken(shards, films):
    cut = shards / "train" / "00002.tar"
    with webdataset.TarWriter(str(cut)) as writer:
        for number in (20, 21):
            writer.write({"__key__": f"0000{number}", "mp4": films[0].read_bytes()})
    cut.write_bytes(cut.read_bytes()[: -films[0].stat().st_size // 2])
    (shards / "train" / "00003.tar").write_bytes(b"no tar at all" * 100)
    with tarfile.open(shards / "train" / "00004.tar", "w:gz") as file:
        file.add(films[0], "000040.mp4")
    clips = clips_from_folder(shards)
    left_out = {name.rsplit("/", 1)[-1]: reason for name, reason in clips.left_out.items()}
    assert sorted(left_out) == ["00002.tar", "00003.tar", "00004.tar"]
    assert "damaged" in left_out["00002.tar"]
    status = {clip.clip_id: clip.status for clip in probe_clips(clips)}
    assert status["000020"] == "ok"
    assert status.get("000021") != "ok" or decode_fault(cut / "000021.mp4") == "truncated"


def decode_fault(path):
    with pytest.raises(ClipError) as caught:
        decode_clip(path, load_preset("micro").media)
    return caught.value.kind


def test_what_is_not_in_a_tar(shards, tmp_path):
    tar = shards / "train" / "00000.tar"
    assert find_member(tar / "000000.mp4").read()[4:8] == b"ftyp"
    for path in (tar / "other.mp4", tmp_path / "none.tar" / "a.mp4", tmp_path / "a.mp4"):
        assert find_member(path) is None
        with pytest.raises(ClipError, match="missing_file"):
            check_file(path)
    assert label_of(tmp_path / "a.mp4") == ""


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("./a.mp4", "a.mp4"),  # as ``tar -cf x.tar .`` writes it
        ("b//a.mp4", "b/a.mp4"),
        ("/etc/a.mp4", "etc/a.mp4"),
        ("b/../../a.mp4", "a.mp4"),
        ("b.tar/a.mp4", "b.tar/a.mp4"),
    ],
)
def test_names_are_below_the_tar_as_when_it_is_unpacked(name, below, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        file.addfile(entry, io.BytesIO(b"x"))
    (clip,) = clips_from_folder(tmp_path)
    assert clip.path == str(tmp_path / "x.tar" / below)
    check_file(tmp_path / "x.tar" / below)
    assert find_member(tmp_path / "x.tar" / name.lstrip("/")).read() == b"x"


@pytest.mark.parametrize(
    ("side", "label"),
    [
        ({"a.txt": b"rain\n"}, "rain"),
        ({"a.json": json.dumps({"caption": None, "label": "wind"}).encode()}, "wind"),
        ({"a.json": b"{broken", "a.txt": b"rain"}, "rain"),
        ({"a.json": b"[1, 2]"}, ""),
        ({"a.json": b'{"label": 7}', "a.txt": b"\xff\xfe"}, ""),
        ({}, ""),
    ],
)
def test_labels_of_side_files(side, label, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, data in {"a.mp4": b"x", **side}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    assert label_of(tmp_path / "x.tar" / "a.mp4") == label
