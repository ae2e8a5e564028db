"""The one interface of the cache, whatever the format of its shards.

Layout: ``CACHE/<stage>/shard-00012.<suffix>`` beside ``shard-00012.quarantine.parquet``, the clips that
could not be used. A shard file under its final name is complete: it is written under a temporary name,
flushed, renamed, and carries a checksum of its content, which opening verifies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CacheError

_SHARD = re.compile(r"^shard-(\d{5,})$")

# What of a fingerprint must agree for two shards to be the same; the rest says who made it and when.
IDENTITY = ("version", "stage", "config", "weights", "media", "dtype", "clips")


@dataclass(frozen=True)
class ShardHeader:
    """``fingerprint``: what made the shard. ``checksum``: sha256 of the content."""

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    checksum: str = ""


@dataclass(frozen=True)
class ShardContent:
    """Rows of one shard: ``arrays`` map a name to (clips, ...) with the rows in the ids' order."""

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def features(self) -> np.ndarray:
        return self.arrays["features"]

    @cached_property
    def checksum(self) -> str:
        """sha256 over ids, labels, splits, fingerprint and the bytes of every array."""
        digest = hashlib.sha256()
        rows = [list(self.clip_ids), list(self.labels), list(self.splits)]
        digest.update(json.dumps([rows, self.fingerprint], sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def header(self) -> ShardHeader:
        return ShardHeader(self.clip_ids, self.labels, self.splits, self.fingerprint, self.checksum)


class ShardFormat(Protocol):
    """How one shard lies in one file. ``read`` and ``read_header`` may raise anything on damage."""

    name: str
    suffix: str

    def write(self, path: Path, content: ShardContent) -> None: ...

    def read_header(self, path: Path) -> ShardHeader: ...

    def read(self, path: Path) -> ShardContent: ...


@dataclass(frozen=True)
class Quarantined:
    """A clip that a stage could not use; ``kind`` is one of :data:`pipeline.errors.FAULTS`."""

    clip_id: str
    stage: str
    kind: str
    message: str
    path: str


_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", "stage", "kind", "message", "path")])


def same_identity(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the identity fields in which two fingerprints differ (empty: they are the same)."""
    return [name for name in IDENTITY if one.get(name) != other.get(name)]


class Store:
    """Read and write the shards of one cache folder.

    Every method that opens a shard raises :class:`CacheError` naming the file if it is damaged.
    """

    def __init__(self, folder: str | Path, shard_format: ShardFormat):
        self.folder = Path(folder)
        self.format = shard_format

    def path(self, stage: str, shard: int) -> Path:
        return self.folder / stage / f"shard-{shard:05d}{self.format.suffix}"

    def stages(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and self.shards(path.name))

    def shards(self, stage: str) -> list[int]:
        """Indices of the shards that are complete, in order."""
        folder = self.folder / stage
        if not folder.is_dir():
            return []
        found = []
        for path in folder.iterdir():
            if path.name.endswith(self.format.suffix) and not path.name.startswith("."):
                match = _SHARD.match(path.name.removesuffix(self.format.suffix))
                if match:
                    found.append(int(match[1]))
        return sorted(found)

    def exists(self, stage: str, shard: int) -> bool:
        return self.path(stage, shard).is_file()

    def write(self, stage: str, shard: int, content: ShardContent) -> Path:
        """Write a shard so that it is complete or absent; raises :class:`CacheError` on a full disk."""
        path = self.path(stage, shard)
        with _atomically(path) as temporary:
            self.format.write(temporary, content)
        return path

    def header(self, stage: str, shard: int) -> ShardHeader:
        """What a shard holds and what made it, without reading its arrays."""
        path = self.path(stage, shard)
        try:
            return self.format.read_header(path)
        except Exception as error:
            raise _damaged(path, error) from error

    def read(self, stage: str, shard: int) -> ShardContent:
        """A whole shard, its checksum verified."""
        path = self.path(stage, shard)
        try:
            content = self.format.read(path)
            stored = self.format.read_header(path).checksum
        except Exception as error:
            raise _damaged(path, error) from error
        if content.checksum != stored:
            raise CacheError(f"{path} is damaged: its content does not match its checksum")
        return content

    def quarantine_path(self, stage: str, shard: int) -> Path:
        return self.folder / stage / f"shard-{shard:05d}.quarantine.parquet"

    def write_quarantine(self, stage: str, shard: int, records: Sequence[Quarantined]) -> None:
        """Record the clips left out; an empty list removes the record."""
        path = self.quarantine_path(stage, shard)
        if not records:
            path.unlink(missing_ok=True)
            return
        table = pa.Table.from_pylist([vars(record) for record in records], schema=_QUARANTINE_SCHEMA)
        with _atomically(path) as temporary:
            pq.write_table(table, temporary)

    def read_quarantine(self, stage: str, shard: int) -> list[Quarantined]:
        path = self.quarantine_path(stage, shard)
        if not path.is_file():
            return []
        try:
            return [Quarantined(**row) for row in pq.read_table(path).to_pylist()]
        except (pa.ArrowInvalid, OSError, TypeError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CacheError:
    if isinstance(error, CacheError):
        return error
    if isinstance(error, FileNotFoundError) and not path.exists():
        return CacheError(f"{path} does not exist")
    return CacheError(f"{path} is damaged or is not a shard of this cache ({type(error).__name__}: {error})")


class _atomically:
    """Context manager: a temporary path that becomes ``path`` on success and vanishes on failure."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"cannot make the folder {self.path.parent}: {error}") from error
        return self.temporary

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                with self.temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
                _sync_folder(self.path.parent)
                return
        except OSError as failure:
            error = failure
        finally:
            with suppress(OSError):
                self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "No space left" in str(error)
            reason = "the disk is full" if full else str(error)
            raise CacheError(f"cannot write {self.path}: {reason}; nothing was left behind") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_store(folder: str | Path, name: str = "hdf5") -> Store:
    """The cache in ``folder`` with shards of the named format; raises :class:`CacheError` for another."""
    from pipeline.cache.hdf5 import HDF5Format

    formats: dict[str, type[ShardFormat]] = {"hdf5": HDF5Format}
    if name not in formats:
        raise CacheError(f"unknown cache format '{name}': there are {', '.join(formats)}")
    return Store(folder, formats[name]())
