"""A cache in another format, or at another place."""

from __future__ import annotations

from common.errors import CacheError
from pipeline.cache.selection import MANIFEST, Selection, cache_manifest, manifest_changes, shards_of_other_clips
from pipeline.cache.store import Store


def convert(source: Store, target: Store) -> int:
    """Copy every shard into another format or place, bit for bit; returns how many were written.

    The manifest that a cache keeps goes with it; shards that it does not have (:class:`Selection`) stay behind.
    Raises :class:`CacheError` for a target whose shards are those of other clips.
    """
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
