"""Folders of sound by the name of the system that made them, for what shows several of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import InputError
from common.words import some
from common.writing import visible_files
from evaluation.files import SUFFIXES
from generate.clip_files import file_of
from generate.records import Made, read_made
from manifests.names import ids_of_files


@dataclass(frozen=True)
class System:
    """What ``make generate`` or ``python -m generate FOLDER`` wrote, or any folder of sound by clip id."""

    name: str
    folder: Path

    @cached_property
    def made(self) -> Made | None:
        """The list of a split; None where there is none. Raises :class:`common.errors.CacheError`."""
        return read_made(self.folder)

    @cached_property
    def sounds(self) -> Mapping[str, Path]:
        """Clip id -> its longest sound, in the order of the list. Raises :class:`InputError` where there is none."""
        if self.made is not None and (self.folder / "wav").is_dir():
            found = {clip_id: file_of(self.folder, "wav", clip_id) for clip_id in self.made.clip_ids}
            found = {clip_id: path for clip_id, path in found.items() if path.is_file()}
        else:
            places = (self.folder / name for name in ("wav", "wav_8s"))
            found = files_by_id(next((place for place in places if place.is_dir()), self.folder), SUFFIXES)
        if not found:
            raise InputError(f"{self.folder} ({self.name}) holds no sound: make generate writes it")
        return found


def files_by_id(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Clip id -> file of a folder and those in it, with the ids that a manifest of the folder has."""
    found = {path.relative_to(folder) for suffix in suffixes for path in visible_files(folder, f"**/*{suffix}")}
    paths = sorted(path for path in found if path.parts)
    return dict(zip(ids_of_files(paths, suffixes), (folder / path for path in paths), strict=True))


def read_systems(words: Sequence[str], option: str = "--out") -> list[System]:
    """``NAME=FOLDER``, or a folder whose own name is the system's; raises :class:`InputError`."""
    systems = []
    for word in words:
        name, separator, folder = word.partition("=")
        if not separator or Path(word).is_dir():
            name, folder = Path(word).resolve().name, word
        if not name or not folder:
            raise InputError(f"{option} {word}: give NAME=FOLDER, such as MFM-Mapper=outputs/mine")
        if not Path(folder).is_dir():
            raise InputError(f"{option} {word}: {folder} is not a folder; give NAME=FOLDER of what make generate wrote")
        systems.append(System(name, Path(folder)))
    names = [system.name for system in systems]
    if several := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{option} names {some(several)} twice: give each folder a NAME of its own, as NAME=FOLDER")
    return systems
