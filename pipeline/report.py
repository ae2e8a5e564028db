"""What a run of the extraction did, and what a cache holds."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from pipeline.cache.claims import Claims
from pipeline.cache.store import Store
from pipeline.errors import CacheError
from pipeline.manifest import Manifest


@dataclass
class Report:
    """Counts by reason and seconds in each part. ``seconds['decode']`` is what the encoders waited."""

    stages: list[str] = field(default_factory=list)
    preset: str = ""
    shards_done: int = 0
    shards_skipped: int = 0
    shards_repaired: int = 0
    shards_claimed: int = 0  # left to another worker
    clips_seen: int = 0
    clips_unusable: int = 0
    clips_done: Counter[str] = field(default_factory=Counter)  # by stage
    clips_failed: Counter[str] = field(default_factory=Counter)  # by "stage: kind"
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def merge(self, other: Report) -> None:
        for name, value in vars(other).items():
            if isinstance(value, dict):
                for key, amount in value.items():
                    getattr(self, name)[key] += amount
            elif isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)

    def to_dict(self) -> dict[str, Any]:
        total = self.seconds["total"]
        rates = {
            "clips_per_second": self.clips_seen / total if total else None,
            "encoder_busy": self.seconds["encode"] / total if total else None,
        }
        return {**vars(self), "seconds": dict(self.seconds), **rates}

    def save(self, store: Store) -> str:
        """Write this as JSON into the cache's ``reports`` folder; returns its name."""
        name = f"reports/{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}.json"
        store.files.write(name, json.dumps(self.to_dict(), indent=1).encode())
        return name

    def rows(self, store: Store) -> dict[str, object]:
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.clips_failed.items()))
        claimed = f", {self.shards_claimed} left to other workers" if self.shards_claimed else ""
        repaired = f", {self.shards_repaired} repaired" if self.shards_repaired else ""
        return {
            "shards": f"{self.shards_done} made, {self.shards_skipped} already there{repaired}{claimed}",
            "clips": ", ".join(f"{stage} {count}" for stage, count in sorted(self.clips_done.items())) or "none new",
            "failed": failed or "none",
            "seconds": ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items()),
            "cache": store.files.root,
        }


def verify(store: Store) -> list[str]:
    """Read every shard of every stage; returns one line for each that is wrong."""
    problems = []
    for stage in store.stages():
        for shard in store.shards(stage):
            try:
                store.read(stage, shard)
            except CacheError as error:
                problems.append(str(error))
    return problems


def status(store: Store, manifest: Manifest | None, stages: list[str]) -> dict[str, Any]:
    """Stage by shard: done, running (a living claim), failed (damaged, or a dead worker's claim), missing.

    Without a manifest only what is there is known. Headers are read, not the arrays: ``verify`` does that.
    """
    claims = Claims(store.files)
    table: dict[str, Any] = {}
    for stage in stages:
        count = 1 if stage == "flan_t5" else manifest.shard_count if manifest else 0
        expected = set(range(count))
        states: Counter[str] = Counter()
        shards: dict[int, str] = {}
        clips = failed = size = 0
        for shard in sorted(expected | set(store.shards(stage))):
            state = "missing"
            if store.exists(stage, shard):
                try:
                    header = store.header(stage, shard)
                    state = "done"
                    clips += len(header.clip_ids)
                    failed += len(header.left_out)
                    size += store.files.size(store.name(stage, shard))
                except CacheError:
                    state = "failed"
            elif (claim := claims.find(stage, shard)) is not None:
                state = "running" if claim.alive else "failed"
            states[state] += 1
            shards[shard] = state
        table[stage] = {"shards": shards, **states, "clips": clips, "quarantined": failed, "bytes": size}
    left = [
        sum(len(manifest.shard(k)) for k, state in row["shards"].items() if state != "done")
        for stage, row in table.items()
        if manifest and stage != "flan_t5"
    ]
    rate = _latest_rate(store)
    most = max(left, default=0)
    return {"stages": table, "clips_left": most, "eta_seconds": most / rate if rate and most else None}


def _latest_rate(store: Store) -> float | None:
    """Clips per second of the newest run that made any."""
    for name in reversed(store.files.list("reports")):
        try:
            values = json.loads(store.files.read(f"reports/{name}"))
        except (json.JSONDecodeError, OSError):
            continue
        if values.get("shards_done") and values.get("clips_per_second"):
            return float(values["clips_per_second"])
    return None
