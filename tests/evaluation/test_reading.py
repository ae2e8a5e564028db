"""Frames and samples that networks are given, from files of every kind."""

import json
import math
import os
import tarfile
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ClipError
from evaluation.networks.imagebind import ImageBind
from evaluation.networks.synchformer import Synchformer
from evaluation.pictures import centre_crop, short_side, three_crops
from evaluation.resampling import needed, resample
from evaluation.sounds import SoundInput
from pipeline.media import frames_on_grid
from tests.evaluation.official import write_float_wav, write_lossless, write_pcm_wav
from tests.media_factory import make_media, rotate
from tests.recipe import GOLDEN

SMALL = (32, 64)
# Which source frames FFmpeg's fps filter shows at each output frame of two real clips, by av-benchmark's own reader.
REAL = json.loads((GOLDEN / "av_benchmark_frames.json").read_text())
REAL_RATES = {"drum.mp4": Fraction(43, 2), "0B4dYTMsgHA_000130.mp4": Fraction(30)}


def numbered(number):
    """A frame that carries its number in ten squares, black or white."""
    bits = np.array([number >> bit & 1 for bit in range(10)], np.uint8) * 255
    return np.repeat(np.kron(bits.reshape(2, 5), np.ones((16, 12), np.uint8))[:, :, None], 3, axis=2)


def number_of(image):
    squares = image[8::16, 6::12, 0].reshape(-1) > 128
    return int((squares * 2 ** np.arange(10)).sum())


def nearest(times, rate, seconds=8):
    """The fps filter's rule: a frame counts from the grid instant that is nearest to it (halves go up)."""
    slots = [math.floor(time * rate + Fraction(1, 2)) for time in times]
    return [max(n for n, slot in enumerate(slots) if slot <= instant) for instant in range(round(seconds * rate))]


def make_numbered(path, times):
    write_lossless(path, [numbered(n) for n in range(len(times))], [float(time) for time in times])
    return path


@pytest.mark.parametrize("name", list(REAL))
def test_frames_are_those_that_av_benchmark_sees_of_the_real_clips(name, tmp_path):
    """Clips of the same frame rate and length, whose frames say which they are."""
    times = [n / REAL_RATES[name] for n in range(REAL[name]["source_frames"])]
    path = make_numbered(tmp_path / "clip.mp4", times)
    for rate in ("0.5", "25"):
        assert [number_of(f) for f in frames_on_grid(path, Fraction(rate), 8)] == REAL[name][rate]
        assert nearest(times, Fraction(rate)) == REAL[name][rate]


def test_frames_of_a_variable_rate_are_the_nearest_to_the_grid(tmp_path):
    random = np.random.default_rng(3)
    times = np.cumsum([0, *random.choice([17, 20, 33, 41, 90, 250], 400)])  # milliseconds
    times = [Fraction(int(time), 1000) for time in times if time < 9000]
    path = make_numbered(tmp_path / "clip.mp4", times)
    for rate in (Fraction(1, 2), Fraction(25)):
        assert [number_of(f) for f in frames_on_grid(path, rate, 8)] == nearest(times, rate)


def test_only_the_first_eight_seconds_are_seen(tmp_path):
    path = make_numbered(tmp_path / "clip.mp4", [Fraction(n, 10) for n in range(300)])
    frames = ImageBind.picture.read(path)
    assert frames.shape == (12, 3, 224, 224)
    assert [number_of(f) for f in frames_on_grid(path, Fraction(1, 2), 8)] == [9, 29, 49, 69]  # near 1, 3, 5 and 7 s


@pytest.mark.parametrize("reader", [ImageBind.picture, Synchformer.picture], ids=["imagebind", "synchformer"])
def test_a_picture_of_exactly_eight_seconds_is_enough_and_a_shorter_one_is_named(reader, tmp_path):
    whole = make_media(tmp_path / "whole.mp4", seconds=8, fps=25, size=SMALL, audio=None)
    assert len(reader.read(whole)) in (12, 200)
    short = make_media(tmp_path / "short.mp4", seconds=7.5, fps=25, size=SMALL, audio=None)
    with pytest.raises(ClipError, match=r"too_short.*short\.mp4"):
        reader.read(short)


