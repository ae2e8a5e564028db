"""Videos below a folder: every kind that people have, each folder once, and what had to be left out by name."""

from __future__ import annotations

import json
import os
import tarfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.writing import is_hidden
from manifests.tars import members

# What is looked for. Where two files have one name, the kind that stands first keeps the plain clip id.
VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".qt", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".gif",
)  # fmt: skip
# What stands in every folder that ``python -m generate`` wrote; its videos are in ``mp4`` there.
GENERATED = ("made.parquet", "settings.json", "wav")
# What ``python -m generate FOLDER -o OUT`` keeps in OUT: a line of JSON for each video it made there.
MADE_FILMS = "generated.jsonl"


@dataclass
class Videos:
    """``paths`` in a stable order; ``left_out``: what could not be taken, and why."""

    paths: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def is_text(name: str) -> bool:
    """Whether a name of the file system is Unicode; a manifest can hold no other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_videos(folder: str | Path) -> Videos:
    """All video files below a folder; raises :class:`InputError` if there are none or it cannot be read.

    Links to files and folders are followed, but each folder is read once, under its own name where that is below
    ``folder`` too, and a link to a folder above it is not followed. Hidden files and folders are not looked at,
    nor are videos that ``python -m generate`` wrote. Videos in tars count (:mod:`manifests.tars`).
    """
    folder = Path(folder)
    if not is_text(str(folder.absolute())):
        raise InputError(f"the path {folder.absolute()} is not UTF-8, which a manifest cannot hold: rename that folder")
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        raise InputError(f"the folder {folder} cannot be read: {_reason(error)}") from error
    found = _walk(folder)
    if not found.paths:
        lost = "".join(f"\n  left out: {path}: {reason}" for path, reason in list(found.left_out.items())[:10])
        raise InputError(f"{folder} holds no videos ({', '.join(VIDEO_SUFFIXES)}){lost}")
    found.paths.sort()
    return found


def _walk(folder: Path) -> Videos:
    found = Videos()
    seen: set[str] = set()
    ours: set[str] = set()
    folders, links = deque([folder]), deque[Path]()  # links wait, so that folders go by their own names
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as opened:
                entries = sorted(opened, key=lambda entry: entry.name)
        except OSError as error:
            found.left_out[str(here)] = f"the folder cannot be read: {_reason(error)}"
            continue
        names = {entry.name for entry in entries}
        made = names.issuperset(GENERATED)
        if MADE_FILMS in names:  # folders come before those in them
            films = read_made_films(here / MADE_FILMS)
            ours.update(os.path.join(real, str(film["output"])) for film in films if film.get("output"))
        for entry in entries:
            if os.path.join(real, entry.name) in ours:
                continue
            if made and entry.name == "mp4":  # generated sound must not come back as the truth
                found.left_out[entry.path] = "it holds what make generate made: give another OUT, outside of the videos"
            elif not is_hidden(entry.name):
                _sort_in(entry, real, found, folders, links)
    return found


def read_made_films(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a :data:`MADE_FILMS` that can be read; none where there is no such file."""
    with suppress(OSError), path.open("rb") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                if isinstance(film := json.loads(line), dict):
                    yield film


def _sort_in(entry: os.DirEntry[str], parent: str, found: Videos, folders: deque[Path], links: deque[Path]) -> None:
    path = Path(entry.path)
    video = path.suffix.lower() in VIDEO_SUFFIXES
    try:
        is_folder, is_link = entry.is_dir(), entry.is_symlink()
    except OSError as error:
        is_folder, is_link, video = False, False, False
        found.left_out[entry.path] = _reason(error)
    if (is_folder or video) and not is_text(entry.name):
        found.left_out[entry.path] = "its name is not UTF-8, which a manifest cannot hold: rename it"
    elif is_folder and not is_link:
        folders.append(path)
    elif is_folder:
        target = os.path.realpath(path)
        if Path(parent).is_relative_to(target):
            found.left_out[entry.path] = f"it is a link back to {target}, which it lies in"
        else:
            links.append(path)
    elif video:
        found.paths.append(path)
    elif path.suffix.lower() == ".tar":
        _look_into(path, found)
    elif is_link and not path.suffix and not os.path.exists(path):
        found.left_out[entry.path] = "it is a link to what is not there"


def _look_into(tar: Path, found: Videos) -> None:
    try:
        names, fault = members(tar)
    except (OSError, tarfile.TarError) as error:
        found.left_out[str(tar)] = f"it cannot be read as a tar: {_reason(error)}"
        return
    if fault:
        found.left_out[str(tar)] = f"what follows is damaged ({fault}); {len(names)} files of it are read"
    for name in names:
        path = tar / name
        if path.suffix.lower() in VIDEO_SUFFIXES and not is_hidden(path.name):
            if is_text(name):
                found.paths.append(path)
            else:
                found.left_out[str(path)] = "its name is not UTF-8, which a manifest cannot hold"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
