"""The sound of a window. Each decoded frame is put where its own time stamp says."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import av
import numpy as np

from common.errors import ClipError
from pipeline.media.container import (
    TRUNCATION_TOLERANCE,
    Packets,
    audio_stream,
    beginnings,
    declared_stream_seconds,
    kind_of,
    open_container,
)
from presets.config import MediaConfig

# Seconds by which a frame may be early or late and still follow the last one without a seam: more than the
# rounding of time stamps and their jitter in recordings, less than two packets of AAC.
_SEAM = 0.03
_BROKEN_SHARE = 0.1  # of the packets that were read


class _Elsewhere(Exception):
    """A seek led behind the window's start: read from further before it."""


class _Track:
    """The window's samples at one rate. A gap, or an overlap of more than ``_SEAM``, starts a new run of frames."""

    def __init__(self, seconds: float, rate: int, start: float):
        self.rate, self.start = rate, start
        self.samples = round(seconds * rate)
        self.waveform = np.zeros(self.samples, np.float32)
        self.heard = 0
        self.resampler: Any = None
        self.format: tuple[Any, ...] = ()
        self.next_time: float | None = None  # where the next frame belongs if nothing is missing
        self.position = 0  # of the next resampled sample in the window

    def put(self, frame: Any, time: float | None) -> None:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if time is None:
            time = self.next_time if self.next_time is not None else 0.0
        if self.next_time is None or abs(time - self.next_time) > _SEAM or form != self.format:
            self.flush()
            # 16 bit, as everybody's wav copies: only there does swresample keep a downmix within full scale.
            self.resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate)
            self.format, self.next_time = form, time
            self.position = round((time - self.start) * self.rate)
        self._place(self.resampler.resample(frame))
        assert self.next_time is not None
        self.next_time += frame.samples / frame.sample_rate

    def flush(self) -> None:
        if self.resampler is not None:
            self._place(self.resampler.resample(None))
            self.resampler = None

    def _place(self, pieces: list[Any]) -> None:
        for piece in pieces:
            samples = piece.to_ndarray()[0] / np.float32(32768)
            left, right = max(self.position, 0), min(self.position + len(samples), self.samples)
            if right > left:
                self.waveform[left:right] = samples[left - self.position : right - self.position]
                self.heard += right - left
            self.position += len(samples)

    @property
    def end(self) -> float:
        return self.start + self.position / self.rate


def _copy(frame: Any) -> Any:
    """For one more resampler: FFmpeg names, in place, the layout of a frame that has none, and then refuses it."""
    copy = av.AudioFrame(format=frame.format.name, layout=frame.layout.name, samples=frame.samples)
    for ours, theirs in zip(copy.planes, frame.planes, strict=True):
        ours.update(bytes(theirs)[: ours.buffer_size])
    copy.sample_rate, copy.pts = frame.sample_rate, frame.pts
    if frame.time_base is not None:
        copy.time_base = frame.time_base
    return copy


def decode_waveform(path: str | Path, config: MediaConfig, start: float = 0.0) -> np.ndarray:
    """Sound of the window [start, start + seconds): float32 (samples,), zero where there is none.

    Raises :class:`ClipError` ``no_audio``, ``unreadable``, ``truncated`` or ``too_short``.
    """
    return decode_waveforms(path, config, (), start)[config.sample_rate]


def decode_waveforms(
    path: str | Path, config: MediaConfig, rates: Collection[int], start: float = 0.0
) -> dict[int, np.ndarray]:
    """As :func:`decode_waveform`, by rate in Hz: at that of ``config`` and at ``rates``, out of one decoding.

    What is at one rate, and whether it can be used, does not depend on which others are asked for.
    """
    path = Path(path)
    wanted = list(dict.fromkeys([config.sample_rate, *sorted(rates)]))
    for begin in beginnings(start, 1.0):
        with open_container(path) as container:
            try:
                return _read(container, path, config, wanted, start, begin)
            except _Elsewhere:
                continue
            except av.error.FFmpegError as error:
                if begin is not None:  # a seek that failed
                    continue
                raise ClipError("unreadable", f"{path}: the audio stream cannot be decoded ({error})") from error
    raise AssertionError("the last attempt reads from the start")


def _read(
    container: Any, path: Path, config: MediaConfig, rates: list[int], start: float, begin: float | None
) -> dict[int, np.ndarray]:
    stream = audio_stream(container, path)
    tracks, packets = [_Track(config.seconds, rate, start) for rate in rates], Packets(container, begin)
    track = tracks[0]  # which says how far to read
    read = broken = 0
    last_error = ""
    first = True

    def decoded() -> Any:
        nonlocal read, broken, last_error
        for packet in packets:
            if packet.stream_index != stream.index or packet.size == 0:
                continue
            read += 1
            try:
                yield from stream.codec_context.decode(packet)
            except av.error.FFmpegError as error:  # one damaged packet is a gap
                broken += 1
                last_error = str(error)
        try:
            yield from stream.codec_context.decode(None)
        except av.error.FFmpegError as error:
            last_error = str(error)

    for frame in decoded():
        time = None if frame.pts is None else float(frame.pts * stream.time_base) - packets.origin
        if begin is not None and first and (time is None or time > start):
            raise _Elsewhere
        first = False
        for each in tracks[1:]:
            each.put(_copy(frame), time)
        track.put(frame, time)
        if track.position >= track.samples:
            break
    if begin is not None and first:
        raise _Elsewhere
    for each in tracks:
        each.flush()
    if broken > _BROKEN_SHARE * read:
        raise ClipError(
            "unreadable", f"{path}: {broken} of {read} packets of the audio stream cannot be decoded ({last_error})"
        )
    window_end = start + config.seconds
    if packets.at_end:
        _check_end(container, path, stream, packets, track, window_end)
    if track.heard == 0:
        raise ClipError("too_short", f"{path} has no sound between {start:g} and {window_end:g} s")
    return {each.rate: each.waveform for each in tracks}


def _check_end(container: Any, path: Path, stream: Any, packets: Packets, track: _Track, window_end: float) -> None:
    """Raise :class:`ClipError` ``truncated`` if the sound ends before the window and before what is declared."""
    missing = packets.missing_from(window_end)
    if missing is not None:
        raise ClipError("truncated", f"{path} claims {missing[0]:.2f} s and holds {missing[1]:.2f} s")
    claimed = declared_stream_seconds(container, stream)
    if claimed is None or kind_of(container) == "matroska" or track.heard == 0:
        return
    if track.end + TRUNCATION_TOLERANCE < min(claimed, window_end):
        raise ClipError("truncated", f"{path} claims {claimed:.2f} s of sound and holds {track.end:.2f} s")
