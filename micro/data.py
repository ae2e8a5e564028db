"""Scenes of the small world as training batches: waveforms and pictures, without encoding a file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from micro.world.render import KINDS, make_scene, render_frames, render_waveform
from micro.world.scene import SECONDS, Scene
from pipeline.encoders.audiomae import normalise_waveform

FRAME_RATE = 4  # pictures a second, as every visual encoder takes them
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


@lru_cache(maxsize=4)
def pictures(size: int, count: int, first: int = 0, split: str = "train") -> Tensor:
    """(count, 40, 3, size, size) uint8: the frames of each scene, resized as ``pipeline.media`` does."""
    out = torch.empty(count, SECONDS * FRAME_RATE, 3, size, size, dtype=torch.uint8)
    for row, scene in enumerate(training_scenes(count, first, split)):
        frames = torch.from_numpy(np.stack(list(render_frames(scene, FRAME_RATE)))).permute(0, 3, 1, 2)
        small = nn.functional.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
        out[row] = small.round().clamp(0, 255).to(torch.uint8)
    return out


def as_decoded(frames: Tensor) -> Tensor:
    """Frames (..., 3, S, S) uint8 -> float in [0, 1]; blurred, shaded and noised as cameras and H.264 do."""
    flat = frames.flatten(0, -4).float() / 255
    blur = 0.5 * torch.rand(len(flat), 1, 1, 1)
    soft = nn.functional.avg_pool2d(nn.functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    flat = flat.lerp(soft, blur) * (1 + 0.05 * torch.randn(len(flat), 1, 1, 1))
    return (flat + 0.01 * torch.randn_like(flat)).clamp(0, 1).view(frames.shape)


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled rows without end; the order follows from the seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[first : first + size] for first in range(0, count - size + 1, size))


def rows_of(steps: int, count: int, size: int, seed: int) -> list[Tensor]:
    """The rows of every step, so that step ``n`` sees the same ones resumed or not."""
    return [rows for _, rows in zip(range(steps), batches(count, size, seed), strict=False)]
