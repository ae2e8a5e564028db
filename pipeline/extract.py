"""Run stages over shards on one worker: decode once, encode with every stage that lacks the shard, write.

Rerunning is always safe: a shard that is complete and was made by the same things is skipped, a damaged
one is made again, one made by other weights or settings is refused unless a rebuild is asked for.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.store import Quarantined, ShardContent, Store, same_identity
from pipeline.decoding import DecodePool, Job, prefetch
from pipeline.encoders.base import Encoder, Precision
from pipeline.errors import CacheError, ClipError, FailureRateError, InputError
from pipeline.manifest import Clip, Manifest
from pipeline.media import DecodedClip
from pipeline.media_writing import replacing
from pipeline.stages import STAGES, Stage, check_weights, fingerprint
from presets import Preset

# Faults of the sound alone: the clip still has its frames, and no wrong path causes them.
_SOUND_ONLY = frozenset({"no_audio", "silent"})
_FEWEST_FOR_RATE = 20


@dataclass
class Report:
    """What a run did; saved as JSON in the cache's ``reports`` folder."""

    shards_done: int = 0
    shards_skipped: int = 0
    shards_repaired: int = 0
    clips_done: Counter[str] = field(default_factory=Counter)  # by stage
    clips_failed: Counter[str] = field(default_factory=Counter)  # by "stage: kind"
    clips_seen: int = 0
    clips_unusable: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: defaultdict(float)
    )  # decode (waited for), encode, write, total

    def merge(self, other: Report) -> None:
        for name, value in vars(other).items():
            if isinstance(value, dict):
                for key, amount in value.items():
                    getattr(self, name)[key] += amount
            else:
                setattr(self, name, getattr(self, name) + value)

    def rows(self, store: Store) -> dict[str, object]:
        failed = ", ".join(f"{n} {reason}" for reason, n in sorted(self.clips_failed.items()))
        return {
            "shards": f"{self.shards_done} made, {self.shards_skipped} already there, {self.shards_repaired} repaired",
            "clips": ", ".join(f"{stage} {count}" for stage, count in sorted(self.clips_done.items())) or "none new",
            "failed": failed or "none",
            "seconds": ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items()),
            "cache": store.folder,
        }


def parse_shards(text: str, count: int) -> list[int]:
    """``all``, ``7``, ``0-99`` or ``0-3,8`` -> indices; raises :class:`InputError` for nonsense."""
    if text in ("", "all"):
        return list(range(count))
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            begin, end = int(first), int(last or first)
        except ValueError:
            raise InputError(f"shards '{text}' is not of the form 0-99 or 0,3,7") from None
        if begin > end:
            raise InputError(f"shards '{part}' count backwards")
        chosen += [index for index in range(begin, end + 1) if index < count]
    if not chosen:
        raise InputError(f"no shard of '{text}' exists: the manifest has shards 0 to {count - 1}")
    return sorted(set(chosen))


