import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro.spectral import SIZES, spectral_distance, spectral_loss

SAMPLES = 2 * max(SIZES)


def noise(seed, level=0.1, clips=1):
    return level * torch.randn(clips, SAMPLES, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.floats(1e-4, 1), other=st.floats(1e-3, 1))
def test_a_distance_is_zero_for_equals_and_positive_and_symmetric_for_others(seed, level, other):
    here, there = noise(seed, level), noise(seed + 1, other)
    assert float(spectral_distance(here, here)) == 0
    apart = float(spectral_distance(here, there))
    assert apart > 0.05
    assert apart == pytest.approx(float(spectral_distance(there, here)), rel=1e-5)
    assert float(spectral_distance(-here, here)) == pytest.approx(0, abs=1e-5), "the sign is not heard"


def test_it_is_the_ratio_of_levels_and_grows_with_what_is_changed():
    sound = noise(0)
    half = float(spectral_distance(0.5 * sound, sound))
    assert half == pytest.approx(math.log(2), rel=0.02)
    steps = [float(spectral_distance(sound + noise(1, level), sound)) for level in (0.001, 0.01, 0.1, 1)]
    assert steps == sorted(steps)
    both = spectral_distance(torch.cat([sound, 0.5 * sound]), torch.cat([sound, sound]))
    assert both.tolist() == pytest.approx([0, half], abs=1e-6)


def test_silence_has_a_distance_and_a_gradient():
    silence = torch.zeros(1, SAMPLES, requires_grad=True)
    loss = spectral_loss(silence, noise(2)) + spectral_loss(noise(3), silence)
    loss.backward()
    assert loss.isfinite()
    assert silence.grad.isfinite().all()
    with pytest.raises(ValueError, match="no distance"):
        spectral_distance(torch.zeros(1, SAMPLES), torch.zeros(1, SAMPLES + 1))
