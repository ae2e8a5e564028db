"""What a run of the extraction did, and what a cache holds."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import CacheError
from common.words import some
from manifests.manifest import Manifest
from pipeline.cache.claims import Claims
from pipeline.cache.selection import Selection, clips_digest
from pipeline.cache.shard import ShardHeader
from pipeline.cache.store import Store
from presets.encoders import reads

STATES = ("done", "running", "failed", "missing", "stale", "ignored")


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
    clips_changed: Counter[str] = field(default_factory=Counter)  # by id: its file is another than the one read
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
        moment = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        name = f"reports/{moment}-{uuid.uuid4().hex[:8]}.json"  # tasks of an array may end at the same moment
        store.files.write(name, json.dumps(self.to_dict(), indent=1).encode())
        return name

    def save_if_any(self, store: Store) -> None:
        """Save the report of a run that did anything."""
        if self.shards_done or self.clips_seen:
            self.save(store)

    def rows(self, store: Store) -> dict[str, object]:
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.clips_failed.items()))
        claimed = f", {self.shards_claimed} left to other workers" if self.shards_claimed else ""
        repaired = f", {self.shards_repaired} repaired" if self.shards_repaired else ""
        changed = sorted(self.clips_changed)
        again = {"made again": f"{len(changed)} whose file is another: {some(changed, 5)}"} if changed else {}
        return {
            "shards": f"{self.shards_done} made, {self.shards_skipped} already there{repaired}{claimed}",
            "clips": ", ".join(f"{stage} {count}" for stage, count in sorted(self.clips_done.items())) or "none new",
            "failed": failed or "none",
            **again,
            **ignored_shards(store, self.stages),
            "seconds": ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items()),
            "cache": store.files.root,
        }


def verify(store: Store) -> list[str]:
    """Read every shard of every stage that counts; returns a line for each that is wrong.

    Wrong is a damaged shard, one made by other weights or for other clips than the rest, and a clip that stands
    twice.
    """
    problems = []
    for stage in store.stages():
        selection = Selection(store, [stage])
        for shard in selection.shards:
            try:
                content = store.read(stage, shard)
                if reads(stage) != "label":
                    selection.rows(shard, {stage: content.header})
            except CacheError as error:
                problems.append(str(error))
    return problems


def ignored_shards(store: Store, stages: Sequence[str]) -> dict[str, str]:
    """A row of a summary that names shards of an older, longer manifest; empty if there are none."""
    names = Selection(store, [stage for stage in stages if store.shards(stage)]).ignored
    return {"ignored": f"{len(names)} of an older manifest (may be deleted): {some(names)}"} if names else {}


def status(store: Store, manifest: Manifest | None, stages: list[str]) -> dict[str, Any]:
    """Stage by shard: done, running (a living claim), failed (damaged, or a dead worker's claim), missing, stale
    (made for other clips than the manifest has there) or ignored (of an older, longer manifest).

    Without a manifest only what is there is known. Headers are read, not the arrays: ``verify`` does that.
    """
    claims = Claims(store.files)
    table: dict[str, Any] = {}
    for stage in stages:
        count = 1 if reads(stage) == "label" else manifest.shard_count if manifest else 0
        expected = set(range(count))
        states: Counter[str] = Counter()
        shards: dict[int, str] = {}
        clips = failed = size = 0
        for shard in sorted(expected | set(store.shards(stage))):
            state = "missing"
            if store.exists(stage, shard):
                try:
                    header = store.header(stage, shard)
                    state = _state_of(header, shard, manifest, stage)
                    if state == "done":
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
        sum(len(manifest.shard(k)) for k, state in row["shards"].items() if state not in ("done", "ignored"))
        for stage, row in table.items()
        if manifest and reads(stage) != "label"
    ]
    rate = _latest_rate(store)
    most = max(left, default=0)
    return {"stages": table, "clips_left": most, "eta_seconds": most / rate if rate and most else None}


def _state_of(header: ShardHeader, shard: int, manifest: Manifest | None, stage: str) -> str:
    if manifest is None or reads(stage) == "label":
        return "done"
    if shard >= manifest.shard_count:
        return "ignored"
    return "done" if header.fingerprint.get("clips") == clips_digest(manifest.shard(shard)) else "stale"


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


def status_rows(values: Mapping[str, Any]) -> dict[str, object]:
    """What :func:`status` found, in words."""
    rows: dict[str, object] = {}
    for stage, row in values["stages"].items():
        states = ", ".join(f"{row[name]} {name}" for name in STATES if row.get(name))
        clips = f"{row['clips']} clips, {row['quarantined']} quarantined"
        rows[stage] = f"{states or 'nothing'}; {clips}, {row['bytes'] / 1e6:.1f} MB"
    eta = values["eta_seconds"]
    return rows | {"left": f"{values['clips_left']} clips" + (f", about {eta:.0f} s at the latest rate" if eta else "")}
