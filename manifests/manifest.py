"""Clip records in Parquet: what to extract, in a fixed order, cut into fixed shards.

Clips are sorted by ``clip_id`` and shard k is rows [k * n, (k + 1) * n), with n kept in the file, so
shard k always holds the same clips on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.writing import write_bytes
from manifests.names import id_fault, short_repr

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Clip:
    """One clip. ``status`` is ``ok`` or a fault of :data:`common.errors.FAULTS`, with ``reason``.

    ``start_s`` is the clip's place in the original YouTube video; the file itself starts at 0.
    ``file_fingerprint`` is size and modification time in nanoseconds, to notice replaced files.
    """

    clip_id: str
    youtube_id: str
    start_s: int
    label: str
    split: str
    path: str
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    has_audio: bool = False
    audio_rate: int = 0
    bytes: int = 0
    file_fingerprint: str = ""
    status: str = "unprobed"
    reason: str = ""


SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()), ("youtube_id", pa.string()), ("start_s", pa.int64()), ("label", pa.string()),
        ("split", pa.string()), ("path", pa.string()), ("duration_s", pa.float64()), ("fps", pa.float64()),
        ("width", pa.int64()), ("height", pa.int64()), ("has_audio", pa.bool_()), ("audio_rate", pa.int64()),
        ("bytes", pa.int64()), ("file_fingerprint", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    clips: tuple[Clip, ...]
    clips_per_shard: int

    @property
    def shard_count(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def shard(self, index: int) -> tuple[Clip, ...]:
        """Clips of one shard, always the same; raises :class:`InputError` for an unknown index."""
        if not 0 <= index < self.shard_count:
            raise InputError(f"there is no shard {index}: the manifest has shards 0 to {self.shard_count - 1}")
        return self.clips[index * self.clips_per_shard : (index + 1) * self.clips_per_shard]

    @property
    def digest(self) -> str:
        """sha256 over ids, labels, splits and the shard size: what the caches' order depends on."""
        rows = [[clip.clip_id, clip.label, clip.split] for clip in self.clips]
        return hashlib.sha256(json.dumps([self.clips_per_shard, rows]).encode()).hexdigest()

    def counts(self) -> dict[str, Counter[str]]:
        return {
            "split": Counter(clip.split for clip in self.clips),
            "status": Counter(clip.status for clip in self.clips),
        }


def make_manifest(clips: Iterable[Clip], clips_per_shard: int) -> Manifest:
    """Sort and check: raises :class:`InputError` for no clips, an id that stands twice or that names no file."""
    given = list(clips)
    faults = [
        f"row {row}: {short_repr(clip.clip_id)}: {fault}"
        for row, clip in enumerate(given, 1)
        if (fault := id_fault(clip.clip_id)) is not None
    ]
    if faults:
        ids = "1 clip id" if len(faults) == 1 else f"{len(faults)} clip ids"
        raise InputError(f"{ids} cannot be the names of files:\n  " + "\n  ".join(faults[:10]))
    ordered = sorted(given, key=lambda clip: clip.clip_id)
    if not ordered:
        raise InputError("the manifest would be empty: no clips were found")
    if clips_per_shard < 1:
        raise InputError(f"clips per shard must be at least 1, not {clips_per_shard}")
    for before, after in pairwise(ordered):
        if before.clip_id == after.clip_id:
            raise InputError(f"clip id {short_repr(after.clip_id)} stands twice ({before.path}, {after.path})")
    return Manifest(tuple(ordered), clips_per_shard)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a Parquet manifest."""
    table = pa.Table.from_pylist([asdict(clip) for clip in manifest.clips], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({"clips_per_shard": str(manifest.clips_per_shard)})
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Raises :class:`InputError` for what is not a manifest of ours; ``name`` is for its message."""
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        names, metadata = table.schema.names, table.schema.metadata or {}  # damaged ones may be no text
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name} is not a Parquet manifest, or is damaged ({error})") from error
    missing = [column for column in SCHEMA.names if column not in names]
    if missing or b"clips_per_shard" not in metadata:
        raise InputError(f"{name} is not a manifest of this project: missing {', '.join(missing) or 'clips_per_shard'}")
    try:
        clips_per_shard = int(metadata[b"clips_per_shard"])
    except ValueError:
        raise InputError(f"{name} is not a manifest of this project: clips_per_shard is no number") from None
    try:
        return make_manifest(_clips_of(table), clips_per_shard)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _clips_of(table: pa.Table) -> list[Clip]:
    """Rows as clips; raises :class:`InputError` that names the column and row of what is no manifest's."""
    columns = {}
    for field in SCHEMA:
        column = table.column(field.name)
        try:
            column.validate(full=True)  # text that is no UTF-8
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name} must hold {field.type}, and its {column.type} cannot be read as that "
                f"({str(error).splitlines()[0]})"
            ) from None
        if column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise InputError(f"column {field.name} has no value in row {row}")
    clips = [Clip(**row) for row in pa.table(columns).to_pylist()]
    for row, clip in enumerate(clips, 1):
        if clip.split not in SPLITS:
            raise InputError(f"row {row}: split {short_repr(clip.split)} is none of {', '.join(SPLITS)}")
        if "\0" in clip.path:
            raise InputError(f"row {row}: the path {short_repr(clip.path)} has a NUL, which no file's has")
    return clips


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write Parquet whole; raises :class:`WriteError` where the file cannot be written."""
    write_bytes(path, encode_manifest(manifest))


def read_manifest(path: str | Path) -> Manifest:
    """Read Parquet from a path or an fsspec URL; raises :class:`InputError` if it is missing or is no manifest."""
    try:
        if "://" in str(path):
            with fsspec.open(str(path), "rb") as file:
                data = file.read()
        else:
            data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"manifest {path} does not exist (make one: python -m pipeline manifest --help)") from None
    except (OSError, ValueError, ImportError) as error:  # the last two: a URL that fsspec does not know
        raise InputError(f"manifest {path} cannot be read ({error})") from error
    return decode_manifest(data, str(path))
