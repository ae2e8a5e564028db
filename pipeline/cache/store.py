"""The one interface of the cache, whatever the format of its shards and wherever they lie.

Layout: ``CACHE/<stage>/shard-00012.<suffix>``, and beside it ``shard-00012.quarantine.parquet`` where
clips could not be used. A shard under its final name is complete: it carries a checksum of its content,
which reading verifies, and the list of clips it leaves out.
"""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import CacheError, InputError, MFMError
from common.files import LocalFiles, open_files
from common.registry import Registry
from common.writing import remove_leftovers
from pipeline.cache.shard import Quarantined, ShardContent, ShardFormat, ShardHeader

# A new format is one file and one line here.
FORMATS = Registry(
    "cache format",
    hdf5="pipeline.cache.hdf5:HDF5Format",
    webdataset="pipeline.cache.webdataset:WebDatasetFormat",
)

_SHARD = re.compile(r"^shard-(\d{5,})$")
_QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", "stage", "kind", "message", "path")])


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


def open_store(root: str | Path, name: str = "hdf5") -> Store:
    """The cache in a folder or at an fsspec URL; raises :class:`CacheError` for an unknown format."""
    if name not in FORMATS:
        raise CacheError(f"unknown cache format '{name}': there are {', '.join(FORMATS)}")
    return Store(root, FORMATS[name]())


def other_format(store: Store) -> str:
    """Where a cache has no shard of this format but some of another: a sentence that says so, else empty."""
    if not store.stages():
        for name, kind in FORMATS.items():
            other = copy(store)
            other.format = kind()
            if other.stages():
                return f"{store.files.root} holds {name} shards and none of {store.format.name}: give --format {name}"
    return ""
