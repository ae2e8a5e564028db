"""Figure 2 of real films: what is read of each clip, where it is drawn, and what is said where it cannot be."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import InputError
from evaluation.__main__ import app
from evaluation.figure2 import choose_clips, draw_figure2, read_column
from evaluation.systems import read_systems
from generate.clip_files import ClipFiles, write_clip
from generate.pictures import HOP, RATE, log_mel, mel_bin
from generate.records import About, Outcome, write_made
from manifests.manifest import Clip
from pipeline.media import decode_waveform
from pipeline.media.writing import read_wav, write_wav
from presets import load_preset
from tests.media_factory import make_media, tone

PRESET = load_preset("micro")
IDS = ["bark", "mute", "rain"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One OUT of a split, and what another system made of the folder of videos: 8 s, at another rate, in folders."""
    root = tmp_path_factory.mktemp("figure")
    make_media(root / "videos/dog/bark.mp4", fps=5, size=(96, 160), audio=tone(10, frequency=1000))
    make_media(root / "videos/dog/mute.mp4", fps=5, audio=False)
    make_media(root / "videos/rain/rain.mp4", fps=5, size=(160, 96), audio=tone(10, frequency=300))
    videos = {path.stem: path for path in (root / "videos").rglob("*.mp4")}
    clips = [Clip(name, "", 0, f"a ${name}$", "test", str(videos[name])) for name in IDS]
    for number, clip in enumerate(clips):
        write_clip(ClipFiles(clip, root / "out", PRESET.media, RATE, True), tone(10, frequency=500 + number), "")
        sound = tone(8, rate=44_100, frequency=2000)
        write_wav(root / "other" / videos[clip.clip_id].parent.name / f"{clip.clip_id}.wav", sound, 44_100)
    write_made(About(PRESET, {}), clips, Outcome(), root / "out")
    return root


