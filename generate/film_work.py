"""What worker processes do beside the sampler for a folder of videos: look at one, write its output. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import ClipError
from generate.mux import CONTAINERS, Picture, mux, plan_own_sound, plan_picture
from generate.windows import part_seconds, window_name, window_rows
from pipeline.media import DecodedClip, check_file, decode_clip, probe
from pipeline.media.writing import read_wav_parts, write_flac, write_wav
from pipeline.sources import SourceFile
from presets.config import MediaConfig


@dataclass(frozen=True)
class FilmOptions:
    """What is asked of each video besides its label; the names are those of :func:`generate.mux.mux`.

    ``codec`` and ``fallback``: see :func:`generate.mux.plan_picture`. ``rate``: of the sound alone, None for the
    model's.
    """

    candidates: int = 1
    start: float = 0.0
    duration: float | None = None
    audio: str = "replace"
    gain: float = 0.0
    rate: int | None = None
    codec: str = "auto"
    fallback: bool = True


@dataclass(frozen=True)
class Windows:
    """How a film is cut: the media settings, the overlap, what a row of the latents covers (both in seconds), and
    how many windows one look gives at most."""

    media: MediaConfig
    overlap: float
    row: float
    most: int


@dataclass(frozen=True)
class Seen:
    """A video that was looked at: its ``state`` (:attr:`SourceFile.state`), length and windows in rows, and what
    becomes of its picture (None for the sound alone). ``decoded``: its windows, none where they are too many."""

    state: str
    seconds: float
    rows: list[int]
    decoded: list[DecodedClip]
    picture: Picture | None = None
    note: str = ""


def look(path: str, suffix: str, options: FilmOptions, windows: Windows, backend: str | None = None) -> Seen:
    """All that is to be known of a video before its sound is made. Raises :class:`ClipError`, :class:`InputError`."""
    video, media = Path(path), windows.media
    check_file(video)
    state = SourceFile(video).state
    seconds = part_seconds(probe(video).duration_s or media.seconds, options.start, options.duration, video)
    picture, note = None, ""
    if suffix in CONTAINERS:
        start, duration = options.start, options.duration
        picture = plan_picture(video, suffix, options.codec, start=start, duration=duration, fallback=options.fallback)
        own = plan_own_sound(video, picture.suffix, options.audio, options.gain, start=start)
        note = "; ".join(filter(None, (picture.note, own.note)))
    rows = window_rows(seconds, media.seconds, windows.overlap, windows.row)
    decoded = []
    for number, row in enumerate(rows if len(rows) <= windows.most else ()):
        begin = options.start + row * windows.row
        try:
            decoded.append(decode_clip(video, media, start=begin, backend=backend, audio=False, blank=True))
        except ClipError as error:
            if len(rows) == 1:
                raise
            name = window_name(number, rows, options.start, seconds, media.seconds, windows.row)
            raise ClipError(error.kind, f"{name}: {error.message}") from error
    return Seen(state, seconds, rows, decoded, picture, note)


def write_output(
    video: str, sound: np.ndarray | Path, rate: int, out: Path, picture: Picture | None, options: FilmOptions
) -> str:
    """Write the sound (a waveform, or the wav with it), alone or with the picture; returns the state of what is there.

    Raises as :func:`generate.mux.mux`.
    """
    if picture is None:
        write_sound(out, sound, rate, options.rate)
    else:
        mux(
            video, sound, rate, out, picture,
            audio=options.audio, gain=options.gain, start=options.start, duration=options.duration,
        )  # fmt: skip
    return SourceFile(out).state


def write_sound(out: Path, sound: np.ndarray | Path, sample_rate: int, rate: int | None = None) -> None:
    """The sound alone as wav or flac, by the suffix, at ``rate`` Hz."""
    parts = read_wav_parts(sound) if isinstance(sound, Path) else sound
    write = write_flac if out.suffix.lower() == ".flac" else write_wav
    write(out, parts, sample_rate, rate=rate)
