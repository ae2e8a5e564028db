"""Frames at the sampled times, by PyAV: in the order of their time stamps, each checked against the last."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from common.errors import ClipError
from pipeline.media.container import (
    TIME_TOLERANCE,
    TRUNCATION_TOLERANCE,
    Packets,
    beginnings,
    declared_seconds,
    declared_stream_seconds,
    kind_of,
    open_container,
    video_stream,
)
from presets.config import MediaConfig

_REORDERED = 17  # frames that can come between a frame's decoding and its display (H.264 and HEVC: 16)
_FAR = 1.0  # seconds beyond the container's end at which no frame can be
_GUESSED = 1.0  # seconds after a seek within which a frame of MPEG-PS comes that has its own time stamp
_BRIDGED = 0.5  # seconds of damaged picture over which the last good frame is held
_STRICT = 40.0  # seconds: how far before a window a seek is tried that must meet no damage at all


@dataclass
class Pictures:
    """``frames``: uint8 (frames, size, size, 3), RGB. ``shown``: bool (frames,), false where there is no
    picture on screen. ``seen``: how many frames were decoded.
    """

    frames: np.ndarray
    shown: np.ndarray
    seen: int


class _Elsewhere(Exception):
    """A seek led behind the window's start, or to a damaged key frame: read from further before it."""


