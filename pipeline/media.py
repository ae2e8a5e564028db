"""One decode of one clip -> frames uint8 (40, 224, 224, 3) and waveform float32 (160000,).

Paper section 4.1.2: 10 s at 4 frames per second; longer clips are cut, shorter ones zero-padded.
Frames are sampled by presentation time, not by index times average rate, and both streams are placed
on the container's common time line, so variable frame rates and late streams stay in step.

Two backends give the frames. ``decord`` is the default; ``pyav`` is tried when it fails. The sound is
always read by PyAV: decord's audio reader drops the time stamps that say when the sound starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipeline.errors import ClipError
from presets.config import MediaConfig

# What is looked for in folders. Where two files have one name, the kind that stands first keeps the plain clip id.
VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".qt", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".gif",
)  # fmt: skip
_TIME_TOLERANCE = 1e-3  # seconds; time stamps are rounded to the stream's time base
_TRUNCATION_TOLERANCE = 0.5  # seconds by which a sound stream may end before its declared end


@dataclass(frozen=True)
class DecodedClip:
    """What every encoder reads.

    ``frames``: uint8 (frames, size, size, 3), RGB, black where the video has ended.
    ``waveform``: float32 (samples,) in [-1, 1], 16 kHz mono, zero outside the sound stream, or None
    with the reason in ``audio_fault``. ``times``: seconds of each frame from the clip's start.
    ``shown``: bool (frames,), whether the picture is on screen at that time.
    """

    frames: np.ndarray
    times: np.ndarray
    waveform: np.ndarray | None
    audio_fault: ClipError | None
    shown: np.ndarray


@dataclass(frozen=True)
class MediaInfo:
    """What the container says, read without decoding."""

    duration_s: float
    fps: float
    width: int
    height: int
    has_audio: bool
    audio_rate: int


def check_file(path: Path) -> None:
    """Raise :class:`ClipError` ``missing_file`` or ``empty_file``."""
    if not path.is_file():
        raise ClipError("missing_file", f"{path} does not exist")
    if path.stat().st_size == 0:
        raise ClipError("empty_file", f"{path} has no bytes")


def _open(path: Path) -> av.container.InputContainer:
    check_file(path)
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ClipError("unreadable", f"{path} is not a media file that can be opened ({error})") from error


def _video_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise ClipError("no_video", f"{path} has no video stream")


def _stream_seconds(stream: Any) -> float | None:
    return float(stream.duration * stream.time_base) if stream.duration is not None else None


def _origin(container: Any) -> float:
    """Time of the container's start, to which both streams are aligned, as players do."""
    return container.start_time / av.time_base if container.start_time else 0.0


def probe(path: str | Path) -> MediaInfo:
    """Read the container's header. Raises :class:`ClipError`."""
    path = Path(path)
    with _open(path) as container:
        video = _video_stream(container, path)
        audio = container.streams.audio[0] if container.streams.audio else None
        duration = container.duration / av.time_base if container.duration else _stream_seconds(video)
        return MediaInfo(
            duration_s=float(duration or 0.0),
            fps=float(video.average_rate or 0.0),
            width=video.codec_context.width,
            height=video.codec_context.height,
            has_audio=audio is not None,
            audio_rate=audio.codec_context.sample_rate if audio is not None else 0,
        )


