"""Which files are inputs, and what tells one version of a file from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import ClipError
from common.writing import visible_files
from manifests.folders import VIDEO_SUFFIXES
from manifests.tars import find_member

SUFFIXES = (".wav", ".flac", *VIDEO_SUFFIXES)
_BLOCK = 1 << 20


def find_files(folder: str | Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Clip id (the stem) -> file; of several of one id the one whose suffix comes first.

    Hidden files, such as those that a killed writer left, are none.
    """
    found: dict[str, Path] = {}
    for suffix in reversed(suffixes):
        found |= {path.stem: path for path in visible_files(folder, f"*{suffix}")}
    return found


@dataclass(frozen=True)
class FileMark:
    """One version of one file.

    While path, size and both times stay the same it is taken to be the same; where they differ, as in a folder that
    was moved or copied, the content decides.
    """

    path: str
    size: int
    modified_ns: int
    changed_ns: int
    digest: str  # BLAKE2b of the bytes

    def still(self, path: Path) -> FileMark | None:
        """The mark of the file at ``path`` if it holds what this one did, else None."""
        try:
            stamp = _stamp(path)
            if stamp == (self.path, self.size, self.modified_ns, self.changed_ns):
                return self
            return FileMark(*stamp, self.digest) if stamp[1] == self.size and _digest(path) == self.digest else None
        except OSError:
            return None


def mark(path: Path) -> FileMark:
    """Reads the whole file; raises :class:`ClipError` for one that is not there."""
    try:
        stamp = _stamp(path)
        return FileMark(*stamp, _digest(path))
    except OSError as error:
        raise ClipError("missing_file", f"{path} cannot be read ({error})") from error


def _stamp(path: Path) -> tuple[str, int, int, int]:
    member = find_member(path)  # of a tar: its own size, and the tar's times
    stat = (path if member is None else member.tar).stat()
    size = stat.st_size if member is None else member.size
    return str(path.resolve()), size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if (member := find_member(path)) is not None:
        digest.update(member.read())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def reference_features(output: Path, reference: Path) -> Path:
    """The folder of a reference's feature files: itself if it has some, else one in ``output`` for its path.

    Two references of one name have two folders.
    """
    if visible_files(reference, "*.pth"):
        return reference
    path = reference.resolve()
    if path.parent == output.resolve():
        return output / f"features-{path.name}"
    return output / f"features-{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