def resize_frame(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resize to (size, size, 3) without keeping the aspect ratio (Diff-Foley)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """(a, b, c, d) of x' = a x + c y, y' = b x + d y: how the picture is to be turned or mirrored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < 36:
        return None
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), "=i4")[:5])
    return a, b, c, d


def upright(image: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """The image (H, W, 3) as the display matrix wants it shown, to the nearest quarter turn, mirrored or not."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _rgb(frame: Any, config: MediaConfig) -> np.ndarray:
    """A decoded frame, upright, as uint8 (size, size, 3)."""
    size, matrix = config.frame_size, display_matrix(frame)
    if config.resize == "swscale":  # straight from YUV, as decord's filter graph does
        return upright(frame.reformat(size, size, format="rgb24", interpolation="BILINEAR").to_ndarray(), matrix)
    return resize_frame(upright(frame.to_ndarray(format="rgb24"), matrix), size)


class _Window:
    """The pictures of one window, filled by frames in the order of their times."""

    def __init__(self, config: MediaConfig, start: float):
        self.config = config
        self.targets = start + np.arange(config.frames) / config.frames_per_second
        self.frames = np.zeros((config.frames, config.frame_size, config.frame_size, 3), np.uint8)
        self.shown = np.zeros(config.frames, bool)
        self.next = self.seen = 0
        self.current: Any = None  # the frame on screen
        self.time = 0.0

    def until(self, end: float) -> None:
        """The current frame stays on screen until ``end``. What is before the first one is that one."""
        image = None
        while self.next < len(self.targets) and self.targets[self.next] + TIME_TOLERANCE < end:
            if image is None:
                image = _rgb(self.current, self.config)
            self.frames[self.next] = image
            self.shown[self.next] = self.targets[self.next] + TIME_TOLERANCE >= self.time
            self.next += 1

    def put(self, frame: Any, time: float) -> None:
        if self.current is not None:
            self.until(time)
        self.current, self.time = frame, time
        self.seen += 1

    @property
    def full(self) -> bool:
        return self.next == len(self.targets)


class _Decoder:
    """Frames of one stream with their times in seconds from the container's start, from ``begin`` on.

    After a packet that cannot be decoded, or a frame of which the decoder had to make up a part, what comes
    out is in part whatever lies in memory, until the next key frame: ``damage`` has these spans of time.
    ``strict``: any damage is :class:`_Elsewhere`.
    """

    def __init__(self, container: Any, path: Path, begin: float | None, strict: bool):
        self.path, self.container, self.begin = path, container, begin
        self.stream = video_stream(container, path)
        # Not by frames: what a damaged packet gives would depend on how the threads are timed.
        # Nor by slices: most files have one a frame, and a thread a core in every worker is more than some machines
        # give (avcodec_open2: resource temporarily unavailable, on 16 cores).
        self.stream.thread_type = "NONE"
        self.stream.codec_context.thread_count = 1
        self.counted = kind_of(container) == "avi"
        if self.counted:
            self.stream.codec_context.copy_opaque = True
        self.strict = strict
        self.packets = Packets(container, begin)
        rate = self.stream.average_rate
        self.step = float(1 / rate) if rate else 0.0
        self.key_frames: list[float] = []
        self._damage: list[tuple[float, float]] = []
        self.last_error = ""
        self.reached = np.inf  # end of the last frame that came out

    def _decoded(self) -> Iterator[Any]:
        key_frame_seen = self.begin is None
        for packet in self.packets:
            if packet.stream_index != self.stream.index:
                continue
            if packet.size == 0:  # the last frame stays (AVI): decoding it would end the stream
                continue
            # A decoder makes up what the frames before a key frame refer to.
            key_frame_seen |= packet.is_keyframe
            if not key_frame_seen:
                continue
            if self.counted:
                packet.opaque = [packet.dts]  # PyAV keeps it by identity: an object of its own
            stamp = packet.dts if packet.pts is None or self.counted else packet.pts
            time = 0.0 if stamp is None else float(stamp * packet.time_base) - self.packets.origin
            if packet.is_keyframe:
                self.key_frames.append(time)
            try:
                yield from self.stream.codec_context.decode(packet)
            except av.error.FFmpegError as error:
                length = float((packet.duration or 0) * packet.time_base)
                self.note(time, str(error), time + length if packet.is_disposable else np.inf)
        with suppress(av.error.FFmpegError):
            yield from self.stream.codec_context.decode(None)

    def note(self, time: float, error: str, end: float = np.inf) -> None:
        """Damage that begins here, or after the last frame that came out, and ends there or at the next key frame."""
        if self.strict:
            raise _Elsewhere
        self.last_error = error
        self._damage.append((min(time, self.reached), end))

    @property
    def damage(self) -> list[tuple[float, float]]:
        merged: list[tuple[float, float]] = []
        for begin, least in sorted(self._damage):
            end = min([least, *(time for time in self.key_frames if time > begin)])
            if merged and begin <= merged[-1][1]:
                begin, end = merged[-1][0], max(merged[-1][1], end)
                merged.pop()
            merged.append((begin, end))
        return merged

    def damaged(self, time: float) -> bool:
        return bool(self._damage) and any(begin <= time < end for begin, end in self.damage)

    def timed(self) -> Iterator[tuple[Any, float | None]]:
        """Frames and times. AVI has none of presentation: the n-th frame on screen has the n-th packet's."""
        base, origin = self.stream.time_base, self.packets.origin
        if not self.counted:
            for frame in self._decoded():
                yield frame, None if frame.pts is None else float(frame.pts * base) - origin
            return
        frames: deque[Any] = deque()
        stamps: list[int] = []
        for frame in self._decoded():
            if frame.opaque is None:
                raise ClipError("timestamps", f"{self.path}: a frame has no time stamp")
            frames.append(frame)
            heapq.heappush(stamps, frame.opaque[0])
            if len(frames) > _REORDERED:
                yield frames.popleft(), float(heapq.heappop(stamps) * base) - origin
        while frames:
            yield frames.popleft(), float(heapq.heappop(stamps) * base) - origin


def frames_pyav(path: Path, config: MediaConfig, start: float) -> Pictures:
    """Frames of the window from ``start`` on. Raises :class:`ClipError`; a window without a picture is black."""
    for begin in beginnings(start, 0.0):
        with open_container(path) as container:
            try:
                strict = begin is not None and start - begin < _STRICT
                return _read(container, path, config, start, begin, strict)
            except _Elsewhere:
                continue
            except ClipError as error:
                if begin is not None and error.kind == "timestamps":  # after a seek they can be guesses
                    continue
                raise
            except av.error.FFmpegError as error:
                if begin is not None:  # a seek that failed
                    continue
                raise ClipError("unreadable", f"{path}: the video stream cannot be decoded ({error})") from error
    raise AssertionError("the last attempt reads from the start")


def _read(container: Any, path: Path, config: MediaConfig, start: float, begin: float | None, strict: bool) -> Pictures:
    window, decoder = _Window(config, start), _Decoder(container, path, begin, strict)
    step = decoder.step or 1 / config.frames_per_second
    declared = declared_seconds(container)
    # Counted times: right after a seek the first frame can stand for some that are left out before it, too.
    settled = 2 if decoder.counted else 1
    # And where not every frame has a stamp of its own (MPEG-PS), the first ones are guesses.
    sure = window.targets[0] - (_GUESSED if kind_of(container) == "mpeg" else 0.0)
    end = 0.0
    to_check: int | None = None
    for frame, stamp in decoder.timed():
        if stamp is None:
            if window.current is None:
                raise ClipError("timestamps", f"{path}: its frames have no time stamps")
            stamp = end
        if begin is not None and window.seen < settled and stamp > sure + TIME_TOLERANCE:
            raise _Elsewhere
        if frame.is_corrupt:
            decoder.note(stamp, "a part of it is missing")
        if decoder.damaged(stamp):
            if stamp > window.targets[-1] + _FAR and window.current is not None:
                window.until(stamp)
                break
            continue
        _check_time(path, window, stamp, step, end, declared)
        gap = stamp - end
        window.put(frame, stamp)
        end = stamp + max(float(frame.duration * decoder.stream.time_base) if frame.duration else step, TIME_TOLERANCE)
        decoder.reached = end
        if window.full:
            # A frame far behind the last one: where packets were lost, others can follow that belong before it.
            to_check = _REORDERED if to_check is None and gap > _FAR else (to_check or 0) - 1
            if to_check <= 0:
                break
    if begin is not None and window.seen < settled and not window.full:
        raise _Elsewhere
    _check_damage(path, decoder, window)
    if not window.full:
        end = _stream_end(container, path, decoder, window, end, step)
        if window.current is not None:
            window.until(end)
    return Pictures(window.frames, window.shown, window.seen)


def _check_damage(path: Path, decoder: _Decoder, window: _Window) -> None:
    """Raise :class:`ClipError` ``unreadable`` for damage that lasts too long to hold the last good frame."""
    if decoder.last_error and window.current is None:
        raise ClipError("unreadable", f"{path}: no frame of its video stream can be decoded ({decoder.last_error})")
    first, last = float(window.targets[0]), float(window.targets[-1])
    for begin, end in decoder.damage:
        left, right = max(begin, first), min(end, last)
        if right - left > _BRIDGED:
            raise ClipError(
                "unreadable",
                f"{path}: its picture is damaged between {left:.2f} and {right:.2f} s ({decoder.last_error})",
            )


def _check_time(path: Path, window: _Window, time: float, step: float, end: float, declared: float | None) -> None:
    """Frames come out in the order of their times, and within the container's."""
    if window.current is not None and time < window.time - max(TIME_TOLERANCE, step / 2):
        raise ClipError(
            "timestamps", f"{path}: the time stamps of its frames go back from {window.time:.2f} to {time:.2f} s"
        )
    far = time < -_FAR or (declared is not None and time > max(declared, end) + _FAR)
    if far:
        raise ClipError("timestamps", f"{path}: a frame claims to be at {time:.2f} s, outside of the file")


def _stream_end(container: Any, path: Path, decoder: _Decoder, window: _Window, end: float, step: float) -> float:
    """How long the last frame stays. Raises :class:`ClipError` ``truncated``."""
    last, tolerance = float(window.targets[-1]), max(TRUNCATION_TOLERANCE, 3 * step)
    reached = max(end, decoder.packets.ends.get(decoder.stream.index, end))
    missing = decoder.packets.missing_from(last, tolerance)
    if missing is not None:
        raise ClipError("truncated", f"{path} claims {missing[0]:.2f} s and holds {missing[1]:.2f} s")
    claimed = declared_stream_seconds(container, decoder.stream)
    if claimed is None or not decoder.packets.at_end:
        return max(end, reached) if kind_of(container) == "avi" else end
    if kind_of(container) == "matroska":  # its last frame may have no duration of its own
        return claimed if claimed > end + 3 * step else end
    # What is left out at the end of a healthy file is at most a few frames.
    if reached + tolerance < min(claimed, last):
        raise ClipError("truncated", f"{path} claims {claimed:.2f} s of video and holds {reached:.2f} s")
    return reached if reached > end + 3 * step else end
