"""Cached features: one file a stage and shard, complete or absent, saying what made it."""

from pipeline.cache.convert import convert
from pipeline.cache.join import Index, Joined, index, join, read_rows
from pipeline.cache.selection import Selection, cache_manifest, keep_manifest
from pipeline.cache.shard import Quarantined, ShardContent, ShardHeader
from pipeline.cache.store import Store, open_store

__all__ = [
    "Index",
    "Joined",
    "Quarantined",
    "Selection",
    "ShardContent",
    "ShardHeader",
    "Store",
    "cache_manifest",
    "convert",
    "index",
    "join",
    "keep_manifest",
    "open_store",
    "read_rows",
]
