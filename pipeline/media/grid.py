"""Frames on a grid of times, as FFmpeg's ``fps`` filter takes them: the one nearest to each, at its full size.

What the evaluation's networks see. torio, which av-benchmark reads videos with, builds the same filter graph.
The encoders see what is on screen at each time instead (:mod:`pipeline.media.picture`), as the paper's authors do.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from common.errors import ClipError
from pipeline.media.container import open_container, origin_of, video_stream
from pipeline.media.picture import display_matrix, upright

_FINEST = Fraction(25)  # frames a second: a picture must fill this grid to the end, whatever the rate asked for


def frames_on_grid(path: str | Path, rate: Fraction, seconds: float, from_origin: bool = False) -> np.ndarray:
    """Frames of the first ``seconds`` through ``fps=fps=rate``, upright: uint8 (seconds * rate, H, W, 3).

    ``from_origin``: times are counted from the container's start, not as they stand. Raises :class:`ClipError`
    ``no_video``, ``unreadable``, and ``too_short`` for a picture that does not last ``seconds`` (by FFmpeg's count of
    frames, to half a frame of 25 a second).
    """
    path = Path(path)
    wanted = round(rate * Fraction(seconds))
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
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


def _through_filters(
    container: Any, stream: Any, rate: Fraction, wanted: int, finest: int, origin: int = 0
) -> tuple[list[np.ndarray], bool]:
    """The frames, and whether both they and the finest grid are complete."""
    chosen = _graph(stream, ("fps", f"fps={rate}"), ("format", "pix_fmts=rgb24"))
    counted = _graph(stream, ("fps", f"fps={_FINEST}"))  # passes references on: nothing is converted
    images: list[np.ndarray] = []
    count, matrix = 0, None

    def take(frame: Any) -> bool:
        """Push a frame, or None at the end; True once everything is there."""
        nonlocal count
        for graph in (chosen, counted):
            graph.push(frame)
        images.extend(upright(image.to_ndarray(), matrix) for image in _pull(chosen))
        count += len(_pull(counted))
        return len(images) >= wanted and count >= finest

    for frame in container.decode(stream):
        matrix = display_matrix(frame)
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


def display_aspect(path: str | Path) -> float:
    """Width by height of the picture as it is to be shown: upright, its pixels of their own shape.

    Raises :class:`ClipError` ``no_video``, ``unreadable``.
    """
    path = Path(path)
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            frame = next(container.decode(stream))
            image = np.empty((frame.height, frame.width, 0), np.uint8)
            sample = stream.sample_aspect_ratio or Fraction(1)
            height, width = upright(image, display_matrix(frame)).shape[:2]
    except (av.error.FFmpegError, OSError, ValueError, StopIteration) as error:
        raise ClipError("unreadable", f"{path}: the picture cannot be decoded ({error})") from error
    turned = (height, width) != image.shape[:2]
    return width / height * float(1 / sample if turned else sample)
