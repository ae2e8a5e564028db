"""``python -m generate VIDEO`` in this process, on real files: what is written where, and what never is."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from common.errors import WriteError
from generate.sampling import Sampler
from pipeline.media.writing import read_wav
from tests.generate.test_mux import make_picture, pictures, sound_of
from tests.media_factory import make_media
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1)


@pytest.fixture
def no_sampling(monkeypatch):
    """Nothing is computed: what is refused is refused before."""

    def refuse(*arguments, **options):
        raise AssertionError("the sampler was loaded")

    monkeypatch.setattr("generate.video_to_audio.VideoToAudio.from_pretrained", refuse)
    monkeypatch.setattr("generate.sampling.load_sampler", refuse)


def link(kind, there, here):
    {"symlink": os.symlink, "hardlink": os.link}[kind](there, here)


class TestInputsAreNeverWrittenOver:
    @pytest.fixture(autouse=True)
    def videos(self, tmp_path, clip, no_sampling):
        self.folder = tmp_path / "clips"
        self.folder.mkdir()
        self.video = self.folder / "a.mp4"
        self.video.write_bytes(clip.read_bytes())
        yield
        assert self.video.read_bytes() == clip.read_bytes()
        assert not list(tmp_path.rglob("*.wav"))

    @pytest.mark.parametrize("asked", ["clips", "clips/a.mp4", "clips/../clips/a.mp4"])
    def test_by_name(self, generate, tmp_path, asked):
        text = generate(self.video, "-o", tmp_path / asked, code=6)
        assert "never written over" in text

    @pytest.mark.parametrize("kind", ["symlink", "hardlink"])
    def test_through_a_link(self, generate, tmp_path, kind):
        link(kind, self.video, tmp_path / "other.mp4")
        assert "never written over" in generate(self.video, "-o", tmp_path / "other.mp4", code=6)
        assert "never written over" in generate(tmp_path / "other.mp4", "-o", self.video, code=6)

    def test_through_a_linked_folder(self, generate, tmp_path):
        link("symlink", self.folder, tmp_path / "same")
        assert "never written over" in generate(self.video, "-o", tmp_path / "same", code=6)

    def test_matroska_by_itself_would_be_the_input(self, generate):
        video = make_picture(self.folder / "b.mkv", "libvpx")
        before = video.read_bytes()
        assert "never written over" in generate(video, "-o", self.folder / "b.mp4", code=6)
        assert video.read_bytes() == before


class TestOutputsThatCannotBe:
    """Each is said before any work, with exit code 6, and the input is not blamed."""

    @pytest.fixture(autouse=True)
    def nothing_is_computed(self, no_sampling):
        pass

    def refused(self, generate, clip, out):
        text = generate(clip, "-o", out, code=6)
        assert text.split("\n", 1)[1].startswith("error: cannot write")
        assert "To go on" in text
        assert "unreadable" not in text
        return text

    def test_a_folder_of_that_name(self, generate, clip, tmp_path):
        (tmp_path / "x.mp4").mkdir()
        assert "a folder of this name" in self.refused(generate, clip, tmp_path / "x.mp4")

    def test_below_a_file(self, generate, clip, tmp_path):
        (tmp_path / "file").write_text("x")
        for out in ("file/x.mp4", "file/deep/x.wav", "file/folder"):
            assert "is a file, not a folder" in self.refused(generate, clip, tmp_path / out)

    def test_a_device(self, generate, clip):
        assert "/dev/null" in self.refused(generate, clip, "/dev/null")

    @pytest.mark.parametrize("name", ["x.avi", "x.mp3", "x.MP5", "x.v2"])
    def test_an_unknown_kind(self, generate, clip, tmp_path, name):
        text = self.refused(generate, clip, tmp_path / name)
        assert ".mp4, .m4v, .mov, .mkv, .webm" in text
        assert list(tmp_path.iterdir()) == []

    def test_a_name_that_is_too_long(self, generate, clip, tmp_path):
        assert "longer than the file system allows" in self.refused(generate, clip, tmp_path / ("n" * 300 + ".mp4"))

    def test_no_permission(self, generate, clip, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
        assert "permission denied" in self.refused(generate, clip, tmp_path / "new" / "x.mp4")

    def test_what_this_program_did_not_make_and_nobody_named(self, generate, clip, tmp_path):
        """x.wav beside x.mp4 may be the user's own recording."""
        (tmp_path / "x.wav").write_bytes(b"mine")
        assert "did not make" in self.refused(generate, clip, tmp_path / "x.mp4")
        assert (tmp_path / "x.wav").read_bytes() == b"mine"

    def test_h264_in_webm(self, generate, clip, tmp_path):
        assert "holds no H.264" in generate(clip, "-o", tmp_path / "x.webm", "--video-codec", "h264", code=4)

    def test_an_unknown_codec(self, generate, clip, tmp_path):
        assert "auto, copy, h264" in generate(clip, "-o", tmp_path / "x.mp4", "--video-codec", "divx", code=4)


