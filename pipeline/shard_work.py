"""What a stage lacks of a shard, and what of an earlier run is kept: only clips that need it are made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from manifests.manifest import Clip
from pipeline.cache.selection import clips_digest
from pipeline.cache.shard import Quarantined, ShardContent
from pipeline.sources import SourceFile


@dataclass
class StageWork:
    """Clips that a stage has to make of one shard (``todo``); the rest of the shard is there from an earlier run.

    ``changed``: clips whose file is another than the one that was read. ``anew``: nothing is kept.
    """

    stage: str
    todo: frozenset[str]
    changed: frozenset[str] = frozenset()
    anew: bool = True
    features: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, Quarantined] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class ShardWork:
    """One shard and the stages that lack something of it, decoded once for all of them."""

    shard: int
    clips: tuple[Clip, ...]  # of the whole shard
    stages: list[StageWork]
    sources: Mapping[str, SourceFile]
    pending: int = 0
    unusable: int = 0

    @property
    def todo(self) -> list[Clip]:
        wanted = frozenset().union(*(work.todo for work in self.stages))
        return [clip for clip in self.clips if clip.clip_id in wanted]

    @property
    def counts_for_failure_rate(self) -> bool:
        """False where all that is done had failed or changed before: such clips say nothing about a wrong path."""
        return any(work.anew for work in self.stages)

    def content(self, part: StageWork, fingerprint: Mapping[str, object], dtype: str) -> ShardContent:
        """The shard's rows in the manifest's order, those of an earlier run among them."""
        rows = [clip for clip in self.clips if clip.clip_id in part.features]
        empty = np.zeros((0, 0, 0), dtype)
        files = part.files | {clip_id: self.sources[clip_id].state for clip_id in part.todo}
        return ShardContent(
            tuple(clip.clip_id for clip in rows),
            tuple(clip.label for clip in rows),
            tuple(clip.split for clip in rows),
            fingerprint,
            {"features": np.stack([part.features[clip.clip_id] for clip in rows]) if rows else empty},
            tuple(part.failed[clip.clip_id] for clip in self.clips if clip.clip_id in part.failed),
            files,
        )


def stage_work(
    stage: str,
    clips: Sequence[Clip],
    sources: Mapping[str, SourceFile],
    found: ShardContent | None,
    *,
    retry_failed: bool,
    compare_content: bool,
) -> StageWork | None:
    """What is to be done, given the shard that is there (or None); None if nothing is."""
    every = frozenset(clip.clip_id for clip in clips)
    if found is None:
        return StageWork(stage, every)
    features = dict(zip(found.clip_ids, found.features, strict=True))
    failed = {record.clip_id: record for record in found.left_out}
    known = every & (set(features) | set(failed))
    changed = frozenset(i for i in known if not sources[i].same_as(found.files.get(i), compare_content))
    todo = (every - known) | changed | (every & set(failed) if retry_failed else frozenset())
    if not todo and found.fingerprint.get("clips") == clips_digest(clips):
        return None
    kept = known - todo
    return StageWork(
        stage,
        todo,
        changed,
        anew=not kept and not changed,
        features={i: row for i, row in features.items() if i in kept},
        failed={i: record for i, record in failed.items() if i in kept},
        files={i: state for i, state in found.files.items() if i in kept},
    )