@pytest.fixture
def copied(made, tmp_path):
    """To be spoilt; the videos are where they were."""
    for name in ("out", "other"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def systems(root):
    return read_systems([f"MFM-Mapper={root / 'out'}", f"V2A-Mapper={root / 'other'}"])


def figure2(root, *arguments, code=0):
    words = ["--out", f"MFM-Mapper={root / 'out'}", "--out", f"V2A-Mapper={root / 'other'}", *map(str, arguments)]
    result = CliRunner().invoke(app, ["figure2", *words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_a_column_has_the_clips_own_picture_and_sound_and_those_of_the_systems(made):
    column = read_column("bark", systems(made))
    assert (column.label, column.seconds) == ("a $bark$", 10.0)
    assert column.aspect == pytest.approx(160 / 96)
    np.testing.assert_array_equal(column.truth, decode_waveform(made / "videos/dog/bark.mp4", PRESET.media))
    assert [round(column.frames[at].mean()) for at in (0, 20, 39)] == pytest.approx([10, 110, 205], abs=4)
    np.testing.assert_array_equal(column.sounds["MFM-Mapper"], read_wav(made / "out/wav/bark.wav")[0])
    other = column.sounds["V2A-Mapper"]
    assert len(other) == 8 * RATE
    assert np.abs(np.fft.rfft(other)).argmax() / 8 == pytest.approx(2000, abs=1)


def test_where_a_sound_is_drawn():
    """A click at 3 s in a tone of 1 kHz: the frame and the bin of the log-mel, by the axes of the figure."""
    sound = 0.01 * tone(10, frequency=1000)
    sound[3 * RATE] = 1.0
    click = log_mel(np.pad(sound, 512))[100:].sum(axis=0).argmax()
    assert click * HOP / RATE == pytest.approx(3, abs=0.03)
    assert log_mel(sound)[:, 600].argmax() == pytest.approx(mel_bin(1000), abs=0.6)


def test_all_panels_share_time_and_colours(made):
    chosen = choose_clips(systems(made), ["bark", "rain"], 3)
    columns = [read_column(clip_id, systems(made)) for clip_id in chosen]
    columns[1] = replace(columns[1], sounds={name: 0.1 * sound for name, sound in columns[1].sounds.items()})
    figure = draw_figure2(columns)
    figure.draw_without_rendering()  # the layout is made
    grid = np.array([axes for axes in figure.axes if axes.get_label() != "<colorbar>"]).reshape(4, 2)
    for number, column in enumerate(grid.T):
        ends = {(round(axes.get_position().x0, 6), round(axes.get_position().x1, 6)) for axes in column}
        assert len(ends) == 1
        assert {axes.get_xlim() for axes in column} == {(0, 10)}
        assert column[0].get_title() == columns[number].label
        assert len(column[0].images) == 8
    shown = [axes.images[0] for axes in grid[1:].ravel()]
    assert {image.get_clim() for image in shown} == {(-70.0, 0.0)}
    peaks = np.array([image.get_array().max() for image in shown]).reshape(3, 2)
    assert peaks.max() == 0
    np.testing.assert_allclose(peaks[1:, 0] - peaks[1:, 1], 20, atol=0.2)  # quieter by 20 dB, and darker
    assert shown[4].get_extent()[1] == pytest.approx(8, abs=0.02)  # no silence where there is no sound
    assert [axes.get_ylabel() for axes in grid[1:, 0]] == ["truth\nkHz", "MFM-Mapper\nkHz", "V2A-Mapper\nkHz"]


def test_the_command_writes_the_first_clips_that_all_have(made, tmp_path):
    (tmp_path / "other/rain").mkdir(parents=True)
    shutil.copytree(made / "out", tmp_path / "out")
    shutil.copy(made / "other/rain/rain.wav", tmp_path / "other/rain")
    said = figure2(tmp_path, "--to", tmp_path / "new/figure.png")
    assert "clips rain" in said
    with Image.open(tmp_path / "new/figure.png") as image:
        assert min(image.size) > 500
    figure2(tmp_path, "--to", tmp_path / "figure.pdf", "--videos", made / "videos")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_where_the_video_is_gone_the_copies_in_out_are_shown(made, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(made / "videos", videos)
    clip = Clip("bark", "", 0, "dog", "test", str(videos / "dog/bark.mp4"))
    write_clip(ClipFiles(clip, tmp_path / "out", PRESET.media, RATE, True), tone(10), "")
    write_made(About(PRESET, {}), [clip], Outcome(), tmp_path / "out")
    there = read_column("bark", read_systems([str(tmp_path / "out")]))
    shutil.rmtree(videos)
    gone = read_column("bark", read_systems([str(tmp_path / "out")]))
    np.testing.assert_array_equal(gone.frames, there.frames)
    np.testing.assert_allclose(gone.truth, there.truth, atol=1 / 32768)
    shutil.rmtree(tmp_path / "out/truth")
    said = figure2_of(tmp_path / "out", code=4)
    assert "clip 'bark' has no true sound to show (its video is gone)" in said
    shutil.rmtree(tmp_path / "out/mp4")
    said = figure2_of(tmp_path / "out", code=4)
    assert "there is no video of clip 'bark'" in said
    assert "bark.mp4 is gone" in said
    make_media(videos / "dog/bark.mp4", fps=5, seconds=4)
    assert "is another file than when the sound" in figure2_of(tmp_path / "out", code=4)


def test_sound_of_another_video_of_the_same_name_is_not_shown_beside(made, tmp_path):
    path = make_media(tmp_path / "bark.mp4", fps=5, seconds=4)
    clip = Clip("bark", "", 0, "dog", "test", str(path))
    write_clip(ClipFiles(clip, tmp_path / "out", PRESET.media, RATE, False), tone(10), "")
    write_made(About(PRESET, {}), [clip], Outcome(), tmp_path / "out")
    both = read_systems([f"one={made / 'out'}", f"two={tmp_path / 'out'}"])
    with pytest.raises(InputError, match=r"'bark' is another video in .*out \(two\) than in .*out \(one\): .*bark.mp4"):
        read_column("bark", both)
    assert read_column("bark", both[1:]).label == "dog"


def figure2_of(out, code):
    result = CliRunner().invoke(app, ["figure2", "--out", str(out), "--to", str(out / "f.png")])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--clip", "cat"), "there is no sound of clip 'cat' in"),
        (("--clip", "mute"), "clip 'mute' has no true sound to show (no_audio"),
        (("--out", "gone=nowhere"), "nowhere is not a folder"),
        (("--out", "=nowhere"), "give NAME=FOLDER"),
        (("--out", "MFM-Mapper=."), "--out names MFM-Mapper twice"),
        (("--out", "tests=empty"), "(tests) holds no sound"),
        (("--to", "figure.gif"), "a figure is one of .png, .pdf, .svg"),
        (("--videos", "empty"), "there is no video of clip 'bark' in empty"),
        (("--videos", "nowhere"), "--videos nowhere is not a folder"),
    ],
)
def test_what_cannot_be_shown_is_named(made, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert says in figure2(made, "--clip", "bark", *arguments, code=4)
    assert not (tmp_path / "outputs").exists()


def test_sounds_that_share_no_clip(copied):
    shutil.rmtree(copied / "other/rain")
    for path in (copied / "other/dog").iterdir():
        path.rename(path.with_stem(f"no-{path.stem}"))
    assert "room for 12 clips" in figure2(copied, "--count", 13, code=4)
    assert "no clip is in all of the folders" in figure2(copied, "--to", copied / "f.png", code=4)


def test_damaged_files_are_named(copied):
    (copied / "other/dog/bark.wav").write_bytes(b"no sound")
    said = figure2(copied, "--to", copied / "f.png", "--clip", "bark", code=4)
    assert "clip 'bark' cannot be shown: unreadable" in said
    (copied / "out/made.parquet").write_bytes(b"PAR1")
    assert "made.parquet is damaged" in figure2(copied, "--to", copied / "f.png", code=6)
