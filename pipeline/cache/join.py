"""The cached stages joined by clip id: all at once, or an index of what is there and the rows of one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.errors import CacheError
from pipeline.cache.selection import Selection, reasons
from pipeline.cache.store import Store


@dataclass(frozen=True)
class Joined:
    """Rows that every stage has, in the order of the ids.

    ``arrays``: stage -> (clips, steps, width). ``left_out``: clip id -> "kind (stage)". ``provenance``:
    stage -> fingerprint of its first shard. ``ignored``: shards of an older manifest. ``files``: clip id -> what
    its file was like when the stages read it (:mod:`pipeline.sources`), where the cache knows.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]
    provenance: Mapping[str, Mapping[str, Any]]
    ignored: tuple[str, ...] = ()
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Steps and width of each stage."""
        return {name: (array.shape[1], array.shape[2]) for name, array in self.arrays.items()}

    def left_out_reasons(self) -> str:
        return reasons(self.left_out)


def join(
    store: Store,
    stages: Sequence[str],
    shards: Sequence[int] | None = None,
    *,
    empty_ok: bool = False,
    selection: Selection | None = None,
) -> Joined:
    """Join stages by clip id: all shards that count (:class:`Selection`), or some of them.

    Raises :class:`CacheError` for a missing stage, a cache of mixed origin, clips that stand twice and, unless
    ``empty_ok``, no clip at all.
    """
    stages = list(dict.fromkeys(stages))
    selection = selection or Selection(store, stages)
    rows: list[tuple[str, str, str]] = []
    parts: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
    files: dict[str, frozenset[str]] = {}
    left_out = {} if shards is not None else selection.not_extracted()
    for shard in selection.shards if shards is None else shards:
        contents = {stage: store.read(stage, shard) for stage in selection.stages_of(shard)}
        chosen = selection.rows(shard, {stage: content.header for stage, content in contents.items()})
        left_out |= chosen.left_out
        if chosen.clip_ids:
            rows += zip(chosen.clip_ids, chosen.labels, chosen.splits, strict=True)
            for clip_id in chosen.clip_ids:
                files[clip_id] = frozenset(c.files[clip_id] for c in contents.values() if clip_id in c.files)
            for stage, content in contents.items():
                place = chosen.places[stage]
                whole = np.array_equal(place, np.arange(len(content.features)))
                parts[stage].append(content.features if whole else content.features[place])
    if not rows and not empty_ok:
        raise CacheError(f"no clip in {store.files.root} has all of {', '.join(stages)}: {reasons(left_out)}")
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    in_order = order == list(range(len(rows)))
    arrays: dict[str, np.ndarray] = {}
    for stage in stages:  # one after the other, so that no more than one of them is held twice
        found = parts.pop(stage)
        array = np.concatenate(found) if found else np.zeros((0, 0, 0), np.float32)
        del found
        arrays[stage] = array if in_order else array[order]
        del array
    columns = list(zip(*(rows[row] for row in order), strict=True)) or [(), (), ()]
    return Joined(
        columns[0],
        columns[1],
        columns[2],
        arrays,
        dict(sorted(left_out.items())),
        {stage: selection.provenance[stage] for stage in stages if stage in selection.provenance},
        selection.ignored,
        files,
    )


@dataclass(frozen=True)
class Index:
    """Which clips every stage has, and in which shard: what :func:`join` says, without the features.

    ``shards``: clip id -> shard, in the order of the shards. The other fields are those of :class:`Joined`.
    """

    shards: Mapping[str, int]
    left_out: Mapping[str, str]
    provenance: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, frozenset[str]]


def index(store: Store, stages: Sequence[str]) -> Index:
    """Read the headers of all shards that count, with the checks of :func:`join`; raises :class:`CacheError`."""
    stages = list(dict.fromkeys(stages))
    selection = Selection(store, stages)
    shards: dict[str, int] = {}
    files: dict[str, frozenset[str]] = {}
    left_out = selection.not_extracted()
    for shard in selection.shards:
        headers = {stage: store.header(stage, shard) for stage in selection.stages_of(shard)}
        chosen = selection.rows(shard, headers)
        left_out |= chosen.left_out
        for clip_id in chosen.clip_ids:
            shards[clip_id] = shard
            files[clip_id] = frozenset(h.files[clip_id] for h in headers.values() if clip_id in h.files)
    if not shards:
        raise CacheError(f"no clip in {store.files.root} has all of {', '.join(stages)}: {reasons(left_out)}")
    return Index(shards, dict(sorted(left_out.items())), selection.provenance, files)


def read_rows(store: Store, stages: Sequence[str], shard: int, clip_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Stage -> (clips, steps, width) of some clips of one shard, whose checksum is verified.

    Raises :class:`CacheError` for a damaged shard, and for one that no longer has a clip.
    """
    rows = {}
    for stage in dict.fromkeys(stages):
        content = store.read(stage, shard)
        place = {clip_id: row for row, clip_id in enumerate(content.clip_ids)}
        if lost := [clip_id for clip_id in clip_ids if clip_id not in place]:
            raise CacheError(f"{store.describe(stage, shard)} no longer has clip '{lost[0]}': it was made again")
        rows[stage] = content.features[[place[clip_id] for clip_id in clip_ids]]
    return rows
