"""What a shard holds, whatever its format: rows of arrays, what made them, and what was left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from presets.identity import differences, settings_of

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


def differing_identity(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what the identity of two fingerprints differs: "config (config.window: 4 there, 2 here)"; empty if in nothing.

    A setting that only one of them knows had its default where the other was made (:mod:`presets.identity`).
    """
    kind = {"config": settings_of("encoders", str(here.get("stage"))), "media": settings_of("media")}
    one, other = ({name: values.get(name) for name in IDENTITY} for values in (there, here))
    found = differences(one, other, kind)
    names = dict.fromkeys(each.name.partition(".")[0] for each in found)
    return f"{', '.join(names)} ({'; '.join(map(str, found))})" if found else ""
