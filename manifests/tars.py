"""Videos in tars, as video2dataset writes them: ``{key}.mp4`` and ``{key}.json`` in WebDataset shards.

They are read where they lie. A file in a tar has the path ``<tar>/<its name in there>``.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

_SIDE_FILES = (".json", ".txt")
_LARGEST_SIDE_FILE = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in an uncompressed tar: its bytes are ``size`` from ``offset`` on."""

    tar: Path
    offset: int
    size: int
    modified_ns: int  # the tar's

    @property
    def url(self) -> str:
        """What FFmpeg opens (its protocol ``subfile``)."""
        return f"subfile,,start,{self.offset},end,{self.offset + self.size},,:{self.tar.absolute()}"

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def sha256(self) -> str:
        digest, left = hashlib.sha256(), self.size
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            while left and (block := file.read(min(left, 1 << 22))):
                digest.update(block)
                left -= len(block)
        return digest.hexdigest()


def members(tar: Path) -> tuple[Mapping[str, Member], str]:
    """Files of a tar by name, as far as it is whole, and what is wrong with the rest, if anything is.

    Raises OSError, and tarfile.TarError for what is no tar.
    """
    stat = tar.stat()
    return _members(str(tar.absolute()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _members(path: str, size: int, modified_ns: int) -> tuple[Mapping[str, Member], str]:
    found, fault = {}, ""
    with tarfile.open(path, "r:") as file:  # "r:": not compressed, so that a part of it can be read by itself
        try:
            for entry in file:
                if entry.isreg() and not entry.issparse():
                    whole = max(0, min(entry.size, size - entry.offset_data))  # the last one may be cut off
                    found[_below(entry.name)] = Member(Path(path), entry.offset_data, whole, modified_ns)
        except tarfile.ReadError as error:
            fault = str(error)
    return MappingProxyType(found), fault


def _below(name: str) -> str:
    """A name as tar unpacks it: below the tar, without ``./``, a root, or what leads up to a ``..``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    while ".." in parts:
        del parts[: parts.index("..") + 1]
    return "/".join(parts)


def find_member(path: Path) -> Member | None:
    """The file that a path into a tar names; None if there is no such tar, or no such file in it."""
    for parent in path.parents:
        if parent.suffix.lower() == ".tar":
            try:
                if parent.is_file():  # else a folder, in a tar or not
                    return members(parent)[0].get(_below(path.relative_to(parent).as_posix()))
            except (OSError, ValueError, tarfile.TarError):
                return None
    return None


def side_files(path: Path) -> dict[str, Any]:
    """What ``{key}.json`` and ``{key}.txt`` beside a video in a tar say; ``text`` is the latter's. Empty if nothing."""
    said: dict[str, Any] = {}
    for suffix in _SIDE_FILES:
        member = find_member(path.with_suffix(suffix))
        if member is None or member.size > _LARGEST_SIDE_FILE:
            continue
        try:
            text = member.read().decode()
            said |= {"text": text.strip()} if suffix == ".txt" else json.loads(text)
        except (OSError, ValueError, TypeError):  # a broken side file costs the label, not the clip
            continue
    return said


def label_of(path: Path) -> str:
    """The label of a video in a tar: ``label``, ``caption`` or ``text`` of its side files; empty if there is none."""
    said = side_files(path)
    found = (said.get(name) for name in ("label", "caption", "text"))
    return next((" ".join(value.split()) for value in found if isinstance(value, str) and value.strip()), "")
