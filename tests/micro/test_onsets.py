import numpy as np
import pytest

from micro.onsets import CAP_SECONDS, compare_onsets, find_onsets, loudness_agreement
from micro.world.render import KINDS, make_scene, render_waveform

WITH_EVENTS = [label for label, kind in KINDS.items() if kind.events != "level"]


@pytest.mark.parametrize("label", WITH_EVENTS)
def test_every_event_of_a_true_sound_is_heard_and_nothing_else(label):
    scene = make_scene(label, 31)
    timing = compare_onsets(scene.onsets, find_onsets(render_waveform(scene)))
    assert timing.f1 == 1
    assert timing.error < 0.04


def test_the_loudness_of_a_sustained_sound_follows_its_level():
    scene = make_scene("rain falling", 32)
    times = (np.arange(40) + 0.5) / 4
    assert loudness_agreement(render_waveform(scene), scene.level(times)) > 0.95
    assert loudness_agreement(render_waveform(scene), scene.level(times)[::-1]) < 0.9


def test_timing_counts_both_misses_and_false_onsets():
    assert compare_onsets([1, 2], [1, 2]).error == 0
    assert compare_onsets([1, 2], [1, 2]).f1 == 1
    missed = compare_onsets([1, 2], [1])
    assert (missed.hits, missed.recall) == (1, 0.5)
    assert missed.error == pytest.approx(CAP_SECONDS / 3)
    false = compare_onsets([1], [1, 5])
    assert false.recall == 1
    assert false.f1 == pytest.approx(2 / 3)
    assert compare_onsets([1], []).error == CAP_SECONDS
    assert compare_onsets([1.0], [1.1]).error == pytest.approx(0.1)


def test_one_onset_is_not_two_hits():
    assert compare_onsets([1.0, 1.1], [1.05]).hits == 1


def test_silence_and_steady_noise_have_no_onset():
    assert len(find_onsets(np.zeros(160_000, np.float32))) == 0
    noise = 0.1 * np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    assert len(find_onsets(noise)) == 0
    with pytest.raises(ValueError, match="at least one known instant"):
        compare_onsets([], [1.0])
