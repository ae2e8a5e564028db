"""A clip's picture as av-benchmark gives it to a network: FFmpeg's ``fps`` filter, then resize and crops.

torio, which av-benchmark reads videos with, builds the same filter graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ClipError
from pipeline.media import check_file
from pipeline.media.container import origin_of, url_of

SIZE = 224
_FINEST = Fraction(25)  # frames a second: a picture must fill this grid to the end, whatever the network's own rate


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


def frames_on_grid(path: str | Path, rate: Fraction, seconds: float, from_origin: bool = False) -> np.ndarray:
    """Frames of the first ``seconds`` through ``fps=fps=rate``, upright: uint8 (seconds * rate, H, W, 3)."""
    path = Path(path)
    check_file(path)
    wanted = round(rate * Fraction(seconds))
    try:
        with av.open(url_of(path), metadata_errors="ignore") as container:
            stream = _video_stream(container, path)
            finest = round(_FINEST * Fraction(seconds))
            origin = round(origin_of(container) / stream.time_base) if from_origin else 0
            images, filled = _through_filters(container, stream, rate, wanted, finest, origin)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ClipError("unreadable", f"{path}: the picture cannot be decoded ({error})") from error
    if not filled:
        raise ClipError("too_short", f"{path}: its picture does not last {seconds:g} s")
    if len({image.shape for image in images}) > 1:
        raise ClipError("unreadable", f"{path}: the size of its picture changes")
    return np.stack(images)


def _video_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise ClipError("no_video", f"{path} has no video stream")


def _through_filters(
    container: Any, stream: Any, rate: Fraction, wanted: int, finest: int, origin: int = 0
) -> tuple[list[np.ndarray], bool]:
    """The frames, and whether both they and the finest grid are complete."""
    chosen = _graph(stream, ("fps", f"fps={rate}"), ("format", "pix_fmts=rgb24"))
    counted = _graph(stream, ("fps", f"fps={_FINEST}"))  # passes references on: nothing is converted
    images: list[np.ndarray] = []
    count, turns = 0, 0

    def take(frame: Any) -> bool:
        """Push a frame, or None at the end; True once everything is there."""
        nonlocal count
        for graph in (chosen, counted):
            graph.push(frame)
        images.extend(np.rot90(image.to_ndarray(), turns) for image in _pull(chosen))
        count += len(_pull(counted))
        return len(images) >= wanted and count >= finest

    for frame in container.decode(stream):
        turns = frame.rotation // 90
        if origin and frame.pts is not None:
            frame.pts -= origin
        if take(frame):
            return images[:wanted], True
    complete = take(None)
    return images[:wanted], complete


def _graph(stream: Any, *steps: tuple[str, str]) -> Any:
    graph = av.filter.Graph()
    filters = [graph.add(name, arguments) for name, arguments in steps]
    graph.link_nodes(graph.add_buffer(template=stream), *filters, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Any) -> list[Any]:
    """What has come out of a filter graph so far."""
    out = []
    while True:
        try:
            out.append(graph.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return out


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
