"""Which shards and rows of a cache count: the manifest decides.

A cache keeps the manifest it was last extracted for, ``CACHE/manifest.parquet``. Shards that it does not have,
left by a longer manifest, are named and ignored; a shard that was made for other clips, and a clip that stands
twice, are errors. Caches of versions that kept no manifest are checked against themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import CacheError, InputError
from common.words import some
from manifests.manifest import Clip, Manifest, decode_manifest, encode_manifest
from pipeline.cache.shard import ShardHeader, differing_identity, rows_digest
from pipeline.cache.store import Store, other_format
from presets.encoders import reads

MANIFEST = "manifest.parquet"


def clips_digest(clips: Sequence[Clip]) -> str:
    """sha256 over ids, labels and splits of a shard's clips, in order."""
    return rows_digest((clip.clip_id, clip.label, clip.split) for clip in clips)


def cache_manifest(store: Store) -> Manifest | None:
    """The manifest that the cache was last extracted for; None where it keeps none.

    Raises :class:`CacheError` for a damaged one.
    """
    if not store.files.exists(MANIFEST):
        return None
    try:
        return decode_manifest(store.files.read(MANIFEST), store.files.describe(MANIFEST))
    except InputError as error:
        raise CacheError(f"{error}: make extract with the manifest of this cache writes it again") from error


def keep_manifest(store: Store, manifest: Manifest, rebuild: bool = False) -> None:
    """Keep the manifest in the cache, unless shards that are there hold other clips by it.

    Raises :class:`CacheError` that says what changed and how to go on; ``rebuild`` keeps it all the same.
    """
    try:
        kept = cache_manifest(store)
    except CacheError:  # damaged: what stands in the shards is checked in any case
        kept = None
    if kept == manifest:
        return
    if kept is not None and not rebuild and (touched := shards_of_other_clips(store, kept, manifest)):
        shards = "shard " + str(touched[0]) if len(touched) == 1 else f"{len(touched)} shards from {touched[0]} on"
        raise CacheError(
            f"{store.files.root} was extracted for another manifest: {manifest_changes(kept, manifest)}. By the "
            f"new one {shards} would hold other clips. To go on, use another CACHE, or --rebuild: it makes these "
            f"shards again, and keeps the features of clips that stay in their shard"
        )
    store.files.write(MANIFEST, encode_manifest(manifest))


def shards_of_other_clips(store: Store, kept: Manifest, manifest: Manifest) -> list[int]:
    """Shards that are there and, by ``manifest``, would hold other clips than by the one that the cache keeps."""
    count = min(kept.shard_count, manifest.shard_count)
    other = {index for index in range(count) if clips_digest(kept.shard(index)) != clips_digest(manifest.shard(index))}
    return sorted(
        other & {shard for stage in store.stages() if reads(stage) != "label" for shard in store.shards(stage)}
    )


def manifest_changes(old: Manifest, new: Manifest) -> str:
    """What changed, in a phrase: added, removed, relabelled and replaced clips, each with examples."""
    before = {clip.clip_id: clip for clip in old.clips}
    after = {clip.clip_id: clip for clip in new.clips}
    both = [clip_id for clip_id in after if clip_id in before]
    parts = {
        "added": [clip_id for clip_id in after if clip_id not in before],
        "removed": [clip_id for clip_id in before if clip_id not in after],
        "with another label or split": [
            i for i in both if (before[i].label, before[i].split) != (after[i].label, after[i].split)
        ],
        "with another file": [i for i in both if before[i].file_fingerprint != after[i].file_fingerprint],
    }
    said = []
    for what, ids in parts.items():
        if ids:
            said.append(f"{'1 clip' if len(ids) == 1 else f'{len(ids)} clips'} {what} ({some(ids)})")
    if old.clips_per_shard != new.clips_per_shard:
        said.append(f"shards of {new.clips_per_shard} clips instead of {old.clips_per_shard}")
    return ", ".join(said) or "no clip changed"


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard that every stage has, in the shard's order, and what is left out of it.

    ``places``: stage -> indices of these rows in the stage's own arrays. ``left_out``: clip id -> "kind (stage)".
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    places: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]


