"""The resampler against what sampling theory says, and files at other rates read back by FFmpeg."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from pipeline.media.resampling import resampled
from pipeline.media.writing import write_flac, write_wav

RATES = [(16_000, 48_000), (16_000, 44_100), (16_000, 192_000), (48_000, 16_000), (44_100, 48_000), (48_000, 8_000)]


def through(waveform, rate, new_rate):
    return np.concatenate(list(resampled([waveform], rate, new_rate)), axis=-1)


def sine(frequency, seconds, rate):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_a_tone_stays_and_has_no_image_nor_alias(rate, new_rate):
    """Up to 0.94 of the lower band a tone is the tone; above that band nothing is left of any, at -80 dB."""
    band = min(rate, new_rate) / 2
    for share in (0.05, 0.5, 0.94):
        made = through(0.5 * sine(share * band, 1, rate), rate, new_rate)
        assert len(made) == new_rate
        middle = slice(new_rate // 8, -new_rate // 8)
        np.testing.assert_allclose(made[middle], 0.5 * sine(share * band, 1, new_rate)[middle], atol=2e-3)
    noise = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    if new_rate < rate:  # what does not fit into the new band
        spectrum = np.fft.rfft(noise)
        spectrum[: round(1.03 * band)] = 0
        noise = np.fft.irfft(spectrum, rate).astype(np.float32)
        assert np.abs(through(noise, rate, new_rate))[1000:-1000].max() < 1e-4
        return
    made = through(noise, rate, new_rate)
    power = np.abs(np.fft.rfft(made * np.blackman(len(made)))) ** 2
    above, below = power[round(band) :], power[: round(0.9 * band)]
    assert 10 * np.log10(above.max() / below.mean()) < -80


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_nothing_moves(rate, new_rate):
    click = np.zeros(rate, np.float32)
    click[rate // 2] = 1
    assert np.argmax(np.abs(through(click, rate, new_rate))) == new_rate // 2


@settings(max_examples=12, deadline=None)
@given(
    rate=st.integers(8_000, 192_000), new_rate=st.integers(8_000, 192_000),
    cuts=st.lists(st.integers(0, 3000), max_size=4), channels=st.sampled_from([0, 1, 2]), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_rate_and_any_parts(rate, new_rate, cuts, channels, seed):
    """In parts, also empty ones, as in one piece; as long as before."""
    shape = (3000,) if channels == 0 else (channels, 3000)
    wave = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
    whole = through(wave, rate, new_rate)
    assert whole.shape == (*shape[:-1], round(3000 * new_rate / rate))
    parts = np.split(wave, sorted(cuts), axis=-1)
    np.testing.assert_allclose(np.concatenate(list(resampled(parts, rate, new_rate)), axis=-1), whole, atol=1e-6)


@pytest.mark.parametrize(("write", "suffix"), [(write_wav, ".wav"), (write_flac, ".flac")])
def test_files_at_another_rate(tmp_path, write, suffix):
    path = tmp_path / f"a{suffix}"
    for rate in (8_000, 44_100, 48_000, 192_000):
        parts = (part for part in np.split(0.5 * sine(1000, 1, 16_000), [7, 20, 9000]))
        write(path, parts, 16_000, rate=rate)
        with av.open(str(path)) as file:
            stream = file.streams.audio[0]
            samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(stream)]) / 32768
            assert (stream.rate, len(samples)) == (rate, rate)
        middle = slice(rate // 8, -rate // 8)
        np.testing.assert_allclose(samples[middle], 0.5 * sine(1000, 1, rate)[middle], atol=2e-3)
    write(path, sine(1000, 1, 16_000), 16_000)
    with av.open(str(path)) as file:
        assert file.streams.audio[0].rate == 16_000


@pytest.mark.parametrize("rate", [0, 7_999, 192_001, -48_000])
def test_rates_that_no_file_has(tmp_path, rate):
    with pytest.raises(InputError, match="from 8000 to 192000 Hz"):
        write_wav(tmp_path / "a.wav", sine(1000, 0.1, 16_000), 16_000, rate=rate)
    assert not list(tmp_path.iterdir())