class Extractor:
    """Stages over the shards of one manifest. Encoders load once, when first needed."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        preset: Preset,
        stages: Sequence[str],
        *,
        device: str = "cpu",
        precision: Precision = "float32",
        compile_models: bool = False,
        rebuild: bool = False,
        retry_failed: bool = False,
        on_clip: Callable[[int], None] = lambda clips: None,
    ):
        if unknown := [name for name in stages if name not in STAGES]:
            raise InputError(f"unknown stage '{unknown[0]}': there are {', '.join(STAGES)}")
        check_weights(preset, stages)
        self.manifest, self.store, self.preset = manifest, store, preset
        self.stages = [STAGES[name] for name in stages]
        self.device, self.precision, self.rebuild, self.retry_failed = (
            device,
            precision,
            rebuild,
            retry_failed,
        )
        self.on_clip, self.compile_models = on_clip, compile_models
        self.report = Report()
        self._encoders: dict[str, Encoder] = {}
        self._pool = DecodePool(preset.media, preset.cache.decode_workers, preset.cache.decode_timeout_seconds)

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__()

    def encoder(self, stage: Stage) -> Encoder:
        if stage.name not in self._encoders:
            self._encoders[stage.name] = stage.load(self.preset, self.device, self.precision, self.compile_models)
        return self._encoders[stage.name]

    def fingerprint(self, stage: Stage, shard: int) -> dict[str, Any]:
        return fingerprint(
            stage,
            self.preset,
            self.encoder(stage).fingerprint,
            self.manifest.shard(shard),
            self.manifest.digest,
            self.precision,
        )

    def is_done(self, stage: Stage, shard: int) -> bool:
        """True if the shard is there, whole and made by the same things.

        Raises :class:`CacheError` for one that was made by something else, unless rebuilding.
        """
        if not self.store.exists(stage.name, shard):
            return False
        try:
            found = self.store.read(stage.name, shard)
        except CacheError:
            self.report.shards_repaired += 1
            return False
        wanted = self.fingerprint(stage, shard)
        different = same_identity(found.fingerprint, wanted)
        if different and not self.rebuild:
            details = "; ".join(f"{name}: {_short(found.fingerprint.get(name))} there" for name in different)
            raise CacheError(
                f"{self.store.path(stage.name, shard)} was made by another {', '.join(different)} ({details}). "
                f"Use another CACHE folder, or --rebuild to make it again."
            )
        return not different

    def run_shard(self, shard: int) -> None:
        """Make what is missing of one shard. Raises typed errors; never leaves a partial file."""
        needed = [stage for stage in self.stages if not self.is_done(stage, shard)]
        self.report.shards_skipped += len(self.stages) - len(needed)
        clips = self.manifest.shard(shard)
        if not needed:
            self.on_clip(len(clips))
            return
        started = time.monotonic()
        features: dict[str, list[np.ndarray]] = {stage.name: [] for stage in needed}
        kept: dict[str, list[Clip]] = {stage.name: [] for stage in needed}
        failed: dict[str, list[Quarantined]] = {stage.name: [] for stage in needed}
        unusable = 0
        for batch in self._batches(clips, needed):
            for stage in needed:
                usable: list[tuple[Clip, DecodedClip]] = []
                for clip, decoded in batch:
                    fault = _fault(stage, decoded)
                    if fault is None:
                        assert isinstance(decoded, DecodedClip)
                        usable.append((clip, decoded))
                    else:
                        failed[stage.name].append(
                            Quarantined(clip.clip_id, stage.name, fault.kind, fault.message, clip.path)
                        )
                if usable:
                    self._encode(stage, usable, features, kept, failed)
            unusable += sum(_is_unusable(decoded, needed) for _, decoded in batch)
            self.on_clip(len(batch))
        self._check_failures(len(clips), unusable, failed)
        writing = time.monotonic()
        for stage in needed:
            self._write(stage, shard, kept[stage.name], features[stage.name], failed[stage.name])
        self.report.seconds["write"] += time.monotonic() - writing
        self.report.seconds["total"] += time.monotonic() - started

    def _batches(
        self, clips: Sequence[Clip], needed: Sequence[Stage]
    ) -> Iterator[list[tuple[Clip, DecodedClip | ClipError]]]:
        audio = any(stage.reads == "waveform" for stage in needed)
        decoded = prefetch(
            self._pool.decode([Job(clip.path, audio=audio) for clip in clips]),
            2 * self.preset.cache.encode_batch,
        )
        batch: list[tuple[Clip, DecodedClip | ClipError]] = []
        remaining = iter(clips)
        waiting = time.monotonic()
        for result in decoded:
            self.report.seconds["decode"] += time.monotonic() - waiting
            batch.append((next(remaining), result))
            if len(batch) == self.preset.cache.encode_batch:
                yield batch
                batch = []
            waiting = time.monotonic()
        if batch:
            yield batch

    def _encode(
        self,
        stage: Stage,
        usable: Sequence[tuple[Clip, DecodedClip]],
        features: dict[str, list[np.ndarray]],
        kept: dict[str, list[Clip]],
        failed: dict[str, list[Quarantined]],
    ) -> None:
        started = time.monotonic()
        batch = stage.encode(self.encoder(stage), [decoded for _, decoded in usable])
        for (clip, _), feature in zip(usable, batch.astype(self.preset.cache.dtype), strict=True):
            if np.isfinite(feature).all():
                features[stage.name].append(feature)
                kept[stage.name].append(clip)
            else:
                message = f"the {stage.name} features of {clip.path} are not finite in {self.preset.cache.dtype}"
                failed[stage.name].append(Quarantined(clip.clip_id, stage.name, "non_finite", message, clip.path))
        self.report.seconds["encode"] += time.monotonic() - started

    def _check_failures(self, clips: int, unusable: int, failed: dict[str, list[Quarantined]]) -> None:
        self.report.clips_seen += clips
        self.report.clips_unusable += unusable
        limit = self.preset.cache.max_failure_rate
        seen, bad = self.report.clips_seen, self.report.clips_unusable
        # A few clips say nothing about a rate, unless not one of them could be used.
        if bad > limit * seen and (seen >= _FEWEST_FOR_RATE or bad == seen):
            examples = {record.message: None for records in failed.values() for record in records}
            lines = "\n".join(f"  {message}" for message in list(examples)[:5])
            raise FailureRateError(
                f"{bad} of {seen} clips could not be used (cache.max_failure_rate is {limit:g}); "
                f"nothing was written for this shard:\n{lines}"
            )

    def _write(
        self,
        stage: Stage,
        shard: int,
        clips: list[Clip],
        features: list[np.ndarray],
        failed: list[Quarantined],
    ) -> None:
        empty = np.zeros((0, 0, 0), self.preset.cache.dtype)
        content = ShardContent(
            tuple(clip.clip_id for clip in clips),
            tuple(clip.label for clip in clips),
            tuple(clip.split for clip in clips),
            self.fingerprint(stage, shard),
            {"features": np.stack(features) if features else empty},
        )
        # The record of what is left out goes first: a complete shard always has it beside it.
        self.store.write_quarantine(stage.name, shard, failed)
        self.store.write(stage.name, shard, content)
        self.report.shards_done += 1
        self.report.clips_done[stage.name] += len(clips)
        self.report.clips_failed.update(f"{stage.name}: {record.kind}" for record in failed)

    def save_report(self) -> Path:
        folder = self.store.folder / "reports"
        path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}.json"
        values = vars(self.report) | {"stages": [s.name for s in self.stages], "preset": self.preset.name}
        seconds = self.report.seconds["total"]
        values["clips_per_second"] = self.report.clips_seen / seconds if seconds else None
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(values, indent=1))
        return path


def _fault(stage: Stage, decoded: DecodedClip | ClipError) -> ClipError | None:
    if isinstance(decoded, ClipError):
        return decoded
    return decoded.audio_fault if stage.reads == "waveform" else None


def _is_unusable(decoded: DecodedClip | ClipError, stages: Sequence[Stage]) -> bool:
    faults = [_fault(stage, decoded) for stage in stages]
    return all(fault is not None and fault.kind not in _SOUND_ONLY for fault in faults)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
