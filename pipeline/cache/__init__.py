"""Cached features: one file a stage and shard, complete or absent, saying what made it."""

from pipeline.cache.store import ShardContent, ShardHeader, Store, open_store

__all__ = ["ShardContent", "ShardHeader", "Store", "open_store"]
