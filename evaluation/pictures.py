"""A clip's picture as av-benchmark gives it to a network: frames on a grid, then resize and crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.media import frames_on_grid

SIZE = 224


@dataclass(frozen=True)
class PictureInput:
    """What a network sees: the first ``seconds`` at ``rate`` frames a second, the short side ``SIZE``, cropped.

    ``crops``: ``centre`` (torchvision's CenterCrop) or ``three`` (pytorchvideo's spatial crop: first, middle and last
    along the longer side).
    """

    rate: Fraction
    crops: Literal["centre", "three"] = "centre"
    seconds: float = 8.0  # paper section 4.2

    @property
    def frames(self) -> int:
        return round(self.rate * Fraction(self.seconds))

    def read(self, path: str | Path, from_origin: bool = False) -> np.ndarray:
        """uint8 (crops * frames, 3, 224, 224), crop after crop.

        ``from_origin``: times are counted from the container's start, as in ``OUT/mp4``, not as they stand. Raises
        :class:`ClipError` ``no_video``, ``unreadable``, and ``too_short`` for a picture that does not last ``seconds``
        (by FFmpeg's count of frames, to half a frame of 25 a second).
        """
        pictures = short_side(frames_on_grid(path, self.rate, self.seconds, from_origin))
        if self.crops == "centre":
            return centre_crop(pictures).numpy()
        return torch.cat(three_crops(pictures)).numpy()


def short_side(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> uint8 (T, 3, H', W') whose shorter side is 224, as torchvision resizes uint8: bicubic."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    size = [SIZE if side == short else SIZE * side // short for side in (height, width)]
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return nn.functional.interpolate(pictures, size, mode="bicubic", antialias=True)


def _cut(pictures: Tensor, top: int, left: int) -> Tensor:
    return pictures[..., top : top + SIZE, left : left + SIZE]


def centre_crop(pictures: Tensor) -> Tensor:
    """(T, 3, H, W) -> (T, 3, 224, 224), half of what is over rounded as torchvision does it."""
    top, left = (round((size - SIZE) / 2) for size in pictures.shape[-2:])
    return _cut(pictures, top, left)


def three_crops(pictures: Tensor) -> list[Tensor]:
    """(T, 3, H, W) -> three of (T, 3, 224, 224), half of what is over rounded up as pytorchvideo does it."""
    height, width = pictures.shape[-2:]
    middle_top, middle_left = (math.ceil((size - SIZE) / 2) for size in (height, width))
    if height > width:
        return [_cut(pictures, top, middle_left) for top in (0, middle_top, height - SIZE)]
    return [_cut(pictures, middle_top, left) for left in (0, middle_left, width - SIZE)]
