"""Scenes of the small world as training batches: waveforms and frames, without encoding a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from manifests.scene import Scene
from manifests.world import KINDS, make_scene, render_frames, render_waveform
from pipeline.encoders.audiomae import normalise_waveform

LABELS = tuple(KINDS)
# Far from the seeds of any rendered world: the frozen models never saw the clips that the mapper learns from.
_FIRST_SEED = 2_000_000_000
SAMPLES = 1024 * 160  # 10.24 s, what AudioMAE and the VAE see


def training_scenes(count: int, first: int = 0, split: str = "train") -> list[Scene]:
    """``count`` scenes with the classes in turn."""
    return [make_scene(LABELS[n % len(LABELS)], _FIRST_SEED + n, split) for n in range(first, first + count)]


@lru_cache(maxsize=4)
def waveforms(count: int, first: int = 0, split: str = "train") -> Tensor:
    """(count, 163840) float16: no mean, peak 0.5, as every audio model here takes them."""
    out = torch.empty(count, SAMPLES, dtype=torch.float16)
    for row, scene in enumerate(training_scenes(count, first, split)):
        out[row] = normalise_waveform(torch.from_numpy(render_waveform(scene))[None], SAMPLES)[0].half()
    return out


def classes(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count) % len(LABELS)


def frames(scenes: Sequence[Scene], frames_per_second: int = 4) -> Tensor:
    """(B, 40, 3, 144, 192) uint8."""
    clips = [np.stack(list(render_frames(scene, frames_per_second))) for scene in scenes]
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled rows without end; the order follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[first : first + size] for first in range(0, count - size + 1, size))
