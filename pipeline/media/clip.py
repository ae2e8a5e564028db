"""One window of one file, decoded once for all encoders."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import ClipError, PresetError
from pipeline.media.container import check_file
from pipeline.media.decord_picture import frames_decord
from pipeline.media.picture import Pictures, frames_pyav
from pipeline.media.sound import decode_waveform
from presets.config import MediaConfig

BACKENDS = {"decord": frames_decord, "pyav": frames_pyav}


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


def is_silent(waveform: np.ndarray, config: MediaConfig) -> bool:
    """True if the peak is below ``silence_threshold_db`` (dB relative to full scale)."""
    return float(np.max(np.abs(waveform), initial=0.0)) < 10 ** (config.silence_threshold_db / 20)


def _has_decord() -> bool:
    return importlib.util.find_spec("decord") is not None


def _first_backend(config: MediaConfig) -> str:
    if config.backend == "decord" and not _has_decord():
        raise PresetError(
            "media.backend=decord needs the package decord, which is not installed (it is made for x86-64 under "
            "Linux and Windows alone): take auto or pyav"
        )
    if config.backend == "auto":
        return "decord" if config.resize == "swscale" and _has_decord() else "pyav"
    return config.backend


def second_backend(config: MediaConfig) -> str | None:
    """The decoder to try where the first one hangs or dies; None where there is no other.

    Raises :class:`PresetError` where the first one is not installed.
    """
    if _first_backend(config) == "decord":
        return "pyav"
    return "decord" if _has_decord() else None


def _pictures(path: Path, config: MediaConfig, start: float, backend: str | None) -> Pictures:
    first = backend or _first_backend(config)
    if first == "pyav" or backend is not None:
        return BACKENDS[first](path, config, start)
    try:
        return BACKENDS[first](path, config, start)
    except ClipError as error:
        if error.kind in ("missing_file", "empty_file", "no_video"):
            raise
        return frames_pyav(path, config, start)  # whatever decord's reason was, PyAV's word counts


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
    ``backend`` None takes the configured one and, where that is decord and fails, PyAV. ``blank``: a window
    without a picture is black, not refused (one of a film that has its picture elsewhere).
    Raises :class:`ClipError`, and :class:`PresetError` for a decoder that is not installed.
    """
    path = Path(path)
    check_file(path)
    pictures = _pictures(path, config, start, backend)
    on_screen = int(pictures.shown.sum())
    # One frame that is held is a picture; one that passes is not.
    if not blank and (on_screen == 0 or (on_screen < 2 and pictures.seen < 2)):
        window = f"between {start:g} and {start + config.seconds:g} s"
        raise ClipError("too_short", f"{path} shows no picture {window}, or a single frame that passes")
    waveform, fault = None, None
    if audio:
        try:
            waveform = decode_waveform(path, config, start)
            if is_silent(waveform, config):
                raise ClipError("silent", f"{path}: peak under {config.silence_threshold_db:g} dB of full scale")
        except ClipError as error:
            waveform, fault = None, error
    times = np.arange(config.frames) / config.frames_per_second
    return DecodedClip(pictures.frames, times, waveform, fault, pictures.shown)
