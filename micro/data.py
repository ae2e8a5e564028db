"""Scenes of the small world as training batches: waveforms and pictures, without encoding a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.writing import replacing
from micro.world.render import KINDS, make_scene, render_frames, render_waveform
from micro.world.scene import SECONDS, Scene
from pipeline.encoders.audiomae import normalise_waveform

FRAME_RATE = 4  # pictures a second, as every visual encoder takes them
LABELS = tuple(KINDS)
# Far from the seeds of any rendered world: the frozen models never saw the clips that the mapper learns from.
_FIRST_SEED = 2_000_000_000
SAMPLES = 1024 * 160  # 10.24 s, what AudioMAE and the VAE see
_AT_ONCE = 24  # scenes that one process renders before it gives them back

_folder: Path | None = None


def keep_in(folder: Path | None) -> None:
    """Render the scenes of training once, to files of this folder; None: anew in each process, to memory.

    1536 scenes of 40 pictures of 112 x 112 are 2.3 GB, 4800 waveforms 1.6 GB.
    """
    global _folder
    _folder = folder
    waveforms.cache_clear()
    pictures.cache_clear()


def training_scenes(count: int, first: int = 0, split: str = "train") -> list[Scene]:
    """``count`` scenes with the classes in turn."""
    return [make_scene(LABELS[n % len(LABELS)], _FIRST_SEED + n, split) for n in range(first, first + count)]


@lru_cache(maxsize=4)
def waveforms(count: int, first: int = 0, split: str = "train") -> Tensor:
    """(count, 163840) float16: no mean, peak 0.5, as every audio model here takes them."""
    return _rendered(f"waveforms-{split}-{first}-{count}", partial(_waveforms, split), count, first, (SAMPLES,), "<f2")


@lru_cache(maxsize=4)
def pictures(size: int, count: int, first: int = 0, split: str = "train") -> Tensor:
    """(count, 40, 3, size, size) uint8: the frames of each scene, resized as ``pipeline.media`` does."""
    shape = (SECONDS * FRAME_RATE, 3, size, size)
    name = f"pictures-{size}-{split}-{first}-{count}"
    return _rendered(name, partial(_pictures, split, size), count, first, shape, "|u1")


def classes(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count) % len(LABELS)


def _waveforms(split: str, first: int, count: int) -> np.ndarray:
    torch.set_num_threads(1)
    scenes = training_scenes(count, first, split)
    waveform = torch.from_numpy(np.stack([render_waveform(scene) for scene in scenes]))
    return normalise_waveform(waveform, SAMPLES).half().numpy()


def _pictures(split: str, size: int, first: int, count: int) -> np.ndarray:
    torch.set_num_threads(1)
    out = np.empty((count, SECONDS * FRAME_RATE, 3, size, size), np.uint8)
    for row, scene in enumerate(training_scenes(count, first, split)):
        frames = torch.from_numpy(np.stack(list(render_frames(scene, FRAME_RATE)))).permute(0, 3, 1, 2)
        small = nn.functional.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
        out[row] = small.round().clamp(0, 255).to(torch.uint8).numpy()
    return out


def _rendered(
    name: str, render: Callable[[int, int], np.ndarray], count: int, first: int, shape: tuple[int, ...], dtype: str
) -> Tensor:
    """Rows ``first`` to ``first + count`` of what ``render(first, count)`` draws, kept in a file where asked."""
    if _folder is None:
        out = np.empty((count, *shape), dtype)
        _fill(out, render, first)
        return torch.from_numpy(out)
    path = _folder / f"{name}.npy"
    if not path.is_file():
        with replacing(path) as temporary:
            out = np.lib.format.open_memmap(temporary, "w+", dtype, (count, *shape))
            _fill(out, render, first)
            out.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # copy on write: torch wants memory it may write


def _processes() -> BaseContext:
    """Where there is a server that processes are forked from, it alone imports what they all need."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _fill(out: np.ndarray, render: Callable[[int, int], np.ndarray], first: int) -> None:
    starts = range(0, len(out), _AT_ONCE)
    sizes = [min(_AT_ONCE, len(out) - start) for start in starts]
    workers = min(len(starts), os.cpu_count() or 1)
    if workers < 2:
        for start, size in zip(starts, sizes, strict=True):
            out[start : start + size] = render(first + start, size)
        return
    with ProcessPoolExecutor(workers, mp_context=_processes()) as pool:
        parts = pool.map(render, [first + start for start in starts], sizes)
        for start, size, part in zip(starts, sizes, parts, strict=True):
            out[start : start + size] = part


def on_device(rendered: Tensor, device: str) -> Tensor:
    """All of it on an accelerator, which draws its batches from there; on a CPU as it is."""
    return rendered if torch.device(device).type == "cpu" else rendered.to(device)


def as_decoded(frames: Tensor) -> Tensor:
    """Frames (..., 3, S, S) uint8 -> float in [0, 1]; blurred, shaded and noised as cameras and H.264 do."""
    flat, device = frames.flatten(0, -4).float() / 255, frames.device
    blur = 0.5 * torch.rand(len(flat), 1, 1, 1, device=device)
    soft = nn.functional.avg_pool2d(nn.functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    flat = flat.lerp(soft, blur) * (1 + 0.05 * torch.randn(len(flat), 1, 1, 1, device=device))
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