def test_a_turned_picture_is_upright(tmp_path):
    image = np.zeros((*SMALL, 3), np.uint8)
    image[:, : SMALL[1] // 2] = 255  # the left half
    path = make_media(tmp_path / "clip.mp4", fps=5, size=SMALL, audio=None, values=[image] * 50)
    assert frames_on_grid(path, Fraction(1, 2), 8).shape == (4, *SMALL, 3)
    turned = frames_on_grid(rotate(path), Fraction(1, 2), 8)
    assert turned.shape == (4, SMALL[1], SMALL[0], 3)
    halves = turned[0, : SMALL[1] // 2].mean(), turned[0, SMALL[1] // 2 :].mean()
    assert abs(halves[0] - halves[1]) > 200


def test_a_video_in_a_tar_is_read_as_the_file_itself(tmp_path):
    path = make_media(tmp_path / "clip.mp4", seconds=8.2, fps=5, size=SMALL)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.add(path, "clip.mp4")
    inside = tmp_path / "00000.tar" / "clip.mp4"
    for reader in (ImageBind.picture, SoundInput()):
        np.testing.assert_array_equal(reader.read(inside), reader.read(path))


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_a_file_without_a_picture_is_named(content, tmp_path):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    else:
        make_media(path, video=False, seconds=9)
    with pytest.raises(ClipError, match=r"clip\.mp4"):
        ImageBind.picture.read(path)


def test_a_video_that_is_cut_off_is_named(tmp_path):
    path = make_media(tmp_path / "clip.mp4", seconds=10, fps=25, size=SMALL, audio=None, faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClipError, match=r"clip\.mp4"):
        Synchformer.picture.read(path)


def test_crops_lie_where_the_authors_libraries_put_them():
    """torchvision rounds half of what is over to even, pytorchvideo up."""
    columns = torch.arange(320).expand(1, 3, 224, 320)
    wide = columns[..., :227]  # 3 over
    assert int(centre_crop(wide)[0, 0, 0, 0]) == 2
    assert [int(crop[0, 0, 0, 0]) for crop in three_crops(wide)] == [0, 2, 3]
    wide = columns[..., :225]  # 1 over
    assert int(centre_crop(wide)[0, 0, 0, 0]) == 0
    assert [int(crop[0, 0, 0, 0]) for crop in three_crops(wide)] == [0, 1, 1]
    tall = columns[..., :229].transpose(2, 3)  # 5 over
    assert [int(crop[0, 0, 0, 0]) for crop in three_crops(tall)] == [0, 3, 5]


@pytest.mark.parametrize(("height", "width"), [(240, 320), (360, 640), (720, 1280), (640, 360), (120, 161), (224, 400)])
def test_the_short_side_is_224_and_the_long_one_rounded_down(height, width):
    scaled = short_side(np.full((1, height, width, 3), 77, np.uint8))
    wanted = (224, int(224 * width / height)) if height <= width else (int(224 * height / width), 224)
    assert tuple(scaled.shape[-2:]) == wanted
    assert scaled.dtype == torch.uint8
    assert set(scaled.unique().tolist()) == {77}


def test_imagebind_sees_three_sliding_pairs_in_three_crops():
    """Its embedding is the mean over the pairs (0, 1), (1, 2), (2, 3) of each crop."""
    seen = []

    def proj(pairs):
        assert pairs.shape[1:] == (3, 2, 224, 224)
        seen.extend((pairs[:, 0, :, 0, 0] * 0.26862954 + 0.48145466).mul(255).round().int().tolist())
        return torch.arange(9.0).view(9, 1, 1, 1, 1).expand(9, 1, 1, 1, 1)

    network = SimpleNamespace(
        modality_preprocessors={"vision": SimpleNamespace(rgbt_stem=SimpleNamespace(proj=proj))},
        _embed=lambda modality, patches: patches[:, :, 0],
    )
    frames = torch.arange(12, dtype=torch.uint8).view(1, 12, 1, 1, 1).expand(1, 12, 3, 224, 224)
    embedded = ImageBind.encode_video(network, frames)["imagebind_video.pth"][""]
    assert seen == [[n + c, n + c + 1] for c in (0, 4, 8) for n in range(3)]
    assert float(embedded[0, 0]) == 4.0


# --- sound ------------------------------------------------------------------------------------------------


def direct(waveform, old, new, instants):
    """The definition of the resampler, sample by sample in float64."""
    band, at = 0.99 * min(old, new), np.arange(len(waveform))
    out = []
    for instant in instants:
        t = band * (instant / new - at / old)
        near = np.abs(t) <= 6
        out.append(float((waveform * np.where(near, np.sinc(t) * np.cos(np.pi * t / 12) ** 2, 0)).sum() * band / old))
    return np.array(out)


RATES = st.sampled_from([8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 11_127])


@settings(max_examples=20)
@given(old=RATES, new=st.sampled_from([16_000, 32_000, 48_000]), samples=st.integers(1, 3000), data=st.data())
def test_resampling_is_its_definition_at_every_rate(old, new, samples, data):
    waveform = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    whole = resample(torch.from_numpy(waveform), old, new)
    assert len(whole) == math.ceil(samples * new / old)
    if old != new:
        instants = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=5))
        assert np.abs(whole.numpy()[instants] - direct(waveform, old, new, instants)).max() < 2e-6
    count = data.draw(st.integers(1, len(whole)))
    first = resample(torch.from_numpy(waveform[: needed(count, old, new)]), old, new, count)
    assert float((first - whole[:count]).abs().max()) < 1e-6


