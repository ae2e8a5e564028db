"""The files of one clip in OUT, written in a worker, the wav last: a clip that has it is complete.

``wav`` (10 s) and ``wav_8s`` (the crop that evaluation reads) of every clip; of those that are shown its video with
the new sound (``mp4``, mkv where the codec asks for it), its picture (``png``) and the true sound (``truth``), too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ClipError
from common.writing import write_error
from generate.mux import Picture, mux, plan_picture
from generate.origins import Origin
from generate.pictures import draw_clip
from manifests.manifest import Clip
from pipeline.decoding import Call
from pipeline.media import check_file, decode_clip, is_silent, second_backend
from pipeline.media.writing import read_wav, to_16_bit, write_wav
from pipeline.sources import SourceFile
from presets.config import MediaConfig

EVALUATION_SECONDS = 8  # paper section 4.2
VIDEO_SUFFIXES = (".mp4", ".mkv")  # what a clip's video may be called, in the order of preference
FOLDERS = {"wav": (".wav",), "wav_8s": (".wav",), "mp4": VIDEO_SUFFIXES, "png": (".png",), "truth": (".wav",)}
NOT_FINITE = "the sampler gave NaN or Inf; try generation.precision=float32, or another seed"
_NO_VIDEO = "without its video: "


@dataclass(frozen=True)
class ClipFiles:
    """What is to be written of one clip, and how.

    ``rate``: of the sound, Hz. ``shown``: with video, picture and truth. ``title``: of the picture.
    """

    clip: Clip
    out: Path
    media: MediaConfig
    rate: int
    shown: bool
    title: str = ""
    video_codec: str = "auto"

    def path(self, folder: str) -> Path:
        return file_of(self.out, folder, self.clip.clip_id)


def file_of(out: Path, folder: str, clip_id: str) -> Path:
    """Where a clip's file of this folder is, or would be."""
    return out / folder / f"{clip_id}{FOLDERS[folder][0]}"


def video_of(out: Path, clip_id: str) -> str:
    """The clip's video relative to ``out``; empty if it has none."""
    names = (f"mp4/{clip_id}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((name for name in names if (out / name).is_file()), "")


def lacking(files: ClipFiles) -> bool:
    """Whether a clip that has its wav lacks another file that is wanted."""
    there = files.path("wav_8s").is_file()
    if files.shown:
        there = there and files.path("png").is_file() and bool(video_of(files.out, files.clip.clip_id))
    return not there


def remove_clip(out: Path, clip_id: str) -> None:
    """Remove all files of one clip, the wav first: without it, the others are not taken for complete."""
    for folder, suffixes in FOLDERS.items():
        for suffix in suffixes:
            _remove(out / folder / f"{clip_id}{suffix}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def writing(files: ClipFiles, waveform: np.ndarray, conditions: str, seconds: float) -> Call:
    """The call that writes all files of a clip; see :func:`write_clip`. ``seconds``: its limit."""
    return _patient(files, write_clip, (files, waveform, conditions), seconds)


def adding(files: ClipFiles, seconds: float) -> Call:
    """The call that writes what a clip lacks beside its wav; see :func:`add_files`."""
    return _patient(files, add_files, (files,), seconds)


def _patient(files: ClipFiles, function: Callable[..., str], arguments: tuple[Any, ...], seconds: float) -> Call:
    """Where a decoder hangs or dies: with the other one; and where the picture does it, without a video."""
    other: dict[str, Any] = {"backend": second_backend(files.media)}
    ways: list[dict[str, Any]] = [{}, other, {**other, "video": False}] if files.shown else [{}]
    limit = 2 * seconds if files.shown else seconds
    call = None
    for options in reversed(ways):
        call = Call(function, arguments, options, files.clip.path, limit, otherwise=call)
    assert call is not None
    return call


def write_clip(
    files: ClipFiles, waveform: np.ndarray, conditions: str, backend: str | None = None, video: bool = True
) -> str:
    """All files of one clip, the wav last; returns what is to be said of its video, if anything.

    ``waveform``: (samples,). ``conditions``: of its :class:`Origin`, which is kept in the wav. ``video`` False: its
    picture has hung or ended a worker. A picture that gets into no container costs the clip its video, not its
    sound. Raises :class:`ClipError` for a video that is not there or, where it is shown, cannot be decoded, and for
    sound that is none; :class:`common.errors.WriteError` if ``out`` cannot be written.
    """
    if not np.isfinite(waveform).all():
        raise ClipError("non_finite", NOT_FINITE)
    if is_silent(waveform, files.media):
        level = files.media.silence_threshold_db
        raise ClipError("silent", f"the generated waveform stays under {level:g} dB")
    check_file(Path(files.clip.path))
    origin = Origin(conditions, SourceFile(files.clip.path)).to_text()
    note = ""
    if files.shown:  # of the sound as the wav has it: the same bytes if they are made from it later
        note = _write_shown(files, to_16_bit(waveform).astype(np.float32) / 32768, backend, video)
    write_wav(files.path("wav_8s"), waveform[: EVALUATION_SECONDS * files.rate], files.rate)
    write_wav(files.path("wav"), waveform, files.rate, origin)
    return note


def add_files(files: ClipFiles, backend: str | None = None, video: bool = True) -> str:
    """What a clip lacks beside its wav, made from that; returns what is to be said of its video.

    Raises :class:`ClipError` where the video cannot be decoded, and :class:`common.errors.WriteError`.
    """
    waveform, rate = read_wav(files.path("wav"))
    note = _write_shown(files, waveform, backend, video) if files.shown else ""
    # Half a step up: what is rounded again stays as it is.
    write_wav(files.path("wav_8s"), waveform[: EVALUATION_SECONDS * rate] * (32768 / 32767), rate)
    return note


def _write_shown(files: ClipFiles, waveform: np.ndarray, backend: str | None, video: bool) -> str:
    """Video, truth and, last of the three, the picture."""
    check_file(Path(files.clip.path))
    decoded = decode_clip(files.clip.path, files.media, backend=backend)
    note = f"{_NO_VIDEO}reading its picture hangs, or ends the process"
    if video:
        note = _write_video(files, waveform)
    if decoded.waveform is not None:
        write_wav(files.path("truth"), decoded.waveform, files.media.sample_rate)
    else:  # a killed run may have left that of another file
        _remove(files.path("truth"))
    draw_clip(files.path("png"), files.title, decoded.frames, waveform, decoded.waveform, files.media.seconds)
    return note


def _write_video(files: ClipFiles, waveform: np.ndarray) -> str:
    clip = files.clip
    try:
        picture: Picture = plan_picture(clip.path, VIDEO_SUFFIXES[0], files.video_codec)
        path = files.out / "mp4" / f"{clip.clip_id}{picture.suffix}"
        mux(clip.path, waveform, files.rate, path, picture)
    except ClipError as error:
        return f"{_NO_VIDEO}{error.message}"
    return picture.note


def names_of(out: Path, clip_ids: Sequence[str]) -> set[Path]:
    """Every file that these clips may have."""
    return {
        out / folder / f"{clip_id}{suffix}"
        for folder, suffixes in FOLDERS.items()
        for suffix in suffixes
        for clip_id in clip_ids
    }
