"""The one interface of the cache, whatever the format of its shards and wherever they lie.

Layout: ``CACHE/<stage>/shard-00012.<suffix>``, and beside it ``shard-00012.quarantine.parquet`` where
clips could not be used. A shard under its final name is complete: it carries a checksum of its content,
which reading verifies, and the list of clips it leaves out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import CacheError, InputError, MFMError
from common.files import LocalFiles, open_files
from common.writing import remove_leftovers
from presets.identity import differences, settings_of

_SHARD = re.compile(r"^shard-(\d{5,})$")

# 2: the header has a checksum of its own, and says what the clips' files were like. Shards of 1 are read as ever.
HEADER_VERSION = 2

# What of a fingerprint all shards of one stage share; the rest says for which clips, who made it and when.
IDENTITY = ("version", "stage", "config", "weights", "media", "dtype")


@dataclass(frozen=True)
class Quarantined:
    """A clip that a stage could not use; ``kind`` is one of :data:`common.errors.FAULTS`."""

    clip_id: str
    stage: str
    kind: str
    message: str
    path: str


def rows_digest(rows: Iterable[Sequence[str]]) -> str:
    """sha256 over (id, label, split) of a shard's clips, in order: the identity field ``clips``."""
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()


@dataclass(frozen=True)
class ShardHeader:
    """Ids, labels and splits of the rows, what made them, what was left out, sha256 of the content.

    ``files``: clip id -> what the clip's file was like when it was read (:mod:`pipeline.sources`), for clips left
    out, too. Shards of header version 1 do not know it.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    left_out: tuple[Quarantined, ...] = ()
    checksum: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        values = {**asdict(self), "header_version": HEADER_VERSION}
        return _canonical({**values, "header_checksum": _sha256(values)})

    @staticmethod
    def from_json(text: str | bytes) -> ShardHeader:
        """Raises :class:`ValueError` for anything that is no whole header."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the header is no JSON object")
        version = values.get("header_version", 1)
        if version not in range(1, HEADER_VERSION + 1):
            raise ValueError(f"the header has version {version!r}: a newer version of this project wrote it")
        if version > 1 and values.pop("header_checksum", None) != _sha256(values):
            raise ValueError("the header does not match its checksum")
        try:
            header = ShardHeader(
                tuple(values["clip_ids"]),
                tuple(values["labels"]),
                tuple(values["splits"]),
                values["fingerprint"],
                tuple(Quarantined(**record) for record in values["left_out"]),
                values["checksum"],
                values.get("files", {}),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the header lacks a field or has another ({error})") from None
        header._check()
        return header

    def _check(self) -> None:
        texts = [*self.clip_ids, *self.labels, *self.splits, self.checksum]
        texts += [value for record in self.left_out for value in vars(record).values()]
        if not isinstance(self.fingerprint, dict) or not isinstance(self.files, dict):
            raise ValueError("the header's fingerprint or files are no JSON object")
        if not all(isinstance(text, str) for text in [*texts, *self.files.values()]):
            raise ValueError("the header has a value of the wrong type")
        if not len(self.clip_ids) == len(self.labels) == len(self.splits):
            raise ValueError("the header has not as many labels and splits as clips")
        if len(set(self.clip_ids)) != len(self.clip_ids):
            raise ValueError("a clip stands twice in the header")


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _sha256(values: Any) -> str:
    return hashlib.sha256(_canonical(values).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class ShardContent:
    """Rows of one shard: ``arrays`` map a name to (clips, ...) with the rows in the ids' order."""

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    fingerprint: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    left_out: tuple[Quarantined, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def features(self) -> np.ndarray:
        return self.arrays["features"]

    @cached_property
    def checksum(self) -> str:
        """sha256 over rows, fingerprint, what was left out, the files, and the bytes of every array."""
        digest = hashlib.sha256()
        rows: list[Any] = [list(self.clip_ids), list(self.labels), list(self.splits)]
        rows.append([asdict(record) for record in self.left_out])
        if self.files:  # shards of header version 1 have none, and keep their checksum
            rows.append(dict(self.files))
        digest.update(json.dumps([rows, self.fingerprint], sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def header(self) -> ShardHeader:
        return ShardHeader(
            self.clip_ids, self.labels, self.splits, self.fingerprint, self.left_out, self.checksum, self.files
        )

    @staticmethod
    def of(header: ShardHeader, arrays: Mapping[str, np.ndarray]) -> ShardContent:
        """Raises :class:`ValueError` where an array has not a row for every clip."""
        if any(len(array) != len(header.clip_ids) for array in arrays.values()):
            raise ValueError("the arrays have not as many rows as there are clips")
        return ShardContent(
            header.clip_ids, header.labels, header.splits, header.fingerprint, arrays, header.left_out, header.files
        )


class ShardFormat(Protocol):
    """How one shard becomes one file. Decoding may raise anything on damage.

    ``source`` is a path where the file is local, else its bytes.
    """

    name: str
    suffix: str

    def encode(self, content: ShardContent) -> bytes | memoryview: ...

    def decode_header(self, source: Path | bytes) -> ShardHeader: ...

    def decode(self, source: Path | bytes) -> ShardContent: ...


_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", "stage", "kind", "message", "path")])


def differing_identity(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what the identity of two fingerprints differs: "config (config.window: 4 there, 2 here)"; empty if in nothing.

    A setting that only one of them knows had its default where the other was made (:mod:`presets.identity`).
    """
    kind = {"config": settings_of("encoders", str(here.get("stage"))), "media": settings_of("media")}
    one, other = ({name: values.get(name) for name in IDENTITY} for values in (there, here))
    found = differences(one, other, kind)
    names = dict.fromkeys(each.name.partition(".")[0] for each in found)
    return f"{', '.join(names)} ({'; '.join(map(str, found))})" if found else ""


class Store:
    """Read and write the shards of one cache.

    Every method that opens a shard raises :class:`CacheError` naming the file if it is damaged.
    """

    def __init__(self, root: str | Path, shard_format: ShardFormat):
        self.files = open_files(root)
        self.root = root
        self.format = shard_format

    def name(self, stage: str, shard: int) -> str:
        return f"{stage}/shard-{shard:05d}{self.format.suffix}"

    def quarantine_name(self, stage: str, shard: int) -> str:
        return f"{stage}/shard-{shard:05d}.quarantine.parquet"

    def describe(self, stage: str, shard: int) -> str:
        return self.files.describe(self.name(stage, shard))

    def path(self, stage: str, shard: int) -> Path:
        """Local path of a shard; raises :class:`CacheError` for a remote cache."""
        if not isinstance(self.files, LocalFiles):
            raise CacheError(f"{self.describe(stage, shard)} is not a local file")
        return self.files.path(self.name(stage, shard))

    def stages(self) -> list[str]:
        return [name for name in self.files.list("") if self.shards(name)]

    def shards(self, stage: str) -> list[int]:
        """Indices of the shards that are there, in order."""
        found = []
        for name in self.files.list(stage):
            if name.endswith(self.format.suffix):
                match = _SHARD.match(name.removesuffix(self.format.suffix))
                if match:
                    found.append(int(match[1]))
        return sorted(found)

    def remove_leftovers(self) -> None:
        """Remove temporary files of dead writers; an object store has none."""
        if isinstance(self.files, LocalFiles):
            root = self.files.path("")
            remove_leftovers(root, *(root / name for name in self.files.list("") if (root / name).is_dir()))

    def exists(self, stage: str, shard: int) -> bool:
        return self.files.exists(self.name(stage, shard))

    def write(self, stage: str, shard: int, content: ShardContent) -> None:
        """Write a shard and its quarantine table, each complete or absent."""
        self.files.write(self.name(stage, shard), self.format.encode(content))
        self.write_quarantine(stage, shard, content.left_out)

    def write_quarantine(self, stage: str, shard: int, records: tuple[Quarantined, ...]) -> None:
        """The table of what the shard leaves out: a view for people and tools; the shard itself is the truth."""
        name = self.quarantine_name(stage, shard)
        if not records:
            self.files.remove(name)
            return
        table = pa.Table.from_pylist([vars(record) for record in records], schema=_QUARANTINE_SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.files.write(name, memoryview(sink.getvalue()))

    def _source(self, stage: str, shard: int) -> Path | bytes:
        name = self.name(stage, shard)
        if isinstance(self.files, LocalFiles):
            return self.files.path(name)
        return self.files.read(name)

    def header(self, stage: str, shard: int) -> ShardHeader:
        """What a shard holds and what made it, without reading its arrays."""
        try:
            return self.format.decode_header(self._source(stage, shard))
        except Exception as error:
            raise self._damaged(stage, shard, error) from error

    def read(self, stage: str, shard: int, verify: bool = True) -> ShardContent:
        """A whole shard; its checksum is verified unless that was done before."""
        try:
            source = self._source(stage, shard)
            content = self.format.decode(source)
            stored = self.format.decode_header(source).checksum if verify else ""
        except Exception as error:
            raise self._damaged(stage, shard, error) from error
        if verify and content.checksum != stored:
            raise CacheError(f"{self.describe(stage, shard)} is damaged: its content does not match its checksum")
        return content

    def _damaged(self, stage: str, shard: int, error: Exception) -> MFMError:
        where = self.describe(stage, shard)
        if isinstance(error, MFMError):
            return error
        if isinstance(error, PermissionError):  # no damage: it must not be made again
            return InputError(f"{where} cannot be read: permission denied")
        if isinstance(error, FileNotFoundError) and not self.exists(stage, shard):
            return CacheError(f"{where} does not exist")
        return CacheError(f"{where} is damaged or is not a shard of this cache ({type(error).__name__}: {error})")


def formats() -> dict[str, type[ShardFormat]]:
    """Formats by name; a new one is one file and one line here."""
    from pipeline.cache.hdf5 import HDF5Format
    from pipeline.cache.webdataset import WebDatasetFormat

    return {"hdf5": HDF5Format, "webdataset": WebDatasetFormat}


def open_store(root: str | Path, name: str = "hdf5") -> Store:
    """The cache in a folder or at an fsspec URL; raises :class:`CacheError` for an unknown format."""
    known = formats()
    if name not in known:
        raise CacheError(f"unknown cache format '{name}': there are {', '.join(known)}")
    return Store(root, known[name]())


def other_format(store: Store) -> str:
    """Where a cache has no shard of this format but some of another: a sentence that says so, else empty."""
    if not store.stages():
        for name, kind in formats().items():
            other = copy(store)
            other.format = kind()
            if other.stages():
                return f"{store.files.root} holds {name} shards and none of {store.format.name}: give --format {name}"
    return ""


def convert(source: Store, target: Store) -> int:
    """Copy every shard into another format or place, bit for bit; returns how many were written.

    The manifest that a cache keeps goes with it; shards that it does not have (:class:`Selection`) stay behind.
    Raises :class:`CacheError` for a target whose shards are those of other clips.
    """
    from pipeline.cache.selection import MANIFEST, Selection, cache_manifest, manifest_changes, shards_of_other_clips

    written = 0
    given, there = cache_manifest(source), cache_manifest(target)
    if given is not None and there is not None and shards_of_other_clips(target, there, given):
        raise CacheError(
            f"{target.files.root} holds the shards of another manifest, which would be written over (by that of "
            f"{source.files.root}: {manifest_changes(there, given)}): choose another target, or delete this one"
        )
    if source.files.exists(MANIFEST):
        target.files.write(MANIFEST, source.files.read(MANIFEST))
    for stage in source.stages():
        for shard in sorted(Selection(source, [stage]).present[stage]):
            content = source.read(stage, shard)
            if target.exists(stage, shard):
                try:
                    if target.read(stage, shard).checksum == content.checksum:
                        continue
                except CacheError:
                    pass  # damaged: written again
            target.write(stage, shard, content)
            written += 1
    return written
