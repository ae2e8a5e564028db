"""Clips of a data set: of a folder of videos, or of a published list and a folder. A new one is a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from common.errors import InputError
from common.registry import Registry
from manifests.folders import VIDEO_SUFFIXES, find_videos
from manifests.lists import SPLIT_NAMES, ListedClip, published_visualsound, read_clips, read_names
from manifests.manifest import Clip
from manifests.names import clip_name, ids_of_files, parse_clip_name
from manifests.tars import label_of

# What ``python -m pipeline manifest --dataset NAME`` calls: with its list's file (or None) and the folder of videos.
DATASETS = Registry(
    "data set",
    vggsound="manifests.builders:clips_from_vggsound",
    visualsound="manifests.builders:clips_from_visualsound",
)


class FoundClips(list[Clip]):
    """Clips of a builder. ``left_out``: files and folders that could not be taken, and why; ``notes``: sentences."""

    def __init__(
        self, clips: Iterable[Clip] = (), left_out: Mapping[str, str] | None = None, notes: Sequence[str] = ()
    ):
        super().__init__(clips)
        self.left_out, self.notes = dict(left_out or {}), list(notes)


def clips_from_folder(folder: str | Path, split: str = "train") -> FoundClips:
    """Clips from any folder of videos.

    A folder named train, val, valid, validation or test gives the split (else ``split``); another
    folder directly above the file gives the label, or what lies beside a file in a tar does; VGGSound names give
    the YouTube id. Ids are made by :func:`manifests.names.ids_of_files`. Raises :class:`InputError` for a folder
    without videos.
    """
    folder = Path(folder)
    found = find_videos(folder)
    inside = [path.relative_to(folder) for path in found.paths]
    clips = FoundClips(left_out=found.left_out)
    for path, below, clip_id in zip(found.paths, inside, ids_of_files(inside, VIDEO_SUFFIXES), strict=True):
        parts, _ = _folders_above(path, below)
        splits = [SPLIT_NAMES[part.lower()] for part in parts if part.lower() in SPLIT_NAMES]
        youtube_id, start = parse_clip_name(path.stem) or (path.stem, 0)
        label, its_split = label_of_video(path, below), splits[-1] if splits else split
        clips.append(Clip(clip_id, youtube_id, start, label, its_split, str(path.absolute())))
    return clips


def label_of_video(path: Path, below: PurePath) -> str:
    """What lies beside a video in a tar says, else the folder right above; ``below``: its path below the folder of
    all."""
    parts, in_tar = _folders_above(path, below)
    folder = parts[-1] if parts and parts[-1].lower() not in SPLIT_NAMES else ""
    return (label_of(path) if in_tar else "") or folder.replace("_", " ")


def _folders_above(path: Path, below: PurePath) -> tuple[list[str], bool]:
    """The folders of a video without the tar that it lies in, and whether it lies in one."""
    in_tar = any(part.lower().endswith(".tar") for part in below.parts[:-1]) and not path.is_file()
    return [part for part in below.parts[:-1] if not (in_tar and part.lower().endswith(".tar"))], in_tar


def _clips_from_list(listed: Sequence[ListedClip], videos: str | Path | None, notes: Sequence[str]) -> FoundClips:
    """Clips of a list, each with its file of ``videos`` if there is one; of rows of one clip the first counts."""
    found = FoundClips(notes=notes)
    files: dict[str, Path] = {}
    others: list[str] = []
    if videos is not None:
        there = find_videos(videos)
        found.left_out = there.left_out
        for path in there.paths:
            if (name := parse_clip_name(path.stem)) and files.setdefault(clip_name(*name), path) is not path:
                others.append(str(path))
    rows: dict[str, ListedClip] = {}
    again: list[str] = []
    for row in listed:
        first = rows.setdefault(row.clip_id, row)
        if first is not row:
            again.append(row.clip_id if first == row else f"{row.clip_id} (with another label or split)")
    if again:
        found.notes.append(f"not counted, as an earlier row names the clip: {_listed(again, 'rows')}: {_some(again)}")
    if others:
        found.notes.append(f"not used, as another file is of the clip: {_listed(others, 'files')}: {_some(others)}")
    reason = f"no file for it in {videos} under any naming" if videos else "no folder of videos was given"
    for clip_id, row in rows.items():
        clip = Clip(
            clip_id, row.youtube_id, row.start_s, row.label, row.split, "", status="missing_file", reason=reason
        )
        if clip_id in files:
            clip = replace(clip, path=str(files[clip_id].absolute()), status="unprobed", reason="")
        found.append(clip)
    return found


def _listed(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what if len(things) != 1 else what.removesuffix('s')}"


def _some(things: Sequence[str], most: int = 5) -> str:
    return ", ".join(things[:most]) + (f" and {len(things) - most} more" if len(things) > most else "")


def clips_from_vggsound(path: str | Path, videos: str | Path | None = None) -> FoundClips:
    """Clips of ``vggsound.csv`` (no header: id, start second, label, split).

    Raises :class:`InputError` that names file and line; see :func:`manifests.lists.read_clips`.
    """
    listed, notes = read_clips(path)
    return _clips_from_list(listed, videos, notes)


def clips_from_visualsound(
    path: str | Path | None, videos: str | Path | None = None, validation: str | Path | None = None
) -> FoundClips:
    """Clips of the published VisualSound list (``filename,start,desc,split``); None: the one that comes with us.

    ``validation`` names the authors' list of training clips to set aside (one
    ``<id>_<start ms>_<end ms>`` a line); ours has them set aside. Raises :class:`InputError` that names file and line.
    """
    if path is None:
        if validation is not None:
            raise InputError(f"{validation}: the VisualSound list that comes with us has its validation clips already")
        return _clips_from_list(published_visualsound(), videos, [])
    listed, notes = read_clips(path, ("filename", "start", "desc", "split"))
    if validation is not None:
        held_out, more = read_names(validation)
        notes += more
        training = {(row.youtube_id, row.start_s) for row in listed if row.split == "train"}
        if lost := sorted(clip_name(*name) for name in held_out - training):
            notes.append(
                f"not in the training clips of {path}: {_listed(lost, 'names')} of {validation}: {_some(lost)}"
            )
        listed = [
            replace(row, split="validation")
            if row.split == "train" and (row.youtube_id, row.start_s) in held_out
            else row
            for row in listed
        ]
    return _clips_from_list(listed, videos, notes)
