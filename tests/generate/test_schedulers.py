"""Schedulers that add noise: a clip's sound follows from its name and the seed, not from its batch."""

import pytest
import torch

from common.errors import InputError
from generate.audioldm2 import Conditioning
from generate.audioldm2_loader import load_audioldm2
from generate.schedulers import build_scheduler, step_seeds
from presets import load_preset
from tests.tiny import TINY

NAMES = ["one", "two", "three"]
NOISY = {
    "ddim": ("DDIMScheduler", {"eta": 1.0}, {}),
    "ancestral": ("EulerAncestralDiscreteScheduler", {}, {}),
    "sde": ("DPMSolverMultistepScheduler", {}, {"algorithm_type": "sde-dpmsolver++"}),
}


@pytest.fixture(scope="module")
def model():
    return load_audioldm2(load_preset(TINY))


def sample(model, names, scheduler, seed=0, **options):
    random = {name: torch.Generator().manual_seed(number) for number, name in enumerate(NAMES)}
    tokens = torch.stack([torch.randn(8, 96, generator=random[name]) for name in names])
    condition = Conditioning(tokens, *model.encode_labels(names))
    latents = model.denoise(
        condition,
        model.negative("low quality"),
        model.noise(names, 0),
        steps=3,
        guidance_scale=2.0,
        seeds=step_seeds(names, seed),
        scheduler_name=scheduler,
        **options,
    )
    return dict(zip(names, latents, strict=True))


@pytest.mark.parametrize("kind", list(NOISY))
def test_a_clip_s_noise_is_its_own(model, kind, monkeypatch):
    scheduler, options, config = NOISY[kind]
    monkeypatch.setattr(model.scheduler, "_internal_dict", {**model.scheduler.config, **config})
    together = sample(model, NAMES, scheduler, **options)
    for names in (NAMES[1:2], NAMES[::-1]):
        torch.manual_seed(len(names))  # what else is random in the process does not matter
        for name, latents in sample(model, names, scheduler, **options).items():
            assert (latents - together[name]).norm() / together[name].norm() < 1e-5
    other = sample(model, NAMES[:1], scheduler, seed=1, **options)["one"]
    assert (other - together["one"]).norm() / together["one"].norm() > 1e-2, "the steps add no noise of the seed"


def test_steps_and_start_have_different_noise(model):
    start = model.noise(["one"], 0)
    first = torch.randn(start.shape, generator=torch.Generator().manual_seed(step_seeds(["one"], 0)[0]))
    assert not torch.equal(start, first)
    assert len({*step_seeds(NAMES, 0), *step_seeds(NAMES, 1)}) == 6


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_schedulers_with_noise_of_the_whole_batch_are_refused(model, name):
    with pytest.raises(InputError, match=r"torchsde|whole batch"):
        build_scheduler(name, model.scheduler.config)
