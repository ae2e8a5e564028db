"""What the cache and OUT hold of each clip, read in a worker, shard by shard, ahead of the sampler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from generate.clip_files import file_of
from generate.origins import Origin
from manifests.manifest import Clip
from pipeline.background import Background
from pipeline.cache import Store, open_store, read_rows
from pipeline.decoding import Call

_SECONDS = 3600.0  # for a shard: the store may be far away


@dataclass(frozen=True)
class Found:
    """One clip: ``made`` as it should be, made of something else (``changed``), or to be made (``lacks``).

    ``features``: stage -> (steps, width), unless it is made. ``conditions``: of its :class:`Origin`.
    """

    clip: Clip
    state: Literal["made", "changed", "lacks"]
    conditions: str
    features: Mapping[str, np.ndarray] = field(default_factory=dict)


def look_up(
    root: str, shard_format: str, stages: Sequence[str], shard: int, clips: Sequence[Clip], out: Path
) -> list[Found]:
    """Of some clips of one shard; raises :class:`common.errors.CacheError` for a damaged one."""
    rows = read_rows(open_store(root, shard_format), stages, shard, [clip.clip_id for clip in clips])
    found = []
    for number, clip in enumerate(clips):
        features = {stage: rows[stage][number] for stage in stages}
        origin, wav = Origin.of(clip, features), file_of(out, "wav", clip.clip_id)
        if not wav.is_file():
            found.append(Found(clip, "lacks", origin.conditions, features))
        elif origin.made(wav):
            found.append(Found(clip, "made", origin.conditions))
        else:
            found.append(Found(clip, "changed", origin.conditions, features))
    return found


def found_ahead(
    background: Background,
    store: Store,
    stages: Sequence[str],
    shards: Mapping[str, int],
    clips: Sequence[Clip],
    out: Path,
) -> Iterator[Found]:
    """Of all clips, shard by shard; the next shard is read while this one's clips are made.

    ``shards``: clip id -> shard. At most two shards' features are held, of these clips alone.
    """
    groups: dict[int, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[shards[clip.clip_id]].append(clip)

    def call(shard: int, group: list[Clip]) -> Call:
        arguments = (str(store.root), store.format.name, stages, shard, group, out)
        return Call(look_up, arguments, path=store.describe(stages[0], shard), seconds=_SECONDS)

    coming = None
    for shard, group in sorted(groups.items()):
        before, coming = coming, background.submit(call(shard, group), ahead=True)
        if before is not None:
            yield from before.result()
    if coming is not None:
        yield from coming.result()
