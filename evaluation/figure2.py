"""The paper's Figure 2: of some clips frames, the true spectrogram, and that of each system, on one time axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.console import shown
from common.errors import ClipError, InputError
from common.outputs import check_output
from common.words import some
from common.writing import make_folder, replacing
from evaluation.systems import System, files_by_id
from generate.clip_files import file_of, video_of
from generate.origins import of_this_video
from generate.pictures import BINS, HOP, RANGE_DB, RATE, WINDOW, log_mel, mel_bin
from manifests.folders import VIDEO_SUFFIXES
from pipeline.media import decode_clip, decode_waveform, display_aspect
from pipeline.media.container import audio_stream, open_container
from pipeline.sources import SourceFile
from presets.config import MediaConfig

SUFFIXES = (".png", ".pdf", ".svg")
MOST_CLIPS = 12
_FRAMES, _FRAME_SIZE = 8, 256  # of a clip; pixels of a side before it is drawn
_PANEL, _SPECTROGRAM, _DPI = 3.4, 0.95, 200  # inches
_TICKS_KHZ = (0.25, 1, 2, 4, 8)


@dataclass(frozen=True)
class Column:
    """One clip of the figure.

    ``frames``: uint8 (T, S, S, 3) from the clip's start on, whatever its ``aspect`` (width by height). ``truth`` and
    ``sounds`` (by the system's name): 16-kHz waveforms, which may be shorter than ``seconds``.
    """

    clip_id: str
    label: str
    seconds: float
    frames: np.ndarray
    aspect: float
    truth: np.ndarray
    sounds: Mapping[str, np.ndarray]


def choose_clips(systems: Sequence[System], wanted: Sequence[str], count: int) -> list[str]:
    """The clips ``wanted``, or the first ``count`` that all systems have; raises :class:`InputError`."""
    if max(len(wanted), count) > MOST_CLIPS:
        raise InputError(f"a figure has room for {MOST_CLIPS} clips")
    for clip_id in wanted:
        for system in systems:
            if clip_id not in system.sounds:
                raise InputError(
                    f"there is no sound of clip '{clip_id}' in {system.folder} ({system.name}): it has "
                    f"{len(system.sounds)} clips, such as {some(list(system.sounds))}"
                )
    first, *others = systems
    chosen = list(dict.fromkeys(wanted)) or [c for c in first.sounds if all(c in other.sounds for other in others)]
    if not chosen:
        examples = "; ".join(f"{system.name}: {some(list(system.sounds), 2)}" for system in systems)
        raise InputError(f"no clip is in all of the folders ({examples}); sounds are matched by clip id")
    return chosen if wanted else chosen[:count]


def read_column(clip_id: str, systems: Sequence[System], videos: Path | None = None) -> Column:
    """Everything of one clip; raises :class:`InputError` that names it and what is missing.

    Picture and truth are those of the clip's own video (in ``videos``, else where ``made.parquet`` says), or, where
    that is gone, the copies in OUT/mp4 and OUT/truth.
    """
    try:
        lists = [system.made for system in systems if system.made is not None]
        media = next((made.media for made in lists if made.media is not None), MediaConfig())
        media = replace(media, sample_rate=RATE, frame_size=_FRAME_SIZE)
        video, own_sound = _video(clip_id, systems, videos)
        decoded = decode_clip(video, media, audio=own_sound)
        truth, fault = decoded.waveform, str(decoded.audio_fault or "its video is gone")
        if not own_sound:
            copies = [file_of(system.folder, "truth", clip_id) for system in systems]
            if (copy := next((path for path in copies if path.is_file()), None)) is not None:
                truth = decode_waveform(copy, media)
        if truth is None:
            raise InputError(f"clip '{clip_id}' has no true sound to show ({fault}); choose others with --clip")
        sounds = {system.name: _sound(system.sounds[clip_id], media) for system in systems}
        label = next((made.labels[clip_id] for made in lists if made.labels.get(clip_id)), "")
        return Column(clip_id, label, media.seconds, decoded.frames, display_aspect(video), truth, sounds)
    except ClipError as error:
        raise InputError(f"clip '{clip_id}' cannot be shown: {error}; choose others with --clip") from error


def _video(clip_id: str, systems: Sequence[System], videos: Path | None) -> tuple[Path, bool]:
    """The clip's video, and whether its sound is the clip's own."""
    if videos is not None:
        if (given := files_by_id(videos, VIDEO_SUFFIXES).get(clip_id)) is None:
            raise InputError(f"there is no video of clip '{clip_id}' in {videos}")
        return given, True
    gone = []
    for system in systems:
        source = (system.made.sources or {}).get(clip_id) if system.made is not None else None
        if source is None:
            continue
        file = SourceFile(source)
        others = [each for each in systems if each.made is not None and not of_this_video(each.sounds[clip_id], file)]
        if not file.size_and_time:
            gone.append(f"{source} is gone")
        elif system in others:
            gone.append(f"{source} is another file than when the sound in {system.folder} was made")
        elif others:
            raise InputError(
                f"clip '{clip_id}' is another video in {others[0].folder} ({others[0].name}) than in {system.folder} "
                f"({system.name}): {source}"
            )
        else:
            return source, True
    for system in systems:
        if copy := video_of(system.folder, clip_id):
            return system.folder / copy, False
    why = "; ".join(dict.fromkeys(gone)) or "none of the folders has a made.parquet that says where it is"
    raise InputError(f"there is no video of clip '{clip_id}' ({why}): give the folder of the videos with --videos")


def _sound(path: Path, media: MediaConfig) -> np.ndarray:
    """As long as it is: what is not there is not drawn as silence."""
    waveform = decode_waveform(path, media)
    with open_container(path) as container:
        stream = audio_stream(container, path)
        length = float(stream.duration * stream.time_base) if stream.duration else media.seconds
    return waveform[: round(min(length, media.seconds) * media.sample_rate)]


def check_figure(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise :class:`InputError` for a suffix that is none of :data:`SUFFIXES`, and as :func:`check_output`."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--to {path}: a figure is one of {', '.join(SUFFIXES)}")
    check_output(path, inputs)


def write_figure2(path: Path, columns: Sequence[Column]) -> None:
    """:func:`draw_figure2` as a file of the kind that the suffix of ``path`` says; raises WriteError."""
    import matplotlib as mpl

    figure = draw_figure2(columns)
    make_folder(path.parent)
    with replacing(path) as temporary, mpl.rc_context({"pdf.fonttype": 42}):  # text that can be searched and edited
        figure.savefig(temporary, dpi=_DPI)


def draw_figure2(columns: Sequence[Column]) -> Figure:
    """A column a clip; a row each for frames, truth and systems.

    All spectrograms share their axes and one scale of colours: dB below the loudest of the figure, 70 dB deep.
    """
    sounds = [{"truth": column.truth, **column.sounds} for column in columns]
    names = list(sounds[0])
    levels = [{name: _levels(sound[name]) for name in names} for sound in sounds]
    loudest = max(float(each.max()) for column in levels for each in column.values())
    strip = max(_PANEL / _FRAMES / column.aspect for column in columns)
    heights = [strip, *[_SPECTROGRAM] * len(names)]
    figure = Figure(figsize=(_PANEL * len(columns) + 1.1, sum(heights) + 1.0), layout="constrained")
    grid = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
    image: Any = None
    for number, (column, level) in enumerate(zip(columns, levels, strict=True)):
        _draw_frames(grid[0][number], column, strip)
        for row, name in enumerate(names, start=1):
            axes = grid[row][number]
            image = _draw_levels(axes, level[name], column.seconds, loudest)
            axes.tick_params(labelsize=7, labelleft=number == 0, labelbottom=row == len(names))
            if number == 0:
                axes.set_ylabel(f"{shown(name)}\nkHz", fontsize=8, parse_math=False)
        grid[-1][number].set_xlabel("seconds", fontsize=8)
    bar = figure.colorbar(image, ax=list(grid[1:].ravel()), aspect=20 * len(names), pad=0.01)
    bar.set_label("dB relative to the loudest", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _levels(waveform: np.ndarray) -> np.ndarray:
    """Log-mel (bins, frames) whose frame k is centred at k * 10 ms."""
    return log_mel(np.pad(waveform, WINDOW // 2))


def _draw_levels(axes: Any, levels: np.ndarray, seconds: float, loudest: float) -> Any:
    step = HOP / RATE
    image = axes.imshow(
        levels - loudest,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-RANGE_DB,
        vmax=0,
        extent=(-step / 2, (levels.shape[1] - 0.5) * step, -0.5, BINS - 0.5),
        interpolation="nearest",
        rasterized=True,
    )
    axes.set(xlim=(0, seconds), ylim=(-0.5, BINS - 0.5))
    axes.set_yticks([mel_bin(1000 * tick) for tick in _TICKS_KHZ], [f"{tick:g}" for tick in _TICKS_KHZ])
    return image


def _draw_frames(axes: Any, column: Column, strip: float) -> None:
    """Each frame is drawn around the time at which it is on screen."""
    slot = column.seconds / _FRAMES
    height = _PANEL / _FRAMES / column.aspect / strip
    for number in range(_FRAMES):
        at = min(math.floor((number + 0.5) / _FRAMES * len(column.frames)), len(column.frames) - 1)
        place = (number * slot, (number + 1) * slot, 0, height)
        axes.imshow(column.frames[at], extent=place, aspect="auto", rasterized=True)
        axes.axvline(number * slot, color="white", linewidth=1)
    axes.set(xlim=(0, column.seconds), ylim=(0, 1))
    axes.axis("off")
    title = shown(column.label or column.clip_id)
    axes.set_title(title if len(title) <= 48 else f"{title[:47]}…", fontsize=9, parse_math=False)
