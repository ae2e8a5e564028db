"""Frames of a video as the evaluation networks see them: the picture keeps its shape and is cropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ClipError
from pipeline.media import check_file, probe

SIZE = 224


def frames_at(path: str | Path, times: Sequence[float]) -> np.ndarray:
    """The frame on show at each time in seconds, in any order: uint8 (T, H, W, 3).

    Raises :class:`ClipError` for a file without a picture, or one that cannot be decoded.
    """
    path = Path(path)
    check_file(path)
    order = np.argsort(times)
    chosen: list[np.ndarray] = [np.empty(0)] * len(times)
    place = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ClipError("no_video", f"{path} has no video stream")
            latest = None
            first: float | None = None
            for frame in container.decode(container.streams.video[0]):
                first = (frame.time or 0.0) if first is None else first
                while place < len(times) and latest is not None and times[order[place]] < (frame.time or 0.0) - first:
                    chosen[order[place]] = latest.to_ndarray(format="rgb24")
                    place += 1
                latest = frame
                if place == len(times):
                    break
            if latest is None:
                raise ClipError("too_short", f"{path} has no frame")
            while place < len(times):  # past the end the last frame stays
                chosen[order[place]] = latest.to_ndarray(format="rgb24")
                place += 1
    except av.error.FFmpegError as error:
        raise ClipError("unreadable", f"{path} cannot be decoded ({error})") from error
    return np.stack(chosen)


def seconds_of(path: str | Path) -> float:
    """Length of a video; raises :class:`ClipError`."""
    return probe(path).duration_s or 0.0


def short_side(frames: np.ndarray, mode: str) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (T, 3, H', W') whose shorter side is 224; ``mode``: bicubic or bilinear."""
    height, width = frames.shape[1:3]
    scale = SIZE / min(height, width)
    size = (max(SIZE, int(height * scale)), max(SIZE, int(width * scale)))
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    pictures = nn.functional.interpolate(pictures, size, mode=mode, antialias=mode == "bicubic")
    return pictures.round().clamp(0, 255).to(torch.uint8)


def crop(pictures: Tensor, where: float) -> Tensor:
    """(T, 3, H, W) -> (T, 3, 224, 224); ``where`` along the longer side: 0 first, 0.5 centre, 1 last."""
    top, left = (round(where * (size - SIZE)) for size in pictures.shape[-2:])
    return pictures[..., top : top + SIZE, left : left + SIZE]
