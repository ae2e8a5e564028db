"""The truth and the picture from the clips' own videos, which OUT/made.parquet names."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from common.errors import ClipError
from evaluation.__main__ import app
from evaluation.files import mark
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from evaluation.sources import TruePicture, TrueSound
from generate.clip_files import ClipFiles, write_clip
from generate.records import About, Outcome, write_made
from manifests.manifest import Clip
from presets import load_preset
from tests.media_factory import make_media, tone

PRESET = load_preset("micro")
MEDIA = PRESET.media
HEARD = [SoundInput(), SoundInput(rate=32_000, without_mean=True), SoundInput(rate=48_000, left_only=True)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Sound of another rate; sound and picture that begin late, on time stamps that do; none; quiet."""
    folder = tmp_path_factory.mktemp("sources")
    sound = np.random.default_rng(0).standard_normal(441_000).astype(np.float32) * 0.1
    sound[4 * 44_100 : 5 * 44_100] *= 3  # an onset, whatever the AAC encoder makes of the rest
    make_media(folder / "plain.mp4", audio=sound, rate=44_100)
    make_media(folder / "late.mp4", audio=sound, rate=44_100, audio_start=0.5)
    shifted(folder / "plain.mp4", folder / "shifted.mkv", 1.4)
    make_media(folder / "mute.mp4", audio=False)
    make_media(folder / "quiet.mp4", audio=tone(10, amplitude=1e-5))
    return {path.stem: path for path in folder.iterdir()}


def shifted(source, target, seconds):
    """The same packets, all later: a file whose time stamps do not begin at 0."""
    with av.open(str(source)) as given, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.size:
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return target


@pytest.fixture(scope="module")
def out(videos, tmp_path_factory):
    """What make generate writes, with all files of every clip; ``start_s`` is a place in another video."""
    out = tmp_path_factory.mktemp("out")
    clips = [Clip(name, "", 30, "l", "test", str(path)) for name, path in sorted(videos.items())]
    waveform = np.random.default_rng(1).standard_normal(160_000).astype(np.float32) * 0.1
    for clip in clips:
        write_clip(ClipFiles(clip, out, MEDIA, 16_000, True), waveform, "")
    write_made(About(PRESET, {}), clips, Outcome(), out)
    return out


@pytest.mark.parametrize("heard", HEARD, ids=str)
def test_the_true_sound_is_bit_for_bit_that_of_the_file(videos, out, heard):
    assert {path.stem for path in (out / "truth").iterdir()} == {"plain", "late", "shifted"}
    for name in ("plain", "late", "shifted"):
        ours, theirs = TrueSound(heard, MEDIA).read(videos[name]), heard.read(out / "truth" / f"{name}.wav")
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(ours).max() > 0.1
    for name, kind in (("mute", "no_audio"), ("quiet", "silent")):
        with pytest.raises(ClipError, match=kind):
            TrueSound(heard, MEDIA).read(videos[name])


@pytest.mark.parametrize("rate", [Fraction(1, 2), Fraction(25)])
def test_the_picture_begins_where_the_clip_does(videos, out, rate):
    seen = PictureInput(rate)
    for name in ("plain", "late", "shifted"):
        video = next((out / "mp4").glob(f"{name}.*"))
        np.testing.assert_array_equal(TruePicture(seen).read(videos[name]), seen.read(video))
    if rate < 1:  # it matters: as the time stamps stand, other frames are nearest
        assert (TruePicture(seen).read(videos["shifted"]) != seen.read(videos["shifted"])).any()


def evaluated(out, *more):
    words = ["--out", out, "--networks", "onsets", "--device", "cpu", *more]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return json.loads((out / "evaluation.json").read_text()), result.output


