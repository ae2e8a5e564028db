"""What is to be made of a folder of videos, and where: decided, and said, before anything is computed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from common.errors import CacheError, InputError, WriteError
from common.outputs import check_folder
from generate.film_record import FilmRecord, FilmTask, MadeFilm
from generate.labels import Labels, labels_of_folders, labels_of_table
from generate.mux import CONTAINERS
from generate.outputs import SOUND_SUFFIXES, check_not_inputs, made_here
from manifests.folders import GENERATED, VIDEO_SUFFIXES, find_videos

_NAMED = 5


@dataclass
class FilmPlan:
    """``tasks`` in a stable order, ``left_out``: what could not be taken, and why; ``notes``: sentences."""

    tasks: list[FilmTask] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan_folder(
    folder: Path, out: Path, suffix: str = ".mp4", label: str | None = None, table: Path | None = None
) -> FilmPlan:
    """Every video below ``folder``, mirrored below ``out``.

    ``label``: one for all; ``table``: see :func:`labels_of_table`; by default the folders' names. Raises
    :class:`InputError` for a folder without videos, a table that cannot be read and a suffix that is none,
    :class:`WriteError` if nothing can be written in ``out``, or an output would be an input, :class:`CacheError` for
    an ``out`` with the clips of a split.
    """
    known = (*CONTAINERS, *SOUND_SUFFIXES)
    if suffix not in known:
        raise InputError(f"there is no output of kind '{suffix}': there are {', '.join(known)}")
    found = find_videos(folder)
    real, root = os.path.realpath(out), os.path.realpath(folder)
    # OUT inside of the videos: what is in it was made, or is in the way of what will be.
    apart = [path for path in found.paths if real == root or not Path(os.path.realpath(path)).is_relative_to(real)]
    if not apart:
        raise InputError(f"{folder} holds no videos besides those in the output folder {out}")
    inside = [path.relative_to(folder) for path in apart]
    if table is not None:
        labels = labels_of_table(table, inside, folder)
    else:
        labels = labels_of_folders(folder, inside) if label is None else Labels([label] * len(inside))
    names = [f"{stem}{suffix}" for stem in output_stems(inside)]
    tasks = [
        FilmTask(path, below.as_posix(), its_label, out / below.parent / name, (below.parent / name).as_posix())
        for path, below, its_label, name in zip(apart, inside, labels.labels, names, strict=True)
    ]
    check_folder(out)
    if all((out / name).exists() for name in GENERATED):
        raise CacheError(f"{out} holds the clips of a split: use another OUT folder for a folder of videos")
    check_not_inputs(out, {path for task in tasks for path in task.outputs}, apart)
    return FilmPlan(tasks, found.left_out, labels.notes)


def output_stems(videos: Sequence[PurePath]) -> list[str]:
    """A file name without suffix for each video, distinct in its folder.

    Of ``a.mp4`` and ``a.mkv`` the kind that stands first in :data:`VIDEO_SUFFIXES` keeps its name, the other becomes
    ``a__mkv``, as in a manifest. Raises :class:`InputError` where that is another video's name.
    """
    ranks = {suffix: rank for rank, suffix in enumerate(VIDEO_SUFFIXES)}
    groups: dict[tuple[PurePath, str], list[int]] = defaultdict(list)
    for index in sorted(range(len(videos)), key=lambda i: (ranks.get(videos[i].suffix.lower(), len(ranks)), videos[i])):
        groups[videos[index].parent, videos[index].stem].append(index)
    stems = [video.stem for video in videos]
    for group in groups.values():
        for index in group[1:]:
            stems[index] += f"__{videos[index].suffix[1:]}"
    taken: dict[tuple[PurePath, str], PurePath] = {}
    for video, stem in zip(videos, stems, strict=True):
        if (other := taken.setdefault((video.parent, stem), video)) is not video:
            raise InputError(f"{other} and {video} would both be written as '{stem}': rename one of them")
    return stems


def sort_out_done(
    tasks: Sequence[FilmTask], record: FilmRecord, settings: str
) -> tuple[list[FilmTask], list[MadeFilm], list[FilmTask]]:
    """What is to be made, what is there already, and which of the first was made from something else before.

    Raises :class:`WriteError` where an output would replace a file that this program did not make.
    """
    todo, done, changed = [], [], []
    foreign = []
    for task in tasks:
        if (film := record.made_from(task, settings)) is not None:
            done.append(film)
            continue
        todo.append(task)
        ours = set()
        if record.is_ours(before := record.films.get(task.asked)):
            changed.append(task)
            ours = {record.out / before.output}
        foreign += [path for path in task.outputs if path not in ours and not made_here(path)]
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if foreign[_NAMED:] else ""
        raise WriteError(
            f"cannot write {', '.join(map(str, foreign[:_NAMED]))}{more}: files of these names are there that this "
            f"program did not make. To go on: move them away, or choose another -o"
        )
    return todo, done, changed