def resize_frame(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resize to (size, size, 3) without keeping the aspect ratio (Diff-Foley)."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _pick(starts: np.ndarray, end: float, targets: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each target time; -1 once the video has ended.

    Before the first frame that frame is held: streams of real files start a few frames apart.
    """
    indices = np.searchsorted(starts, targets + _TIME_TOLERANCE, side="right") - 1
    indices = np.maximum(indices, 0)
    return np.where(targets < end - _TIME_TOLERANCE, indices, -1)


def _rgb(frame: Any, config: MediaConfig) -> np.ndarray:
    """A decoded PyAV frame, upright, as uint8 (size, size, 3)."""
    size = config.frame_size
    if config.resize == "swscale":  # straight from YUV, as decord's filter graph does
        image = frame.reformat(size, size, format="rgb24", interpolation="BILINEAR").to_ndarray()
    else:
        image = frame.to_ndarray(format="rgb24")
    if frame.rotation:
        image = np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
    return image if config.resize == "swscale" else resize_frame(image, size)


def _frames_pyav(path: Path, config: MediaConfig, start: float) -> np.ndarray:
    targets = start + np.arange(config.frames) / config.frames_per_second
    frames = np.zeros((config.frames, config.frame_size, config.frame_size, 3), np.uint8)
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        origin = _origin(container)
        # A key frame at or before the window: decoding starts there.
        if start > 0:
            container.seek(round((origin + start) * av.time_base), backward=True)
        step = float(1 / stream.average_rate) if stream.average_rate else 1 / config.frames_per_second
        claimed = _stream_seconds(stream)
        seen, next_target, previous, end = 0, 0, None, 0.0

        def show(until: float) -> int:
            index, image = next_target, None
            while index < config.frames and targets[index] + _TIME_TOLERANCE < until:
                if image is None:
                    assert previous is not None
                    image = _rgb(previous, config)
                frames[index] = image
                index += 1
            return index

        try:
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                time = frame.time - origin
                if previous is not None:
                    next_target = show(time)
                seen += 1
                previous = frame
                frame_seconds = float(frame.duration * stream.time_base) if frame.duration else step
                end = time + max(frame_seconds, _TIME_TOLERANCE)
                if next_target == config.frames or time > targets[-1] + 1.0:
                    break
        except av.error.FFmpegError as error:
            raise ClipError("unreadable", f"{path}: the video stream cannot be decoded ({error})") from error
        if previous is not None:
            next_target = show(end)
    _check_video(path, seen, end, claimed, targets, step)
    return frames


def _check_video(path: Path, seen: int, end: float, claimed: float | None, targets: np.ndarray, step: float) -> None:
    if seen < 2:
        raise ClipError("too_short", f"{path} holds {seen} video frame(s) in the clip's window")
    # What is left out at the end of a healthy file is at most a few frames.
    if claimed is not None and end + max(_TRUNCATION_TOLERANCE, 3 * step) < min(claimed, targets[-1]):
        raise ClipError("truncated", f"{path} claims {claimed:.2f} s of video and holds {end:.2f} s")


def _frames_decord(path: Path, config: MediaConfig, start: float) -> np.ndarray:
    import decord  # only decoding processes load it

    check_file(path)
    with _open(path) as container:
        stream = _video_stream(container, path)
        # decord counts time from the first video frame; the clip's origin is the container's.
        late = float((stream.start_time or 0) * stream.time_base) - _origin(container)
        claimed = _stream_seconds(stream)
    try:
        size = config.frame_size
        own = config.resize == "swscale"  # decord's resize, the one TimeChat's loader uses
        reader = decord.VideoReader(str(path), num_threads=1, **({"width": size, "height": size} if own else {}))
        stamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64)
        starts, ends = stamps[:, 0] - stamps[0, 0] + late, stamps[:, 1] - stamps[0, 0] + late
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
    step = 1 / config.frames_per_second
    _check_video(path, int(np.sum(starts >= start - step)), float(ends[-1]), claimed, targets, step)
    return frames


BACKENDS = {"decord": _frames_decord, "pyav": _frames_pyav}


def _resampled(container: Any, stream: Any, config: MediaConfig, origin: float) -> Iterator[tuple[float, Any]]:
    # 16 bit, as everybody's wav copies: only there does swresample keep a downmix within full scale.
    resampler = av.AudioResampler(format="s16", layout="mono", rate=config.sample_rate)
    time: float | None = None
    for frame in container.decode(stream):
        if time is None:
            time = (frame.time or 0.0) - origin
        for piece in resampler.resample(frame):
            yield time, piece.to_ndarray()[0] / np.float32(32768)
    if time is None:
        return
    for piece in resampler.resample(None):
        yield time, piece.to_ndarray()[0] / np.float32(32768)


def decode_waveform(path: str | Path, config: MediaConfig, start: float = 0.0) -> np.ndarray:
    """Sound of the window [start, start + seconds): float32 (samples,), zero where there is none.

    Raises :class:`ClipError` ``no_audio``, ``unreadable``, ``truncated`` or ``too_short``.
    """
    path = Path(path)
    waveform = np.zeros(config.samples, np.float32)
    with _open(path) as container:
        if not container.streams.audio:
            raise ClipError("no_audio", f"{path} has no audio stream")
        stream = container.streams.audio[0]
        origin = _origin(container)
        if start > 1:
            container.seek(round((origin + start - 1) * av.time_base), backward=True)
        claimed = _stream_seconds(stream)
        position: int | None = None
        heard = 0
        try:
            for begins, samples in _resampled(container, stream, config, origin):
                if position is None:
                    position = round((begins - start) * config.sample_rate)
                left, right = max(position, 0), min(position + len(samples), config.samples)
                if right > left:
                    waveform[left:right] = samples[left - position : right - position]
                    heard += right - left
                position += len(samples)
                if position >= config.samples:
                    break
        except av.error.FFmpegError as error:
            raise ClipError("unreadable", f"{path}: the audio stream cannot be decoded ({error})") from error
    if heard == 0 or position is None:
        raise ClipError("too_short", f"{path} has no sound between {start:g} and {start + config.seconds:g} s")
    end = start + position / config.sample_rate
    if claimed is not None and end + _TRUNCATION_TOLERANCE < min(claimed, start + config.seconds):
        raise ClipError("truncated", f"{path} claims {claimed:.2f} s of sound and holds {end:.2f} s")
    return waveform


def is_silent(waveform: np.ndarray, config: MediaConfig) -> bool:
    """True if the peak is below ``silence_threshold_db`` (dB relative to full scale)."""
    return float(np.max(np.abs(waveform), initial=0.0)) < 10 ** (config.silence_threshold_db / 20)


def second_backend(config: MediaConfig) -> str:
    """The decoder to try where the configured one fails."""
    return "pyav"


def _frames(path: Path, config: MediaConfig, start: float, backend: str | None) -> np.ndarray:
    if backend is not None:
        return BACKENDS[backend](path, config, start)
    try:
        return BACKENDS[config.backend](path, config, start)
    except ClipError as error:
        if config.backend == "pyav" or error.kind != "unreadable":
            raise
        return _frames_pyav(path, config, start)


def decode_clip(
    path: str | Path,
    config: MediaConfig,
    *,
    start: float = 0.0,
    backend: str | None = None,
    audio: bool = True,
    blank: bool = False,
) -> DecodedClip:
    """Decode one window of one file, once, for all encoders.

    A file whose sound is missing or unusable still gives its frames, with ``audio_fault`` set.
    ``backend`` None takes the configured one and, where that fails, PyAV. ``blank``: a window without a
    picture is black, not refused (one of a film that has its picture elsewhere). Raises :class:`ClipError`.
    """
    path = Path(path)
    check_file(path)
    try:
        frames = _frames(path, config, start, backend)
        shown = np.asarray(frames.reshape(config.frames, -1).any(axis=1))
    except ClipError as error:
        if not blank or error.kind != "too_short":
            raise
        frames = np.zeros((config.frames, config.frame_size, config.frame_size, 3), np.uint8)
        shown = np.zeros(config.frames, bool)
    waveform, fault = None, None
    if audio:
        try:
            waveform = decode_waveform(path, config, start)
            if is_silent(waveform, config):
                raise ClipError("silent", f"{path}: peak under {config.silence_threshold_db:g} dB of full scale")
        except ClipError as error:
            waveform, fault = None, error
    times = np.arange(config.frames) / config.frames_per_second
    return DecodedClip(frames, times, waveform, fault, shown)
