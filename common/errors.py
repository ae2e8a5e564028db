"""Typed errors. Every error a user can cause carries the exit code of the command that meets it.

Exit codes: 0 done, 1 a defect of ours, 2 wrong usage (typer), 3 wrong preset, 4 bad input,
5 weights missing or wrong, 6 a cache or checkpoint that does not fit, or a file that cannot be written,
7 too many clips failed, 8 some of what was asked for could not be made.
"""

from __future__ import annotations

from typing import Literal


class MFMError(Exception):
    """Base of all errors whose message is meant for the user; ``exit_code`` is the command's."""

    exit_code = 1


class PresetError(MFMError, ValueError):
    """The preset does not exist or cannot be read, or a setting is unknown, of the wrong type or out of range."""

    exit_code = 3


class InputError(MFMError):
    """The user's files or arguments cannot be used: a missing file, a folder without videos."""

    exit_code = 4


class WeightsError(MFMError):
    """A checkpoint is missing, or is not what its name says."""

    exit_code = 5


class CacheError(MFMError):
    """A cache is damaged, incomplete, or was made by other weights or settings."""

    exit_code = 6


class WriteError(MFMError):
    """A file cannot be written: a full disk, a read-only or forbidden folder. Raised by :mod:`common.writing`."""

    exit_code = 6


class FailureRateError(MFMError):
    """More clips failed than ``cache.max_failure_rate`` allows."""

    exit_code = 7


class IncompleteError(MFMError):
    """The command finished, but some of what was asked for could not be made (each is named)."""

    exit_code = 8


class DeviceMemoryError(MFMError):
    """The device has too little memory for a batch."""

    exit_code = 8


FaultKind = Literal[
    "missing_file", "empty_file", "unreadable", "no_video", "no_audio", "truncated",
    "timestamps", "too_short", "silent", "timeout", "crashed", "non_finite",
]  # fmt: skip

FAULTS: dict[str, str] = {
    "missing_file": "the manifest names a file that is not there",
    "empty_file": "the file has no bytes",
    "unreadable": "the file cannot be opened, or too much of its stream cannot be decoded",
    "no_video": "there is no video stream (cover art does not count)",
    "no_audio": "there is no audio stream, so there is no audio target",
    "truncated": "the streams end before the duration that the container claims",
    "timestamps": "the time stamps of the picture are missing, go back or lie outside of the file",
    "too_short": "no picture, a single frame that passes, or no sample inside the clip",
    "silent": "the peak of the waveform is under media.silence_threshold_db",
    "timeout": "no decoder finished within cache.decode_timeout_seconds",
    "crashed": "the decoding process died",
    "non_finite": "the output of an encoder, or of the sampler, has NaN or Inf",
}


class ClipError(MFMError):
    """One clip cannot be used. ``kind`` is one of :data:`FAULTS`; the job goes on without it."""

    exit_code = 4

    def __init__(self, kind: FaultKind, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind: FaultKind = kind
        self.message = message

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str]]:  # crosses process borders
        return (type(self), (self.kind, self.message))
