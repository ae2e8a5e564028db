"""One window of one file, decoded once for all encoders."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import ClipError, InputError, PresetError
from pipeline.media.container import check_file
from pipeline.media.decord_picture import frames_decord
from pipeline.media.picture import Pictures, frames_pyav
from pipeline.media.sound import decode_waveforms
from presets.config import MediaConfig

BACKENDS = {"decord": frames_decord, "pyav": frames_pyav}


@dataclass(frozen=True)
class DecodedClip:
    """What every encoder reads.

    ``frames``: uint8 (frames, size, size, 3), RGB, black where the video has ended.
    ``waveform``: float32 (samples,) in [-1, 1], mono at ``media.sample_rate`` (16 kHz), zero outside the sound stream,
    or None with the reason in ``audio_fault``. ``waveforms``: that, and the same at every other rate (Hz) that was
    asked for, each resampled from the decoded sound itself. ``times``: seconds of each frame from the clip's start.
    ``shown``: bool (frames,), whether the picture is on screen at that time.
    """

    frames: np.ndarray
    times: np.ndarray
    waveform: np.ndarray | None
    audio_fault: ClipError | None
    shown: np.ndarray
    waveforms: Mapping[int, np.ndarray] = field(default_factory=dict)

    def sound(self, rate: int | None = None) -> np.ndarray:
        """The waveform at ``rate`` Hz; None: at that of ``media``.

        Raises its ``audio_fault``, and :class:`InputError` for a rate that was not asked for when it was decoded.
        """
        if self.audio_fault is not None:
            raise self.audio_fault
        found = self.waveform if rate is None else self.waveforms.get(rate)
        if found is None:
            rates = ", ".join(map(str, sorted(self.waveforms))) or "no rate"
            raise InputError(f"a clip was decoded without sound at {rate or 'any rate'} Hz: it has {rates}")
        return found


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
    rates: Collection[int] = (),
) -> DecodedClip:
    """Decode one window of one file, once, for all encoders.

    ``rates``: in Hz, at which the sound is wanted besides ``media.sample_rate``. A file whose sound is missing or
    unusable still gives its frames, with ``audio_fault`` set. ``backend`` None takes the configured one and, where that
    is decord and fails, PyAV. ``blank``: a window without a picture is black, not refused (one of a film that has its
    picture elsewhere).
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
    waveforms: dict[int, np.ndarray] = {}
    fault = None
    if audio:
        try:
            waveforms = decode_waveforms(path, config, rates, start)
            if is_silent(waveforms[config.sample_rate], config):  # whatever other rates an encoder hears it at
                raise ClipError("silent", f"{path}: peak under {config.silence_threshold_db:g} dB of full scale")
        except ClipError as error:
            waveforms, fault = {}, error
    times = np.arange(config.frames) / config.frames_per_second
    waveform = waveforms.get(config.sample_rate)
    return DecodedClip(pictures.frames, times, waveform, fault, pictures.shown, waveforms)
