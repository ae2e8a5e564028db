"""Where output may go: decided before any work, and the one place that says why not.

An input is never written over, also not through a link. A file that the user did not name (the sound kept beside a
video, Matroska where mp4 cannot be) is written over only if this program made it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av

from common.errors import InputError, WriteError
from common.outputs import check_output
from common.writing import write_error
from generate.mux import CONTAINERS, Picture, check_audio, plan_own_sound, plan_picture
from generate.picture_track import Part
from pipeline.decoding import killable
from pipeline.media import probe
from pipeline.media.container import open_media
from pipeline.media.resampling import check_rate
from pipeline.media.writing import MADE_BY

SOUND_SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class Output:
    """Files of one video: ``sound`` always, ``video`` with its ``picture`` unless the sound alone was asked for.

    ``notes``: what the user should know before anything is computed, that of the picture among it.
    """

    sound: Path
    video: Path | None = None
    picture: Picture | None = None
    notes: tuple[str, ...] = ()


def plan_output(
    video: Path,
    asked: Path,
    codec: str = "auto",
    seconds: float = 60.0,
    *,
    audio: str = "replace",
    gain: float = 0.0,
    start: float = 0.0,
    duration: float | None = None,
    rate: int | None = None,
) -> Output:
    """What ``-o asked`` means for one video: a file by its suffix, or a folder, where the video keeps its name.

    ``seconds``: the limit for looking at the video. ``audio``, ``gain``, ``start``, ``duration``: see
    :func:`generate.mux.mux`; ``rate``: of the sound alone, in Hz. With the codec ``copy``, a file that was named is
    never another one. Raises :class:`WriteError` for what cannot be written, :class:`InputError` for arguments
    that cannot be, :class:`common.errors.ClipError` for a video without a picture that can get there.
    """
    check_rate(rate)
    check_audio(audio, gain)
    part = Part(start, duration)
    known = (*CONTAINERS, *SOUND_SUFFIXES)
    suffix = asked.suffix.lower()
    if _is_folder(asked) and suffix in known:
        raise write_error(asked, OSError(errno.EISDIR, ""))
    if _is_folder(asked) or not suffix:
        path = asked / f"{video.stem}.mp4"
    elif suffix in known:
        path = asked
    else:
        raise WriteError(
            f"cannot write {asked}: there is no output of kind '{suffix}'. To go on: take {', '.join(CONTAINERS)} for "
            f"picture and sound, {' or '.join(SOUND_SUFFIXES)} for the sound alone, or a folder that is there"
        )
    check_output(path, [video])
    suffix = path.suffix.lower()
    if suffix in SOUND_SUFFIXES and audio != "replace":
        raise InputError(f"{path} holds the generated sound alone: for --audio {audio} take {', '.join(CONTAINERS)}")
    if not part.whole:
        length = killable(probe, video, seconds=seconds).duration_s
        if length and start >= length:
            raise InputError(f"{video} is {length:.2f} s long: no part of it starts at {start:g} s")
    if suffix in SOUND_SUFFIXES:
        return Output(path)
    named = path == asked
    picture: Picture = killable(
        plan_picture,
        video,
        suffix,
        codec,
        start=start,
        duration=duration,
        fallback=codec != "copy" or not named,
        seconds=seconds,
    )
    own = killable(plan_own_sound, video, picture.suffix, audio, gain, start=start, seconds=seconds)
    film = path if picture.suffix == suffix else path.with_suffix(picture.suffix)
    notes = tuple(note for note in (picture.note, own.note) if note)
    output = Output(path.with_suffix(".wav"), film, picture, notes)
    for other in (output.sound, output.video):
        if other is not None and other != path:
            check_output(other, [video])
            if not made_here(other):
                raise WriteError(
                    f"cannot write {other}, which belongs to {path}: a file of this name is there that this program "
                    f"did not make. To go on: move it away, or choose another -o"
                )
    return output


def check_not_inputs(out: Path, names: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise :class:`WriteError` if one of the files to be written, directly in folders of ``out``, is an input."""
    names, there = set(names), set[Path]()
    for folder in {path.parent for path in names}:
        with suppress(OSError):
            there.update(folder / name for name in os.listdir(folder))
    if not (written := names & there):
        return
    given: dict[tuple[int, int], Path] = {}
    for path in inputs:
        with suppress(OSError, ValueError):
            found = path.stat()
            given[found.st_dev, found.st_ino] = path
    for path in written:
        with suppress(OSError):
            found = path.stat()
            if (video := given.get((found.st_dev, found.st_ino))) is not None:
                raise WriteError(
                    f"cannot write into {out}: {path} is the input {video} itself, which is never written over. "
                    f"To go on: choose another OUT folder"
                )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise write_error(path, error) from error


def made_here(path: Path) -> bool:
    """Whether this program wrote the file (or none is there)."""
    if not path.exists():
        return True
    try:
        with open_media(str(path.absolute())) as file:
            return any(MADE_BY in value for value in file.metadata.values())
    except (av.error.FFmpegError, OSError, ValueError):
        return False
