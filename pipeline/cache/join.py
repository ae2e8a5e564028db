"""The cached stages joined by clip id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cache.store import SHARED_IDENTITY, Store, differing_identity
from pipeline.errors import CacheError


@dataclass(frozen=True)
class Joined:
    """Rows that every stage has, in the order of the ids.

    ``arrays``: stage -> (clips, steps, width). ``left_out``: clip id -> "kind (stage)". ``provenance``:
    stage -> fingerprint of its first shard.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]
    provenance: Mapping[str, Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Steps and width of each stage."""
        return {name: (array.shape[1], array.shape[2]) for name, array in self.arrays.items()}

    def left_out_reasons(self) -> str:
        counts = Counter(self.left_out.values())
        return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


@dataclass(frozen=True)
class _Stage:
    rows: dict[str, tuple[str, str]]
    features: np.ndarray
    faults: dict[str, str]
    provenance: Mapping[str, Any]


def _read_stage(store: Store, stage: str, wanted: Sequence[int] | None, empty_ok: bool) -> _Stage:
    shards = store.shards(stage) if wanted is None else list(wanted)
    if not shards:
        raise CacheError(
            f"{store.files.root} has no complete shard of stage '{stage}': run make extract STAGE={stage} first"
        )
    rows: dict[str, tuple[str, str]] = {}
    features: list[np.ndarray] = []
    faults: dict[str, str] = {}
    first: Mapping[str, Any] | None = None
    for shard in shards:
        content = store.read(stage, shard)
        if first is None:
            first = content.fingerprint
        elif different := differing_identity(first, content.fingerprint, SHARED_IDENTITY):
            raise CacheError(
                f"{store.describe(stage, shard)} was made by another {', '.join(different)} than "
                f"{store.describe(stage, shards[0])}: a cache must not mix the two (make extract with --rebuild)"
            )
        faults |= {record.clip_id: record.kind for record in content.left_out}
        if content.clip_ids:
            rows.update(zip(content.clip_ids, zip(content.labels, content.splits, strict=True), strict=True))
            features.append(content.features)
    if not features and empty_ok:
        features = [np.zeros((0, 0, 0), np.float32)]
    if not features:
        raise CacheError(f"stage '{stage}' in {store.files.root} holds no clip: all of them were quarantined")
    assert first is not None
    return _Stage(rows, np.concatenate(features), faults, first)


def join(store: Store, stages: Sequence[str], shards: Sequence[int] | None = None, *, empty_ok: bool = False) -> Joined:
    """Join stages by clip id, all shards or some.

    Raises :class:`CacheError` for a missing stage, a mixed cache and, unless ``empty_ok``, an empty one.
    """
    read = {stage: _read_stage(store, stage, shards, empty_ok) for stage in stages}
    common = set.intersection(*(set(part.rows) for part in read.values()))
    every = set.union(*(set(part.rows) | set(part.faults) for part in read.values()))
    left_out = {}
    for clip_id in sorted(every - common):
        absent = next(stage for stage in stages if clip_id not in read[stage].rows)
        left_out[clip_id] = f"{read[absent].faults.get(clip_id, 'not extracted')} ({absent})"
    if not common and not empty_ok:
        raise CacheError(f"no clip in {store.files.root} has all of {', '.join(stages)}")
    ids = sorted(common)
    arrays = {}
    for stage, part in read.items():
        place = {clip_id: row for row, clip_id in enumerate(part.rows)}
        arrays[stage] = part.features[[place[clip_id] for clip_id in ids]]
    attributes = [read[stages[0]].rows[clip_id] for clip_id in ids]
    return Joined(
        tuple(ids),
        tuple(label for label, _ in attributes),
        tuple(split for _, split in attributes),
        arrays,
        left_out,
        {stage: part.provenance for stage, part in read.items()},
    )
