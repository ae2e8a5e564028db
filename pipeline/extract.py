"""Run stages over shards on one worker: decode once, encode with every stage that lacks the shard, write.

Rerunning is always safe: a shard that is complete and was made by the same things is skipped, a damaged
one is made again, one made by other weights or settings is refused unless a rebuild is asked for. Decoding
runs ahead in worker processes, over the borders of shards, so that the encoders do not wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.cache.claims import Claims
from pipeline.cache.store import Quarantined, ShardContent, Store, differing_identity
from pipeline.decoding import DecodePool, Job, prefetch
from pipeline.encoders.base import Encoder, Precision
from pipeline.errors import CacheError, ClipError, DeviceMemoryError, FailureRateError, InputError
from pipeline.manifest import Clip, Manifest
from pipeline.media import DecodedClip
from pipeline.report import Report
from pipeline.stages import STAGES, Stage, check_weights, clips_digest, fingerprint, labels_digest
from presets import Preset

# Faults of the sound alone: the clip still has its frames, and no wrong path causes them.
_SOUND_ONLY = frozenset({"no_audio", "silent"})
_FEWEST_FOR_RATE = 20


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


@dataclass
class _StageWork:
    """What one stage still lacks of one shard. ``kept`` is what an earlier run has."""

    stage: Stage
    todo: frozenset[str]
    kept: ShardContent | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, Quarantined] = field(default_factory=dict)


@dataclass
class _ShardWork:
    shard: int
    clips: tuple[Clip, ...]  # of the whole shard
    stages: list[_StageWork]
    pending: int = 0
    unusable: int = 0
    retry: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def todo(self) -> list[Clip]:
        wanted = frozenset().union(*(work.todo for work in self.stages))
        return [clip for clip in self.clips if clip.clip_id in wanted]


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
        owner: str = "",
        on_clip: Callable[[int], None] = lambda clips: None,
    ):
        if unknown := [name for name in stages if name not in STAGES]:
            raise InputError(f"unknown stage '{unknown[0]}': there are {', '.join(STAGES)}")
        check_weights(preset, stages)
        self.manifest, self.store, self.preset = manifest, store, preset
        self.stages = [STAGES[name] for name in stages]
        self.device, self.precision, self.rebuild, self.retry_failed = device, precision, rebuild, retry_failed
        self.on_clip, self.compile_models = on_clip, compile_models
        self.report = Report(stages=list(stages), preset=preset.name)
        self.claims = Claims(store.files, owner)
        self._encoders: dict[str, Encoder] = {}
        self._damaged: set[tuple[str, int]] = set()
        self._pool = DecodePool(preset.media, preset.cache.decode_workers, preset.cache.decode_timeout_seconds)

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__()

    def encoder(self, stage: Stage) -> Encoder:
        if stage.name not in self._encoders:
            self._encoders[stage.name] = stage.load(self.preset, self.device, self.precision, self.compile_models)
        return self._encoders[stage.name]

    def fingerprint(self, stage: Stage, rows_digest: str) -> dict[str, Any]:
        weights = self.encoder(stage).fingerprint
        return fingerprint(stage, self.preset, weights, rows_digest, self.manifest.digest, self.precision)

    def find(self, stage: Stage, shard: int, rows_digest: str) -> ShardContent | None:
        """The shard if it is there, whole and made by the same things, else None.

        Raises :class:`CacheError` for one that was made by something else, unless rebuilding.
        """
        if not self.store.exists(stage.name, shard):
            return None
        try:
            found = self.store.read(stage.name, shard)
        except CacheError:
            self._damaged.add((stage.name, shard))
            self.report.shards_repaired = len(self._damaged)
            return None
        different = differing_identity(found.fingerprint, self.fingerprint(stage, rows_digest))
        if different and not self.rebuild:
            details = "; ".join(f"{name}: {_short(found.fingerprint.get(name))} there" for name in different)
            raise CacheError(
                f"{self.store.describe(stage.name, shard)} was made by another {', '.join(different)} ({details}). "
                f"Use another CACHE folder, or --rebuild to make it again."
            )
        return None if different else found

    def run(self, shards: Sequence[int]) -> Report:
        """Make what is missing of the shards. Raises typed errors; never leaves a partial file."""
        started = time.monotonic()
        self.claims.open()
        try:
            for stage in self.stages:
                self.encoder(stage)
                if stage.reads == "label" and 0 in shards:
                    self._run_labels(stage)
            self._run_clips(shards)
        finally:
            self.claims.release_all()
            self.report.seconds["total"] += time.monotonic() - started
        return self.report

    # --- labels -------------------------------------------------------------------------------

    def _run_labels(self, stage: Stage) -> None:
        """One embedding a distinct label, all in shard 0."""
        labels = sorted({clip.label for clip in self.manifest.clips})
        digest = labels_digest(labels)
        if self.find(stage, 0, digest) is not None:
            self.report.shards_skipped += 1
            return
        arrays = stage.encode_labels(self.encoder(stage), labels)
        rows = tuple(labels)
        content = ShardContent(rows, rows, ("",) * len(rows), self.fingerprint(stage, digest), arrays)
        self.store.write(stage.name, 0, content)
        self.report.shards_done += 1
        self.report.clips_done[stage.name] += len(labels)

    # --- clips --------------------------------------------------------------------------------

    def _plan(self, shard: int) -> _ShardWork | None:
        """What the shard lacks, claimed for this worker; None if nothing, or if another worker has it."""
        clips = self.manifest.shard(shard)
        digest = clips_digest(clips)
        every = frozenset(clip.clip_id for clip in clips)
        works = []
        for stage in self.stages:
            if stage.reads == "label":
                continue
            found = self.find(stage, shard, digest)
            if found is None:
                works.append(_StageWork(stage, every))
            elif self.retry_failed and found.left_out:
                works.append(_StageWork(stage, frozenset(r.clip_id for r in found.left_out), found))
            else:
                self.report.shards_skipped += 1
        taken = []
        for work in works:
            if self.claims.take(work.stage.name, shard):
                # Another worker may have finished it between the look and the claim.
                if work.kept is None and self.find(work.stage, shard, digest) is not None:
                    self.claims.release(work.stage.name, shard)
                    self.report.shards_skipped += 1
                    continue
                taken.append(work)
            else:
                self.report.shards_claimed += 1
        if not taken:
            self.on_clip(len(clips))
            return None
        plan = _ShardWork(shard, clips, taken, retry=all(work.kept is not None for work in taken))
        plan.pending = len(plan.todo)
        self.on_clip(len(clips) - plan.pending)
        return plan

    def _run_clips(self, shards: Sequence[int]) -> None:
        planned: deque[tuple[_ShardWork, Clip]] = deque()

        def jobs() -> Iterator[Job]:
            for shard in shards:
                work = self._plan(shard)
                if work is None:
                    continue
                audio = any(part.stage.reads == "waveform" for part in work.stages)
                for clip in work.todo:
                    planned.append((work, clip))
                    yield Job(clip.path, audio=audio)

        batch: list[tuple[Clip, DecodedClip | ClipError]] = []
        results = prefetch(self._pool.decode(jobs()), self.preset.cache.encode_batch)
        try:
            waiting = time.monotonic()
            for result in results:
                self.report.seconds["decode"] += time.monotonic() - waiting
                work, clip = planned.popleft()
                batch.append((clip, result))
                work.pending -= 1
                if len(batch) == self.preset.cache.encode_batch or work.pending == 0:
                    self._encode(work, batch)
                    batch = []
                if work.pending == 0:
                    self._finish(work)
                waiting = time.monotonic()
        finally:
            # First, as a decoder may take its time to stop, and a scheduler kills for good soon after it asked.
            self.claims.release_all()
            results.close()

    def _encode(self, work: _ShardWork, batch: Sequence[tuple[Clip, DecodedClip | ClipError]]) -> None:
        for part in work.stages:
            usable: list[tuple[Clip, DecodedClip]] = []
            for clip, decoded in batch:
                if clip.clip_id not in part.todo:
                    continue
                fault = _fault(part.stage, decoded)
                if fault is not None:
                    part.failed[clip.clip_id] = Quarantined(
                        clip.clip_id, part.stage.name, fault.kind, fault.message, clip.path
                    )
                elif isinstance(decoded, DecodedClip):
                    usable.append((clip, decoded))
            if usable:
                self._encode_stage(part, usable)
            self.claims.renew(part.stage.name, work.shard)
        stages = [part.stage for part in work.stages]
        work.unusable += sum(_is_unusable(decoded, stages) for _, decoded in batch)
        self.on_clip(len(batch))

    def _encode_stage(self, part: _StageWork, usable: Sequence[tuple[Clip, DecodedClip]]) -> None:
        started = time.monotonic()
        try:
            encoded = part.stage.encode(self.encoder(part.stage), [decoded for _, decoded in usable])
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{self.device} has too little memory for {len(usable)} clips of stage '{part.stage.name}': take a "
                f"smaller --set cache.encode_batch (now {self.preset.cache.encode_batch}), or --precision bfloat16. "
                f"{str(error).splitlines()[0]}"
            ) from error
        for (clip, _), feature in zip(usable, encoded.astype(self.preset.cache.dtype), strict=True):
            if np.isfinite(feature).all():
                part.features[clip.clip_id] = feature
            else:
                message = f"the {part.stage.name} features of {clip.path} are not finite in {self.preset.cache.dtype}"
                part.failed[clip.clip_id] = Quarantined(clip.clip_id, part.stage.name, "non_finite", message, clip.path)
        self.report.seconds["encode"] += time.monotonic() - started

    def _finish(self, work: _ShardWork) -> None:
        self._check_failures(work)
        started = time.monotonic()
        digest = clips_digest(work.clips)
        for part in work.stages:
            self.store.write(part.stage.name, work.shard, self._content(work, part, digest))
            self.claims.release(part.stage.name, work.shard)
            self.report.shards_done += 1
            self.report.clips_done[part.stage.name] += len(part.features)
            for record in part.failed.values():
                self.report.clips_failed[f"{part.stage.name}: {record.kind}"] += 1
        self.report.seconds["write"] += time.monotonic() - started

    def _content(self, work: _ShardWork, part: _StageWork, digest: str) -> ShardContent:
        """The shard's rows in the manifest's order, those of an earlier run among them."""
        features = dict(part.features)
        if part.kept is not None:
            features |= dict(zip(part.kept.clip_ids, part.kept.features, strict=True))
        rows = [clip for clip in work.clips if clip.clip_id in features]
        empty = np.zeros((0, 0, 0), self.preset.cache.dtype)
        return ShardContent(
            tuple(clip.clip_id for clip in rows),
            tuple(clip.label for clip in rows),
            tuple(clip.split for clip in rows),
            self.fingerprint(part.stage, digest),
            {"features": np.stack([features[clip.clip_id] for clip in rows]) if rows else empty},
            tuple(part.failed[clip.clip_id] for clip in work.clips if clip.clip_id in part.failed),
        )

    def _check_failures(self, work: _ShardWork) -> None:
        self.report.clips_seen += len(work.todo)
        self.report.clips_unusable += work.unusable
        if work.retry:  # all of them failed before
            return
        limit = self.preset.cache.max_failure_rate
        seen, bad = self.report.clips_seen, self.report.clips_unusable
        # A few clips say nothing about a rate, unless not one of them could be used.
        if bad > limit * seen and (seen >= _FEWEST_FOR_RATE or bad == seen):
            examples = {record.message: None for part in work.stages for record in part.failed.values()}
            lines = "\n".join(f"  {message}" for message in list(examples)[:5])
            raise FailureRateError(
                f"{bad} of {seen} clips could not be used (cache.max_failure_rate is {limit:g}); "
                f"nothing was written for this shard:\n{lines}"
            )


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