def test_evaluation_takes_the_truth_from_the_videos(out, tmp_path):
    """With and without OUT/truth and OUT/mp4 the figures are the same; a clip without truth is named."""
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    for folder in (whole, bare):
        shutil.copytree(out, folder)
    for name in ("truth", "mp4", "png"):
        shutil.rmtree(bare / name)
    found, _ = evaluated(bare)
    assert found["matched"] == ["late", "plain", "shifted"]
    assert found["missing"] == []
    assert {c: why.split(":")[0] for c, why in found["excluded"].items()} == {
        "mute (reference)": "no_audio",
        "quiet (reference)": "silent",
    }
    assert found["about"]["reference"] == "the clips' own videos"
    given, _ = evaluated(whole, "--reference", whole / "truth")
    assert given["values"] == found["values"]
    assert evaluated(bare)[0]["values"] == found["values"]  # from the kept features


def test_only_listed_clips_count_and_a_part_says_so(out, tmp_path):
    """Wavs of clips that the manifest no longer has stay where they are; one that is to come is missing."""
    shutil.copytree(out, tmp_path / "out")
    table = pq.read_table(out / "made.parquet")
    rows = [row for row in table.to_pylist() if row["clip_id"] != "late"]
    rows.append({**rows[0], "clip_id": "coming", "wav": ""})
    kept = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(kept, tmp_path / "out" / "made.parquet")
    found, text = evaluated(tmp_path / "out")
    assert found["matched"] == ["plain", "shifted"]
    assert found["missing"] == ["coming"]
    assert "Evaluation of a PART: 2 of the 3" in text
    assert "late" not in found["unmatched"]


def test_a_video_that_was_replaced_is_no_truth(videos, out, tmp_path):
    """The sound was made for another one: the clip is left out and named, also where features of both are kept."""
    shutil.copytree(out, tmp_path / "out")
    paths = {name: shutil.copy2(path, tmp_path / path.name) for name, path in videos.items()}
    table = pq.read_table(out / "made.parquet")
    rows = [{**row, "source": str(paths[row["clip_id"]])} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "out" / "made.parquet")
    assert evaluated(tmp_path / "out")[0]["matched"] == ["late", "plain", "shifted"]  # copies are the same
    shutil.copy(videos["late"], paths["plain"])
    found, _ = evaluated(tmp_path / "out")
    assert found["matched"] == ["late", "shifted"]
    assert "is another file than when its sound was made" in found["excluded"]["plain (reference)"]
    for path in paths.values():
        path.unlink()
    gone = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--networks", "onsets", "--device", "cpu"])
    assert gone.exit_code == 4
    assert "the clips' own videos (reference). To go on: give a folder of true sound" in " ".join(gone.output.split())


def test_an_out_of_versions_before(out, tmp_path):
    """Its list names no sources: truth and videos are those of the folder."""
    shutil.copytree(out, tmp_path / "out")
    table = pq.read_table(out / "made.parquet")
    pq.write_table(table.drop_columns(["source"]), tmp_path / "out" / "made.parquet")
    (tmp_path / "out/truth/late.wav").unlink()
    found, _ = evaluated(tmp_path / "out")
    assert found["matched"] == ["plain", "shifted"]
    assert found["about"]["reference"].endswith("truth")


def test_a_damaged_list_is_an_error_that_says_what_to_do(out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "made.parquet").write_bytes(b"PAR1")
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--networks", "onsets"])
    assert result.exit_code == 6
    assert "run that again" in result.output


def test_the_version_of_a_video_in_a_tar_is_that_of_its_bytes(videos, tmp_path):
    import tarfile

    for name in ("one.tar", "two.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(videos["mute" if name == "two.tar" else "plain"], "first.mp4")
            tar.add(videos["plain"], "plain.mp4")
    version = mark(tmp_path / "one.tar" / "plain.mp4")
    assert version.size == videos["plain"].stat().st_size
    assert version.digest == mark(videos["plain"]).digest
    assert version.still(tmp_path / "two.tar" / "plain.mp4").digest == version.digest
    assert version.still(tmp_path / "two.tar" / "first.mp4") is None
    ours = TrueSound(SoundInput(), MEDIA).read(tmp_path / "one.tar" / "plain.mp4")
    np.testing.assert_array_equal(ours, TrueSound(SoundInput(), MEDIA).read(videos["plain"]))
    seen = TruePicture(PictureInput(Fraction(1, 2)))
    np.testing.assert_array_equal(seen.read(tmp_path / "one.tar" / "plain.mp4"), seen.read(videos["plain"]))