@pytest.mark.parametrize(
    ("asked", "codec", "options", "written", "kept", "note"),
    [
        ("o.mp4", "libx264", (), "o.mp4", "h264", ""),
        ("o.MOV", "libx264", (), "o.MOV", "h264", ""),
        ("o.webm", "libvpx", (), "o.webm", "vp8", ""),
        ("o.mp4", "libvpx", (), "o.mkv", "vp8", "vp8 cannot be copied into .mp4: .mkv is written"),
        ("o.mp4", "libvpx", ("--video-codec", "h264"), "o.mp4", "h264", ""),
        ("o.mp4", "wmv2", (), "o.mp4", "h264", "it is encoded again as H.264"),
        ("folder", "libvpx", (), "folder/in.mkv", "vp8", "vp8 cannot be copied"),
    ],
)
def test_what_is_written(generate, tmp_path, asked, codec, options, written, kept, note):
    source = make_picture(tmp_path / ("in.wmv" if codec == "wmv2" else "in.mkv"), codec)
    text = generate(source, "-o", tmp_path / asked, *options)
    assert note in text
    assert ("note:" in text.split("seeded random")[1]) == bool(note)
    with av.open(str(tmp_path / written)) as file:
        assert file.streams.video[0].codec_context.codec.canonical_name == kept
        assert file.duration / av.time_base == pytest.approx(1, abs=0.1)
    wav = (tmp_path / written).with_suffix(".wav")
    waveform, rate = read_wav(wav)
    assert (len(waveform), rate) == (16_000, 16_000)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {source.name, written, wav.relative_to(tmp_path).as_posix()}
    if asked == "folder":
        generate(source, "-o", tmp_path / asked, *options)  # again: what this program made, it may write over


def test_sound_alone(generate, clip, tmp_path):
    generate(clip, "-o", tmp_path / "a.wav")
    generate(clip, "-o", tmp_path / "b.WAV")
    generate(clip, "-o", tmp_path / "c.flac")
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "b.WAV", "c.flac"}
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.WAV").read_bytes()
    with av.open(str(tmp_path / "a.wav")) as wav, av.open(str(tmp_path / "c.flac")) as flac:
        first, second = (np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)]) for file in (wav, flac))
    assert first.dtype == np.int16
    assert np.abs(first).max() > 30
    np.testing.assert_array_equal(first, second)


def break_windows(monkeypatch, value, *broken):
    """The n-th waveforms that the model decodes have one value that is not finite."""
    from generate.audioldm2 import AudioLDM2

    decode, seen = AudioLDM2.decode_on_device, [0]

    def decode_broken(self, latents, samples, batch=4):
        waveforms = decode(self, latents, samples, batch).clone()
        for row in range(len(waveforms)):
            if seen[0] in broken:
                waveforms[row, 5] = value
            seen[0] += 1
        return waveforms

    monkeypatch.setattr(AudioLDM2, "decode_on_device", decode_broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_a_failure_of_the_generation(generate, clip, tmp_path, monkeypatch, value):
    break_windows(monkeypatch, value, 0)
    text = generate(clip, "-o", tmp_path / "o.mp4", code=8)
    assert "the sampler gave NaN or Inf" in text
    assert "clip.mp4" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("film") / "film.mp4", seconds=25, fps=4, audio=None, values=[128] * 100)


