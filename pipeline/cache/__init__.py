"""Cached features: one file a stage and shard, complete or absent, saying what made it."""

from pipeline.cache.join import Joined, join
from pipeline.cache.selection import Selection, cache_manifest, keep_manifest
from pipeline.cache.store import Quarantined, ShardContent, ShardHeader, Store, convert, open_store

__all__ = [
    "Joined",
    "Quarantined",
    "Selection",
    "ShardContent",
    "ShardHeader",
    "Store",
    "cache_manifest",
    "convert",
    "join",
    "keep_manifest",
    "open_store",
]
