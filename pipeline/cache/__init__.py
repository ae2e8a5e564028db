"""Cached features: one file a stage and shard, complete or absent, saying what made it."""

from pipeline.cache.join import Joined, join
from pipeline.cache.store import Quarantined, ShardContent, ShardHeader, Store, convert, open_store

__all__ = ["Joined", "Quarantined", "ShardContent", "ShardHeader", "Store", "convert", "join", "open_store"]
