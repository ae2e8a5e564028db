"""Stages are encoders over the clips, or the labels, of a manifest: what identifies the features of one."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from presets import Preset
from presets.encoders import reads

# Raised by hand when the meaning of cached numbers changes: shards of another version do not mix.
CACHE_VERSION = 1


def labels_digest(labels: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def fingerprint(
    stage: str, preset: Preset, weights: str, rows_digest: str, manifest_digest: str, precision: str
) -> dict[str, Any]:
    """What made a shard. The identity fields must agree for a shard to count as done."""
    text = reads(stage) == "label"
    media = dataclasses.asdict(preset.media)
    if media["backend"] == "auto":  # caches made before it say decord, whose pictures it gives
        media["backend"] = "decord"
    return {
        "version": CACHE_VERSION,
        "stage": stage,
        "config": {**dataclasses.asdict(preset.encoders[stage]), "precision": precision},
        "weights": weights,
        "media": None if text else media,
        "dtype": "float32" if text else preset.cache.dtype,
        "clips": rows_digest,
        "manifest": manifest_digest,
        "preset": preset.name,
        "made_by": _versions("torch", "transformers", "decord", "av", "numpy"),
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of the packages that are installed: decord is not everywhere."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
