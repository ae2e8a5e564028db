"""How much a clip's sound depends on the clips beside it: by the rounding of the matrix products, no more.

HiFi-GAN (tiny, and AudioLDM-2 as published) passes rounding on as it is. Griffin-Lim (micro) finds its phases by an
iteration that amplifies it. The bounds are those that README states.
"""

import numpy as np
import pytest
import torch

from generate.audioldm2 import Conditioning
from generate.audioldm2_loader import load_audioldm2
from generate.schedulers import step_seeds
from presets import load_preset
from tests.tiny import TINY

LABELS = ["dog", "a very long label, longer than the others", "", "cat", "x", "y", "bird", "dog"]


def largest_difference(preset, batches, clips, steps):
    """Between clips made one by one and in batches of these sizes: largest of full scale, and of a clip's own norm."""
    model = load_audioldm2(load_preset(preset))
    width = load_preset(preset).encoders.audiomae.width
    tokens = torch.randn(clips, 8, width, generator=torch.Generator().manual_seed(0)) / 2
    negative, ids = model.negative("low quality"), [f"clip{n}" for n in range(clips)]

    def made(size):
        parts = []
        for few in (slice(first, first + size) for first in range(0, clips, size)):
            positive = Conditioning(tokens[few], *model.encode_labels(LABELS[:clips][few]))
            noise, seeds = model.noise(ids[few], 0), step_seeds(ids[few], 0)
            latents = model.denoise(positive, negative, noise, steps=steps, guidance_scale=3.5, seeds=seeds)
            parts.append(model.decode(latents, 160_000, size).numpy())
        return np.concatenate(parts)

    alone = made(1)
    assert np.abs(alone).max() > 0.01
    differences = np.concatenate([made(size) - alone for size in batches])
    norms = np.tile(np.linalg.norm(alone, axis=1), len(batches))
    return float(np.abs(differences).max()), float((np.linalg.norm(differences, axis=1) / norms).max())


def test_hifi_gan():
    assert largest_difference(TINY, (2, 3), clips=3, steps=2)[0] < 1e-5


@pytest.mark.slow
def test_griffin_lim():
    """On random tokens, whose sound is several times as loud as full scale before it is clipped."""
    _, worst = largest_difference("micro", (3, 8), clips=8, steps=12)
    print(f"micro, batches of 3 and 8 against 1: {worst:.2g} of the clip's norm")
    assert worst < 0.05
