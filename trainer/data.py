"""The cached stages joined by clip id, as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.cache import Store
from pipeline.errors import CacheError

TARGET = "audiomae"
_SAME = ("version", "config", "weights", "media", "dtype")


@dataclass(frozen=True)
class JoinedCache:
    """Rows that every stage has, in the order of the ids.

    ``arrays``: stage -> (clips, steps, width). ``left_out``: clip id -> reason. ``provenance``: stage ->
    what made it.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    arrays: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    provenance: Mapping[str, Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def indices(self, split: str) -> Tensor:
        return torch.tensor([row for row, name in enumerate(self.splits) if name == split], dtype=torch.long)

    def to(self, device: str | torch.device) -> JoinedCache:
        arrays = {name: array.to(device) for name, array in self.arrays.items()}
        return JoinedCache(self.clip_ids, self.labels, self.splits, arrays, self.left_out, self.provenance)

    def take(self, rows: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """The chosen rows of some stages, float32."""
        return {name: self.arrays[name][rows.to(self.arrays[name].device)].float() for name in stages}

    def left_out_reasons(self) -> str:
        counts = Counter(self.left_out.values())
        return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def _read_stage(store: Store, stage: str) -> tuple[dict[str, tuple[str, str]], np.ndarray, Mapping[str, Any]]:
    shards = store.shards(stage)
    if not shards:
        raise CacheError(
            f"{store.folder} has no complete shard of stage '{stage}': run make extract STAGE={stage} first"
        )
    rows: dict[str, tuple[str, str]] = {}
    features: list[np.ndarray] = []
    first: Mapping[str, Any] | None = None
    for shard in shards:
        content = store.read(stage, shard)
        if first is None:
            first = content.fingerprint
        elif different := [name for name in _SAME if first.get(name) != content.fingerprint.get(name)]:
            raise CacheError(
                f"{store.path(stage, shard)} was made by another {', '.join(different)} than "
                f"{store.path(stage, shards[0])}: a cache must not mix the two (make extract with --rebuild)"
            )
        if content.clip_ids:
            rows.update(zip(content.clip_ids, zip(content.labels, content.splits, strict=True), strict=True))
            features.append(content.features)
    if not features:
        raise CacheError(f"stage '{stage}' in {store.folder} holds no clip: all of them were quarantined")
    assert first is not None
    return rows, np.concatenate(features), first


def join(store: Store, stages: Sequence[str]) -> JoinedCache:
    """Join stages by clip id; raises :class:`CacheError` for a missing stage, a mixed or an empty cache."""
    read = {stage: _read_stage(store, stage) for stage in stages}
    common = set.intersection(*(set(rows) for rows, _, _ in read.values()))
    every = set.union(*(set(rows) for rows, _, _ in read.values()))
    faults = {
        (stage, record.clip_id): record.kind
        for stage in stages
        for shard in store.shards(stage)
        for record in store.read_quarantine(stage, shard)
    }
    left_out = {}
    for clip_id in sorted(every - common):
        absent = next(stage for stage in stages if clip_id not in read[stage][0])
        left_out[clip_id] = f"{faults.get((absent, clip_id), 'not extracted')} ({absent})"
    if not common:
        raise CacheError(f"no clip in {store.folder} has all of {', '.join(stages)}")
    ids = sorted(common)
    arrays = {}
    for stage, (rows, features, _) in read.items():
        place = {clip_id: row for row, clip_id in enumerate(rows)}
        arrays[stage] = torch.from_numpy(features[[place[clip_id] for clip_id in ids]])
    attributes = [read[stages[0]][0][clip_id] for clip_id in ids]
    return JoinedCache(
        tuple(ids),
        tuple(label for label, _ in attributes),
        tuple(split for _, split in attributes),
        arrays,
        left_out,
        {stage: made for stage, (_, _, made) in read.items()},
    )