def test_a_window_that_fails_is_named(generate, film, tmp_path, monkeypatch):
    break_windows(monkeypatch, float("nan"), 1)
    text = generate(film, "-o", tmp_path / "o.wav", "--set", "generation.batch=2", code=8)
    assert "the sound of window 2 of 3 (8.0 to 18.0 s) could not be generated" in text
    assert list(tmp_path.iterdir()) == []


def test_a_film_is_made_batch_by_batch_and_says_where_it_is(generate, film, tmp_path, monkeypatch):
    """No more windows at once than a batch has, and a line for each where no terminal is."""
    monkeypatch.setattr("common.console.LINE_SECONDS", 0.0)
    at_once = []
    synthesise = Sampler.synthesise

    def watched(self, tokens, *arguments, **options):
        at_once.append(len(tokens))
        return synthesise(self, tokens, *arguments, **options)

    monkeypatch.setattr(Sampler, "synthesise", watched)
    text = generate(film, "-o", tmp_path / "two.wav", "--set", "generation.batch=2")
    assert at_once == [2, 1]
    assert "generate: 2 of 3 after" in text
    assert "window 3 of 3" in text
    waveform, rate = read_wav(tmp_path / "two.wav")
    assert len(waveform) == 25 * rate


def test_when_the_picture_fails_the_sound_is_kept(generate, clip, tmp_path, monkeypatch):
    def full(*arguments):
        raise WriteError("cannot write o.mp4: the disk is full")

    monkeypatch.setattr("generate.film_commands.killable", lambda *arguments, **options: full())
    text = generate(clip, "-o", tmp_path / "o.mp4", code=6)
    assert f"the sound is kept: {tmp_path / 'o.wav'}" in text
    assert len(read_wav(tmp_path / "o.wav")[0]) == 16_000


def test_a_full_disk_is_said_of_the_file_that_was_asked_for(generate, clip, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "fsync", full)
    text = generate(clip, "-o", tmp_path / "o.mp4", code=6)
    assert f"cannot write {tmp_path / 'o.wav'}: the disk is full" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a [official].mp4", "x[bold].mp4", "100% #1?.mp4", "x" * 251 + ".mp4"])
def test_odd_names(generate, clip, tmp_path, monkeypatch, name):
    source = tmp_path / "in" / name
    source.parent.mkdir()
    source.write_bytes(clip.read_bytes())
    monkeypatch.setattr("common.console.out.width", 1000)
    assert str(tmp_path / "out" / name) in generate(source, "-o", tmp_path / "out")
    assert pictures(tmp_path / "out" / name) == pictures(clip)
    assert sound_of(tmp_path / "out" / name) is not None


_PEAK = """
import sys
from generate.__main__ import app
app(sys.argv[1:], standalone_mode=False)
print("peak", next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux' /proc")
def test_memory_does_not_grow_with_the_film(run_folder, tmp_path):
    peaks = []
    for seconds in (60, 600):
        film = make_media(tmp_path / f"{seconds}.mp4", seconds=seconds, fps=2, audio=None, values=[99] * 2 * seconds)
        words = ["-o", f"{tmp_path}/{seconds}.mkv", "--run", str(run_folder), "--preset", TINY, "--device", "cpu"]
        result = subprocess.run(
            [sys.executable, "-c", _PEAK, str(film), *words, "--set", "generation.steps=1"],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split("peak ")[1]) / 1024)
        assert len(read_wav(tmp_path / f"{seconds}.wav")[0]) == seconds * 16_000
    print(f"peak memory: {peaks[0]:.0f} MiB for 60 s, {peaks[1]:.0f} MiB for 600 s")
    # The allocator alone makes 40 MiB from run to run; the frames of all windows, kept, would be 400 MiB more.
    assert peaks[1] - peaks[0] < 100
