"""av-benchmark's feature files: ``torch.save`` of a dict by clip id (its stem), read and written as they are.

A file that we write has a JSON of the same name beside it that says what made it and of which version of which file
each clip is; files made elsewhere have none and are taken as they come. A file grows by parts (:class:`FeatureFiles`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from common.errors import CacheError
from common.writing import remove_leftovers, replacing, visible_files, write_text
from evaluation.files import FileMark

Entry = Tensor | dict[str, Tensor]


def read_cache(path: str | Path) -> dict[str, Entry]:
    """Clip id -> tensor, or dict of tensors; raises :class:`CacheError` for a file that is something else.

    Tensors are read from disk when they are used, so a file may be larger than the memory.
    """
    path = Path(path)
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch's reader raises many kinds for bytes that are something else
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CacheError(f"{path} cannot be read as a feature cache: cut short or not one ({reason})") from error
    if not isinstance(loaded, dict):
        raise CacheError(f"{path} holds a {type(loaded).__name__}, not a dict of features by clip id")
    for clip_id, entry in loaded.items():
        whole = isinstance(entry, Tensor)
        if not whole and not (isinstance(entry, dict) and all(isinstance(part, Tensor) for part in entry.values())):
            raise CacheError(f"{path}: '{clip_id}' is a {type(entry).__name__}, not a tensor or a dict of tensors")
    return {str(clip_id): entry for clip_id, entry in loaded.items()}


def write_cache(
    path: str | Path,
    entries: Mapping[str, Entry],
    made_by: Mapping[str, str] | None = None,
    marks: Mapping[str, FileMark] | None = None,
) -> None:
    """Write the dict, and what made it beside it; whole or not at all.

    While the dict is replaced the JSON knows only the clips that the old and the new one hold alike, so a kill in
    between loses the others and never gives a clip the features of another version.
    """
    path, marks = Path(path), marks or {}
    if made_by is not None:
        before = _marks(path) if maker(path) == dict(made_by) else {}
        _write_sidecar(path, made_by, {c: mark for c, mark in marks.items() if _same(before.get(c), mark)})
    with replacing(path) as temporary:
        torch.save(dict(entries), temporary)
    if made_by is not None:
        _write_sidecar(path, made_by, marks)


def _write_sidecar(path: Path, made_by: Mapping[str, str], marks: Mapping[str, FileMark]) -> None:
    clips = {clip_id: list(astuple(mark)) for clip_id, mark in marks.items()}
    write_text(path.with_suffix(".json"), json.dumps({**made_by, "clips": clips}))


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    """None where there is none; empty where it cannot be read, so that nothing fits it."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return None
    try:
        found = json.loads(sidecar.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def maker(path: str | Path) -> dict[str, str] | None:
    """What the JSON beside a feature file says made it, or None if it was made elsewhere."""
    found = _read_sidecar(Path(path))
    return None if found is None else {name: str(value) for name, value in found.items() if name != "clips"}


def _marks(path: Path) -> dict[str, FileMark]:
    out = {}
    for clip_id, values in (_read_sidecar(path) or {}).get("clips", {}).items():
        with suppress(TypeError):
            out[str(clip_id)] = FileMark(*values)
    return out


class FeatureFiles:
    """The feature files of one network and one side, which grow by parts.

    A part, ``NAME.parts/*.pth``, holds the clips made since the last one, in the same format; :meth:`join` makes of
    the file and its parts one file. So a kill costs what was added since the last part, and every feature is written
    twice, however many there are.
    """

    def __init__(self, folder: str | Path, names: Sequence[str], made_by: Mapping[str, str]):
        self.paths = {name: Path(folder) / name for name in names}
        self.made_by = dict(made_by)
        self.new: dict[str, dict[str, Entry]] = {name: {} for name in names}
        self.new_marks: dict[str, FileMark] = {}
        remove_leftovers(folder, *map(_parts, self.paths.values()))
        # What the next join takes in and removes; not what another process writes meanwhile.
        self.parts = {name: set(visible_files(_parts(path))) for name, path in self.paths.items()}
        self.marks = self._held()  # of clips that all files hold

    def _sources(self, name: str) -> Iterator[Path]:
        """The file and its parts that this network made, as it is now; others are as if they were not there."""
        path = self.paths[name]
        for source in (path, *visible_files(_parts(path), "*.pth")):
            if source.is_file() and maker(source) == self.made_by:
                yield source

    def _held(self) -> dict[str, FileMark]:
        held: list[dict[str, FileMark]] = []
        for name in self.paths:
            marks: dict[str, FileMark] = {}
            for source in self._sources(name):
                with suppress(CacheError):  # a damaged file of ours is made again
                    there = read_cache(source)
                    marks |= {clip_id: mark for clip_id, mark in _marks(source).items() if clip_id in there}
            held.append(marks)
        return {clip_id: mark for clip_id, mark in held[0].items() if all(_same(m.get(clip_id), mark) for m in held)}

    def add(self, clip_id: str, mark: FileMark, entries: Mapping[str, Entry]) -> None:
        """One clip's entry of every file, in memory until :meth:`save`."""
        for name, entry in entries.items():
            self.new[name][clip_id] = entry
        self.new_marks[clip_id] = mark

    def save(self) -> None:
        """Write what was added since the last call as a part."""
        if not self.new_marks:
            return
        token = uuid.uuid4().hex[:12]
        for name, path in self.paths.items():
            part = _parts(path) / f"{token}.pth"
            write_cache(part, self.new[name], self.made_by, self.new_marks)
            self.parts[name] |= {part, part.with_suffix(".json")}
            self.new[name] = {}
        self.marks |= self.new_marks
        self.new_marks = {}

    def join(self, marks: Mapping[str, FileMark]) -> None:
        """Make one file of each file and its parts, with ``marks`` as the clips' versions; parts go."""
        self.save()
        for name, path in self.paths.items():
            known = _marks(path) if path.is_file() and maker(path) == self.made_by else {}
            if (
                known
                and not self.parts[name]
                and known.keys() == marks.keys()
                and all(_same(known[c], marks[c]) for c in known)
            ):
                if known != dict(marks):  # the same files, elsewhere
                    _write_sidecar(path, self.made_by, marks)
                continue
            entries: dict[str, Entry] = {}
            for source in self._sources(name):
                known = _marks(source)
                with suppress(CacheError):
                    held = read_cache(source)
                    entries |= {c: held[c] for c, mark in marks.items() if c in held and _same(known.get(c), mark)}
            write_cache(path, entries, self.made_by, {c: marks[c] for c in entries})
            for part in self.parts[name]:
                part.unlink(missing_ok=True)
            self.parts[name] = set()
            with suppress(OSError):  # another process may be adding to it
                _parts(path).rmdir()
        self.marks = dict(marks)


def _parts(path: Path) -> Path:
    return path.with_suffix(".parts")


def _same(first: FileMark | None, second: FileMark) -> bool:
    """The same content, wherever it lies now."""
    return first is not None and (first.size, first.digest) == (second.size, second.digest)


def rows(entries: Mapping[str, Entry], clip_ids: Sequence[str], part: str, where: str) -> np.ndarray:
    """Entries of some clips as one array (N, ...), float32.

    ``part`` names a value of entries that are dicts, as ``2048`` and ``logits`` of PANNs. Raises
    :class:`CacheError` if a clip, the part or a common shape is missing.
    """
    values = []
    for clip_id in clip_ids:
        entry = entries[clip_id]
        if isinstance(entry, dict):
            if part not in entry:
                raise CacheError(f"{where}: '{clip_id}' has no '{part}', only {', '.join(entry)}")
            entry = entry[part]
        values.append(entry.detach().float().numpy())
    shapes = {value.shape[1:] if part == "frames" else value.shape for value in values}
    if len(shapes) > 1:
        raise CacheError(f"{where}: clips have features of different shapes, {sorted(shapes)[:3]}")
    if not values:
        raise CacheError(f"{where} holds no clip")
    return np.concatenate(values) if part == "frames" else np.stack(values)


def finite(entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
    """Entries without NaN and Inf, and the ids of those that have them."""
    bad = []
    for clip_id, entry in entries.items():
        parts = entry.values() if isinstance(entry, dict) else (entry,)
        if not all(bool(torch.isfinite(part.float()).all()) for part in parts):
            bad.append(clip_id)
    left_out = set(bad)
    return {clip_id: entry for clip_id, entry in entries.items() if clip_id not in left_out}, bad
