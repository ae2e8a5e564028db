import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.windows import joined, window_rows

RATE = 16_000


def whole(windows, starts, samples):
    return np.concatenate(list(joined(zip(starts, windows, strict=True), samples)))


@given(st.floats(0.1, 300), st.floats(0.5, 9), st.sampled_from([0.04, 0.08]))
def test_windows_cover_the_film_and_overlap(seconds, overlap, row_seconds):
    rows = window_rows(seconds, 10.0, overlap, row_seconds)
    assert rows[0] == 0
    assert rows[-1] * row_seconds + 10 >= seconds
    hops = np.diff(rows)
    assert len(set(hops)) <= 1
    assert all(0 < hop * row_seconds <= 10 - overlap + 1e-9 for hop in hops)
    if len(rows) > 1:
        assert rows[-2] * row_seconds + 10 < seconds, "one window more than needed"


@pytest.mark.parametrize("overlap", [0.0, 10.0, -1.0])
def test_an_overlap_that_fits_no_window_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        window_rows(25, 10.0, overlap, 0.04)


def test_windows_of_one_sound_give_it_back():
    sound = np.random.default_rng(0).standard_normal(25 * RATE).astype(np.float32)
    starts = [0, 8 * RATE, 16 * RATE]
    windows = [np.pad(sound[s : s + 10 * RATE], (0, max(0, s + 10 * RATE - len(sound)))) for s in starts]
    np.testing.assert_allclose(whole(windows, starts, len(sound)), sound, atol=1e-5)


def test_unrelated_windows_keep_their_power_in_the_fade():
    random = np.random.default_rng(1)
    windows = [random.standard_normal(10 * RATE).astype(np.float32) for _ in range(2)]
    sound = whole(windows, [0, 8 * RATE], 18 * RATE)
    power = np.square(sound).reshape(-1, RATE // 4).mean(1)
    assert power.min() > 0.9
    assert power.max() < 1.1


def test_a_shorter_or_longer_film_has_its_own_length():
    wave = np.ones(10 * RATE, np.float32)
    assert len(whole([wave], [0], 3 * RATE)) == 3 * RATE
    longer = whole([wave], [0], 11 * RATE)
    assert (len(longer), longer[-1]) == (11 * RATE, 0.0)
