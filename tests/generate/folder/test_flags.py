"""Flags of one video and of a folder of them."""

import av
import numpy as np
import pytest

from pipeline.media.writing import read_wav
from tests.generate.folder.made import SMALL
from tests.generate.test_mux import sound_of
from tests.media_factory import make_media


@pytest.fixture(params=["video", "folder"])
def made(request, generate, videos, tmp_path):
    """``made(suffix, *flags)``: the output of a film of 3 s with a tone of its own, given alone or in a folder."""

    def make(suffix, *flags, code=0):
        folder = videos()
        if not (folder / "a.mp4").exists():
            make_media(folder / "a.mp4", seconds=3, fps=20)
        path = tmp_path / "out" / f"a{suffix}"
        if request.param == "folder":
            text = generate(folder, "-o", tmp_path / "out", "--suffix", suffix, *SMALL, *flags, code=code)
        else:
            text = generate(folder / "a.mp4", "-o", path, *SMALL, *flags, code=code)
        return text if code else path

    return make


def streams(path):
    with av.open(str(path)) as file:
        sounds = [(stream.codec_context.codec.canonical_name, stream.rate) for stream in file.streams.audio]
        return sounds, file.duration / av.time_base, bool(file.streams.video)


@pytest.mark.parametrize(
    ("suffix", "sound"),
    [(".mp4", "aac"), (".mkv", "aac"), (".mov", "aac"), (".wav", "pcm_s16le"), (".flac", "flac")],
)
def test_suffixes(made, sampled, suffix, sound):
    rate = 48_000 if sound == "aac" else 16_000
    tracks, seconds, picture = streams(made(suffix))
    assert (tracks, picture) == ([(sound, rate)], sound == "aac")
    assert seconds == pytest.approx(3, abs=0.1)


def test_the_sampler_flags(made, sampled):
    made(
        ".wav", "--steps", 7, "--guidance", 2.5, "--scheduler", "EulerDiscreteScheduler", "--seed", 9,
        "--negative-prompt", "hiss: loud", "--set", "generation.steps=5", "--label", "bell",
    )  # fmt: skip
    ((labels, generation, _),) = sampled
    assert labels == ["bell"]
    chosen = (generation.steps, generation.guidance_scale, generation.scheduler, generation.seed)
    assert chosen == (7, 2.5, "EulerDiscreteScheduler", 9)
    assert generation.negative_prompt == "hiss: loud"


def test_a_part(made, sampled):
    _, seconds, _ = streams(made(".mp4", "--start", 1, "--duration", 1.5))
    assert seconds == pytest.approx(1.5, abs=0.1)
    assert len(read_wav(made(".wav", "--start", 1, "--duration", 1.5))[0]) == 24_000
    assert len(sampled) == 2


def test_the_rate(made, sampled):
    waveform, rate = read_wav(made(".wav", "--rate", 44_100))
    assert rate == 44_100
    assert len(waveform) == pytest.approx(3 * 44_100, abs=2)
    assert streams(made(".flac", "--rate", 48_000))[0] == [("flac", 48_000)]


def test_the_films_own_sound(made, sampled):
    """The sampler's tone and the film's own are of one pitch and phase: mixed at -60 dB it is ours alone, else both."""

    def loudness(path):
        sound = sound_of(path).ravel()
        return np.sqrt(np.square(sound[len(sound) // 3 : len(sound) // 2]).mean())

    assert loudness(made(".mkv", "--audio", "mix", "--gain", "-60")) == pytest.approx(0.3 / 2**0.5, rel=0.05)
    assert loudness(made(".mkv", "--audio", "mix")) == pytest.approx(0.6 / 2**0.5, rel=0.1)
    assert len(streams(made(".mkv", "--audio", "add-track"))[0]) == 2


@pytest.mark.parametrize(
    ("kind", "flags", "says"),
    [
        ("video", ("--labels", "x.csv"), "--labels is for a folder of videos, and "),
        ("video", ("--suffix", "mkv"), "--suffix is for a folder of videos"),
        ("video", ("--cache", "c"), "--cache is for a split of --cache"),
        ("video", ("--split", "test"), "--split is for a split"),
        ("video", ("--num-tasks", "2"), "--num-tasks is for a folder of videos or a split"),
        ("folder", ("--label", "x", "--labels", "x.csv"), "--label and --labels"),
        ("folder", ("--manifest", "m"), "--manifest is for a split"),
        ("folder", ("--rate", "44100"), "--rate is for .wav and .flac, and .mp4 files"),
        ("video", ("--gain", "3"), "--gain is of the video's own sound, which --audio replace"),
        ("video", ("--audio", "mix", "-o", "x.wav"), "--audio mix is for videos, and .wav files"),
        ("split", ("--label", "x"), "--label is for one video or a folder of videos, and no video was named"),
        ("split", ("--start", "1"), "--start is for one video"),
        ("split", ("--candidates", "2"), "--candidates is for one video"),
    ],
)
def test_flags_that_do_not_go_together(generate, videos, sampled, tmp_path, kind, flags, says):
    place = {"video": [videos("a.mp4") / "a.mp4"], "folder": [videos("a.mp4")], "split": []}[kind]
    assert says in generate(*place, *flags, code=2)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--steps", 0), 3, "generation.steps is 0"),
        (("--guidance", -1), 3, "generation.guidance_scale is -1"),
        (("--scheduler", "Dream"), 4, "no scheduler 'Dream'"),
        (("--seed", -1), 3, "generation.seed is -1"),
        (("--candidates", 0), 4, "at least one"),
        (("--start", -1), 4, "start is -1"),
        (("--duration", 0), 4, "duration is 0"),
        (("--suffix", "avi"), 4, "no output of kind '.avi'"),
        (("--audio", "loud"), 4, "unknown way 'loud'"),
        (("--audio", "mix", "--gain", "99"), 4, "from -60 to 60 dB"),
        (("--suffix", "wav", "--rate", 5), 4, "8000"),
        (("--suffix", "webm", "--video-codec", "h264"), 4, "holds no H.264"),
    ],
)
def test_values_that_cannot_be(generate, videos, sampled, tmp_path, flags, code, says):
    assert says in generate(videos("a.mp4"), "-o", tmp_path / "out", *flags, code=code)
    assert not (tmp_path / "out").exists()
