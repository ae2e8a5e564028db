"""Frames at the sampled times, by decord: for its own resize (TimeChat's), and where PyAV hangs or dies.

decord counts and seeks by its own index of key frames, without looking at what comes out. That was right in
mp4, mov, mkv and webm with H.264, HEVC, VP8 and VP9; measured wrong by up to 19 s in AVI and MPEG-PS, wrong or
hanging in MPEG-TS, wrong by 0.2 s with MPEG-4's B-frames (tests/pipeline/test_zoo.py). There it is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from common.errors import ClipError
from pipeline.media.container import (
    TIME_TOLERANCE,
    TRUNCATION_TOLERANCE,
    declared_seconds,
    declared_stream_seconds,
    kind_of,
    open_container,
    origin_of,
    url_of,
    video_stream,
)
from pipeline.media.picture import Pictures, display_matrix, resize_frame
from presets.config import MediaConfig

_CONTAINERS = frozenset({"mov", "matroska"})
_CODECS = frozenset({"h264", "hevc", "vp8", "vp9"})


def _pick(starts: np.ndarray, end: float, targets: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each target time; -1 once the video has ended.

    Before the first frame that frame is held: streams of real files start a few frames apart.
    """
    indices = np.searchsorted(starts, targets + TIME_TOLERANCE, side="right") - 1
    indices = np.maximum(indices, 0)
    return np.where(targets < end - TIME_TOLERANCE, indices, -1)


def _check_stream(container: Any, path: Path) -> None:
    stream = video_stream(container, path)
    name = stream.codec_context.name
    if kind_of(container) not in _CONTAINERS or name not in _CODECS:
        raise ClipError("unreadable", f"{path}: decord cannot be trusted with {name} in {kind_of(container)}")
    try:
        matrix = display_matrix(next(container.decode(stream)))
    except (StopIteration, av.error.FFmpegError):
        matrix = None
    if matrix is not None and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0:
        raise ClipError("unreadable", f"{path} is to be shown mirrored, which decord does not do")


def frames_decord(path: Path, config: MediaConfig, start: float) -> Pictures:
    """Frames of the window from ``start`` on. Raises :class:`ClipError`; may never return."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        # decord counts time from the first video frame; the clip's origin is the container's.
        late = float((stream.start_time or 0) * stream.time_base) - origin_of(container)
        claimed, whole = declared_stream_seconds(container, stream), declared_seconds(container)
        _check_stream(container, path)
    try:
        import decord  # only decoding processes load it

        size = config.frame_size
        own = config.resize == "swscale"  # decord's resize, the one TimeChat's loader uses
        reader = decord.VideoReader(url_of(path), num_threads=1, **({"width": size, "height": size} if own else {}))
        stamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
        starts, ends = stamps[:, 0] - stamps[0, 0] + late, stamps[:, 1] - stamps[0, 0] + late
        _check_times(path, starts, claimed or whole)
        targets = start + np.arange(config.frames) / config.frames_per_second
        picked = _pick(starts, float(ends[-1]), targets)
        frames = np.zeros((config.frames, size, size, 3), np.uint8)
        wanted = [int(index) for index in np.unique(picked[picked >= 0])]
        for position in range(0, len(wanted), 8):  # 8 full-size frames at a time bound the memory
            indices = wanted[position : position + 8]
            for index, image in zip(indices, reader.get_batch(indices).asnumpy(), strict=True):
                frames[picked == index] = image if own else resize_frame(image, size)
    except ClipError:
        raise
    except Exception as error:  # decord raises RuntimeError, DECORDError and IndexError alike
        raise ClipError("unreadable", f"{path}: decord cannot decode it ({str(error)[:200]})") from error
    tolerance = max(TRUNCATION_TOLERANCE, 3 / config.frames_per_second)
    if claimed is not None and float(ends[-1]) + tolerance < min(claimed, targets[-1]):
        raise ClipError("truncated", f"{path} claims {claimed:.2f} s of video and holds {float(ends[-1]):.2f} s")
    shown = (picked >= 0) & (targets + TIME_TOLERANCE >= starts[0])
    return Pictures(frames, shown, int(np.sum(starts >= start - 1 / config.frames_per_second)))


def _check_times(path: Path, starts: np.ndarray, claimed: float | None) -> None:
    """Missing time stamps come out of decord as numbers like -4e17."""
    if not np.isfinite(starts).all() or (np.diff(starts) < -TIME_TOLERANCE).any():
        raise ClipError("timestamps", f"{path}: the time stamps that decord gives are missing or do not increase")
    if np.abs(starts).max() > (claimed or np.inf) + 1.0:
        raise ClipError("timestamps", f"{path}: the time stamps that decord gives are outside of the file")
