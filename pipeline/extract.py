"""Run stages over shards on one worker: decode once, encode with every stage that lacks the shard, write.

Rerunning is always safe: a shard that is complete and was made by the same things is skipped, a damaged
one is made again, one made by other weights or settings is refused unless a rebuild is asked for. Decoding
runs ahead in worker processes, over the borders of shards, so that the encoders do not wait.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from common.errors import CacheError, ClipError, DeviceMemoryError, FailureRateError, InputError
from manifests.manifest import Clip, Manifest
from pipeline.cache.claims import Claims
from pipeline.cache.selection import clips_digest, keep_manifest
from pipeline.cache.shard import Quarantined, ShardContent, differing_identity
from pipeline.cache.store import Store
from pipeline.decoding import DecodePool, Job, prefetch
from pipeline.encoders import check_weights, load_encoder
from pipeline.encoders.base import Encoder, Precision
from pipeline.media import DecodedClip
from pipeline.report import Report
from pipeline.shard_work import ShardWork, StageWork, stage_work
from pipeline.sources import SourceFile
from pipeline.stages import fingerprint, labels_digest
from presets import Preset
from presets.encoders import reads

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
        chosen += range(begin, min(end, count - 1) + 1)
    if not chosen:
        raise InputError(f"no shard of '{text}' exists: the manifest has shards 0 to {count - 1}")
    return sorted(set(chosen))


class Extractor:
    """Stages over the shards of one manifest. Encoders load once, when first needed.

    ``rebuild``: make shards again that other weights, settings or another manifest made. ``compare_content``: look
    for replaced files by their content, not by size and time alone. ``owner``: the job in whose name shards are
    claimed (:class:`Claims`).
    """

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
        compare_content: bool = False,
        owner: str = "",
        on_clip: Callable[[int], None] = lambda clips: None,
    ):
        check_weights(preset, stages)
        self.manifest, self.store, self.preset = manifest, store, preset
        self.stages = list(stages)
        self.device, self.precision, self.rebuild, self.retry_failed = device, precision, rebuild, retry_failed
        self.on_clip, self.compile_models, self.compare_content = on_clip, compile_models, compare_content
        self.report = Report(stages=list(stages), preset=preset.name)
        self.claims = Claims(store.files, owner)
        self._encoders: dict[str, Encoder] = {}
        self._damaged: set[tuple[str, int]] = set()
        self._prepared = False
        self._pool = DecodePool(preset.media, preset.cache.decode_workers, preset.cache.decode_timeout_seconds)

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__()

    def encoder(self, stage: str) -> Encoder:
        if stage not in self._encoders:
            self._encoders[stage] = load_encoder(
                stage,
                preset=self.preset,
                device=self.device,
                precision=self.precision,
                compile=self.compile_models,
            )
        return self._encoders[stage]

    def fingerprint(self, stage: str, rows_digest: str) -> dict[str, Any]:
        weights = self.encoder(stage).fingerprint
        return fingerprint(stage, self.preset, weights, rows_digest, self.manifest.digest, self.precision)

    def find(self, stage: str, shard: int, clips: Sequence[Clip] | None = None) -> ShardContent | None:
        """The shard if it is there, whole and made by the same things, else None.

        ``clips`` are those that it must hold, unless rebuilding. Raises :class:`CacheError` for one that was made
        by something else, unless rebuilding.
        """
        if not self.store.exists(stage, shard):
            return None
        try:
            found = self.store.read(stage, shard)
        except CacheError:
            self._damaged.add((stage, shard))
            self.report.shards_repaired = len(self._damaged)
            return None
        where = self.store.describe(stage, shard)
        different = differing_identity(found.fingerprint, self.fingerprint(stage, ""))
        if different and not self.rebuild:
            raise CacheError(
                f"{where} was made by another {different}. Use another CACHE folder, or --rebuild to make it again."
            )
        if clips is not None and not self.rebuild and found.fingerprint.get("clips") != clips_digest(clips):
            raise CacheError(
                f"{where} was made for other clips than the manifest has in shard {shard}. Use another CACHE folder, "
                f"or --rebuild to make it again: the features of clips that stay are kept."
            )
        return None if different else found

    def run(self, shards: Sequence[int]) -> Report:
        """Make what is missing of the shards. Raises typed errors; never leaves a partial file."""
        started = time.monotonic()
        self._prepare_cache()
        self.claims.open()
        try:
            for stage in self.stages:
                self.encoder(stage)
                if reads(stage) == "label" and 0 in shards:
                    self._run_labels(stage)
            self._run_clips(shards)
        finally:
            self.claims.release_all()
            self.report.seconds["total"] += time.monotonic() - started
        return self.report

    def _prepare_cache(self) -> None:
        """Keep the manifest, which decides what counts, and remove what killed workers left. Once an extractor."""
        if not self._prepared:
            keep_manifest(self.store, self.manifest, self.rebuild)
            self.store.remove_leftovers()
            self._prepared = True

    # --- labels -------------------------------------------------------------------------------

    def _run_labels(self, stage: str) -> None:
        """One embedding a distinct label, all in shard 0."""
        labels = sorted({clip.label for clip in self.manifest.clips})
        digest = labels_digest(labels)
        found = self.find(stage, 0)
        if found is not None and found.fingerprint.get("clips") == digest:
            self.report.shards_skipped += 1
            return
        features, lengths = self.encoder(stage).encode_labels(labels)
        arrays = {"features": features.numpy(), "lengths": lengths.numpy()}
        rows = tuple(labels)
        content = ShardContent(rows, rows, ("",) * len(rows), self.fingerprint(stage, digest), arrays)
        self.store.write(stage, 0, content)
        self.report.shards_done += 1
        self.report.clips_done[stage] += len(labels)

    # --- clips --------------------------------------------------------------------------------

    def _plan(self, shard: int) -> ShardWork | None:
        """What the shard lacks, claimed for this worker; None if nothing, or if another worker has it."""
        clips = self.manifest.shard(shard)
        sources = {clip.clip_id: SourceFile(clip.path) for clip in clips}

        def lacking(stage: str) -> StageWork | None:
            found = self.find(stage, shard, clips)
            return stage_work(
                stage, clips, sources, found, retry_failed=self.retry_failed, compare_content=self.compare_content
            )

        taken = []
        for stage in self.stages:
            if reads(stage) == "label":
                continue
            work = lacking(stage)
            if work is not None and not self.claims.take(stage, shard):
                self.report.shards_claimed += 1
                continue
            # Another worker may have finished it between the look and the claim.
            if work is None or (work := lacking(stage)) is None:
                self.claims.release(stage, shard)
                self.report.shards_skipped += 1
                continue
            taken.append(work)
            self.report.clips_changed |= Counter(work.changed)
        if not taken:
            self.on_clip(len(clips))
            return None
        plan = ShardWork(shard, clips, taken, sources)
        plan.pending = len(plan.todo)
        self.on_clip(len(clips) - plan.pending)
        if not plan.pending:  # the labels or splits are others, the features are there
            self._finish(plan)
            return None
        return plan

    def _run_clips(self, shards: Sequence[int]) -> None:
        planned: deque[tuple[ShardWork, Clip]] = deque()

        def jobs() -> Iterator[Job]:
            for shard in shards:
                work = self._plan(shard)
                if work is None:
                    continue
                heard = [self.preset.encoders[name] for part in work.stages if reads(name := part.stage) == "waveform"]
                rates = tuple(sorted({each.sample_rate for each in heard if each.sample_rate is not None}))
                for clip in work.todo:
                    planned.append((work, clip))
                    _ = work.sources[clip.clip_id].state  # as it is before it is decoded
                    yield Job(clip.path, audio=bool(heard), rates=rates)

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

    def _encode(self, work: ShardWork, batch: Sequence[tuple[Clip, DecodedClip | ClipError]]) -> None:
        for part in work.stages:
            usable: list[tuple[Clip, DecodedClip]] = []
            for clip, decoded in batch:
                if clip.clip_id not in part.todo:
                    continue
                fault = _fault(part.stage, decoded)
                if fault is not None:
                    part.failed[clip.clip_id] = Quarantined(
                        clip.clip_id, part.stage, fault.kind, fault.message, clip.path
                    )
                elif isinstance(decoded, DecodedClip):
                    usable.append((clip, decoded))
            if usable:
                self._encode_stage(part, usable)
            for each in work.stages:  # one slow encoder must not let the claims of the others expire
                self.claims.renew(each.stage, work.shard)
        stages = [part.stage for part in work.stages]
        work.unusable += sum(_is_unusable(decoded, stages) for _, decoded in batch)
        self.on_clip(len(batch))

    def _encode_stage(self, part: StageWork, usable: Sequence[tuple[Clip, DecodedClip]]) -> None:
        started = time.monotonic()
        try:
            encoded = self.encoder(part.stage).encode_clips([decoded for _, decoded in usable]).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{self.device} has too little memory for {len(usable)} clips of stage '{part.stage}': take a "
                f"smaller --set cache.encode_batch (now {self.preset.cache.encode_batch}), or --precision bfloat16. "
                f"{str(error).splitlines()[0]}"
            ) from error
        for (clip, _), feature in zip(usable, encoded.astype(self.preset.cache.dtype), strict=True):
            if np.isfinite(feature).all():
                part.features[clip.clip_id] = feature
            else:
                message = f"the {part.stage} features of {clip.path} are not finite in {self.preset.cache.dtype}"
                part.failed[clip.clip_id] = Quarantined(clip.clip_id, part.stage, "non_finite", message, clip.path)
        self.report.seconds["encode"] += time.monotonic() - started

    def _finish(self, work: ShardWork) -> None:
        self._check_failures(work)
        started = time.monotonic()
        for part in work.stages:
            made_by = self.fingerprint(part.stage, clips_digest(work.clips))
            self.store.write(part.stage, work.shard, work.content(part, made_by, self.preset.cache.dtype))
            self.claims.release(part.stage, work.shard)
            self.report.shards_done += 1
            self.report.clips_done[part.stage] += len(part.todo & set(part.features))
            for clip_id in part.todo & set(part.failed):
                self.report.clips_failed[f"{part.stage}: {part.failed[clip_id].kind}"] += 1
        self.report.seconds["write"] += time.monotonic() - started

    def _check_failures(self, work: ShardWork) -> None:
        self.report.clips_seen += len(work.todo)
        self.report.clips_unusable += work.unusable
        if not work.counts_for_failure_rate:
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


def _fault(stage: str, decoded: DecodedClip | ClipError) -> ClipError | None:
    if isinstance(decoded, ClipError):
        return decoded
    return decoded.audio_fault if reads(stage) == "waveform" else None


def _is_unusable(decoded: DecodedClip | ClipError, stages: Sequence[str]) -> bool:
    faults = [_fault(stage, decoded) for stage in stages]
    return all(fault is not None and fault.kind not in _SOUND_ONLY for fault in faults)