class Selection:
    """The shards of some stages that count, and of each the rows.

    ``shards``: in order, those that at least one stage has. ``ignored``: shards of an older manifest, by name.
    Raises :class:`CacheError` for a stage without shards.
    """

    def __init__(self, store: Store, stages: Sequence[str]):
        self.store, self.stages = store, list(stages)
        self.manifest = cache_manifest(store)
        count = self.manifest.shard_count if self.manifest else None
        self.present: dict[str, frozenset[int]] = {}
        ignored = []
        for stage in self.stages:
            found = store.shards(stage)
            kept = [shard for shard in found if count is None or shard < count]
            ignored += [store.name(stage, shard) for shard in found if shard not in kept]
            if not kept:
                lacking = f"{store.files.root} has no complete shard of stage '{stage}'"
                raise CacheError(other_format(store) or f"{lacking}: run make extract STAGE={stage} first")
            self.present[stage] = frozenset(kept)
        self.ignored = tuple(ignored)
        self.shards = sorted(frozenset().union(*self.present.values()))
        self.provenance: dict[str, Mapping[str, Any]] = {}
        self._made_first: dict[str, int] = {}
        self._home: dict[str, dict[str, int]] = {stage: {} for stage in self.stages}

    def stages_of(self, shard: int) -> list[str]:
        return [stage for stage in self.stages if shard in self.present[stage]]

    def rows(self, shard: int, headers: Mapping[str, ShardHeader]) -> ShardRows:
        """What counts of one shard, by the headers of the stages that have it.

        Raises :class:`CacheError` for clips that stand twice, and for shards that other weights or settings, or
        another manifest made than the rest.
        """
        clips = self.manifest.shard(shard) if self.manifest else ()
        for stage, header in headers.items():
            self._check(stage, shard, header, headers, clips)
        faults = {stage: {r.clip_id: r.kind for r in header.left_out} for stage, header in headers.items()}
        place = {stage: {clip_id: row for row, clip_id in enumerate(h.clip_ids)} for stage, h in headers.items()}
        every = [clip.clip_id for clip in clips]
        every += [i for stage in headers for i in [*headers[stage].clip_ids, *faults[stage]]]
        common, left_out = [], {}
        for clip_id in dict.fromkeys(every):
            absent = next((stage for stage in self.stages if clip_id not in place.get(stage, {})), None)
            if absent is None:
                common.append(clip_id)
            else:
                left_out[clip_id] = f"{faults.get(absent, {}).get(clip_id, 'not extracted')} ({absent})"
        first = self.stages[0]
        rows = [place[first][clip_id] for clip_id in common] if common else []
        return ShardRows(
            tuple(common),
            tuple(headers[first].labels[row] for row in rows),
            tuple(headers[first].splits[row] for row in rows),
            {stage: np.array([place[stage][i] for i in common], np.int64) for stage in headers},
            left_out,
        )

    def _check(
        self, stage: str, shard: int, header: ShardHeader, headers: Mapping[str, ShardHeader], clips: Sequence[Clip]
    ) -> None:
        here = self.store.describe(stage, shard)
        first = self.provenance.setdefault(stage, header.fingerprint)
        where = self.store.describe(stage, self._made_first.setdefault(stage, shard))
        if different := differing_identity(first, header.fingerprint):
            raise CacheError(
                f"{here} was made by another {different} than {where}: a cache must not mix the two "
                f"(make extract with --rebuild)"
            )
        for clip_id in [*header.clip_ids, *(record.clip_id for record in header.left_out)]:
            home = self._home[stage].setdefault(clip_id, shard)
            if home != shard:
                raise CacheError(
                    f"clip '{clip_id}' stands in {self.store.name(stage, home)} and in {self.store.name(stage, shard)} "
                    f"of {self.store.files.root}: one of them is of an older manifest. Run make extract with the "
                    f"manifest that is meant: it is kept in the cache, and decides which shards count"
                )
        made_for = header.fingerprint.get("clips")
        other, other_header = next(iter(headers.items()))
        if self.manifest:
            known = {(clip.clip_id, clip.label, clip.split) for clip in clips}
            rows = set(zip(header.clip_ids, header.labels, header.splits, strict=True))
            if made_for != clips_digest(clips) or not rows <= known:
                raise CacheError(
                    f"{here} was made for other clips than shard {shard} of {self.store.files.describe(MANIFEST)}: "
                    f"run make extract with --rebuild, which makes it again"
                )
        elif made_for != other_header.fingerprint.get("clips"):
            raise CacheError(
                f"{here} was made for other clips than {self.store.describe(other, shard)}: "
                f"run make extract with --rebuild for both stages and one manifest"
            )

    def not_extracted(self) -> dict[str, str]:
        """Clips of the manifest's shards that no stage has yet."""
        if self.manifest is None:
            return {}
        absent = set(range(self.manifest.shard_count)) - set(self.shards)
        reason = f"not extracted ({self.stages[0]})"
        return {clip.clip_id: reason for shard in sorted(absent) for clip in self.manifest.shard(shard)}


def reasons(left_out: Mapping[str, str]) -> str:
    """How many clips were left out for what, in a phrase."""
    counts = Counter(left_out.values())
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"