@pytest.mark.parametrize(("width", "step"), [(2, 2**-15), (3, 2**-23), (4, 2**-24)])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_integer_wavs_of_every_width(width, step, layout, tmp_path):
    mono = 0.4 * np.sin(np.arange(130_000) / 7)
    written = mono if layout == "mono" else np.stack([mono, -0.5 * mono])
    write_pcm_wav(tmp_path / "clip.wav", written, 16_000, width)
    heard = SoundInput().read(tmp_path / "clip.wav")
    assert np.abs(heard - np.atleast_2d(written).mean(axis=0)[:128_000]).max() < 2 * step


def test_float_wavs_are_read_as_they_are_and_beyond_full_scale(tmp_path):
    waveform = np.random.default_rng(0).normal(0, 0.7, 128_000).astype(np.float32)
    assert np.abs(waveform).max() > 1.5
    write_float_wav(tmp_path / "clip.wav", waveform, 16_000)
    assert np.array_equal(SoundInput().read(tmp_path / "clip.wav"), waveform)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_a_tone_of_another_rate_is_the_same_tone(rate, tmp_path):
    write_float_wav(tmp_path / "clip.wav", np.sin(2 * np.pi * 440 * np.arange(10 * rate) / rate), rate)
    heard = SoundInput().read(tmp_path / "clip.wav")
    assert np.abs(heard - np.sin(2 * np.pi * 440 * np.arange(128_000) / 16_000))[100:-100].max() < 2e-3


@pytest.mark.parametrize("samples", [1, 80_000, 127_999])
def test_a_sound_under_eight_seconds_is_named(samples, tmp_path):
    write_float_wav(tmp_path / "clip.wav", np.full(samples, 0.1), 16_000)
    for reader in (SoundInput(), SoundInput(32_000, without_mean=True)):
        with pytest.raises(ClipError, match=r"too_short.*clip\.wav has .* s of sound, 8 s are needed"):
            reader.read(tmp_path / "clip.wav")


def test_the_sound_of_a_video_keeps_its_place(tmp_path):
    pulse = np.zeros(160_000, np.float32)
    pulse[80_000:81_000] = 0.8
    make_media(tmp_path / "clip.mp4", fps=5, size=SMALL, audio=pulse)
    make_media(tmp_path / "late.mp4", fps=5, size=SMALL, audio=pulse, audio_start=0.5)
    peaks = [int(np.abs(SoundInput().read(tmp_path / n)).argmax()) for n in ("clip.mp4", "late.mp4")]
    assert abs(peaks[0] - 80_500) < 700
    assert peaks[1] - peaks[0] == pytest.approx(8000, abs=100)


def test_a_wav_that_holds_less_than_it_claims_is_named(tmp_path):
    path = tmp_path / "clip.wav"
    write_float_wav(path, np.full(160_000, 0.1), 16_000)
    os.truncate(path, 200_000)
    with pytest.raises(ClipError, match=r"clip\.wav"):
        SoundInput().read(path)
