"""The learning rates, against the formulas that runs of before transformers' schedules were fitted with."""

import math

import pytest
import torch

from presets.config import TrainingConfig
from trainer.schedule import build_schedule, set_steps

RATE, STEPS = 2e-3, 40


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)


def rates(training):
    """Of all steps, as a run takes them."""
    steered = optimizer()
    schedule = build_schedule(steered, training, STEPS)
    out = []
    for _ in range(STEPS + 1):
        out.append(steered.param_groups[0]["lr"])
        steered.step()
        schedule.step()
    return out


def warm_up(step, length):
    return min(1.0, (step + 1) / length) if length else 1.0


@pytest.mark.parametrize("length", [0, 1, 7, 100])
def test_a_warm_up_has_the_rates_it_had(length):
    training = TrainingConfig(warmup_steps=length)
    assert rates(training) == [RATE * warm_up(step, length) for step in range(STEPS + 1)]


def test_a_cosine_has_the_rates_it_had():
    cosine = [RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS + 1)]
    assert rates(TrainingConfig(schedule="cosine")) == pytest.approx(cosine, rel=1e-12, abs=1e-18)


def test_a_cosine_begins_where_its_warm_up_ends():
    """Before, it ran below the warm-up: 5 % lower where a warm-up of 6 of 40 steps ends."""
    found = rates(TrainingConfig(schedule="cosine", warmup_steps=6))
    assert found[:6] == pytest.approx([RATE * warm_up(step, 6) for step in range(6)])
    spans = [0.5 * (1 + math.cos(math.pi * step / (STEPS - 5))) for step in range(STEPS - 4)]
    assert found[5:] == pytest.approx([RATE * factor for factor in spans], abs=1e-18)
    assert found[STEPS] == pytest.approx(0.0, abs=1e-18)


@pytest.mark.parametrize("settings", [{}, {"warmup_steps": 7}, {"schedule": "cosine", "warmup_steps": 7}])
def test_going_on_has_the_rates_of_an_unbroken_run(settings):
    training = TrainingConfig(**settings)
    whole = rates(training)
    for done in (0, 3, 7, 30):
        steered = optimizer()
        schedule = build_schedule(steered, training, STEPS)
        set_steps(schedule, training, done)
        steered.step()
        assert steered.param_groups[0]["lr"] == whole[done]
        schedule.step()
        assert steered.param_groups[0]["lr"] == whole[done + 1]
