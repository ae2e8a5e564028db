"""The same extraction on a cluster: slices for array jobs, and Ray actors that pull shards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError, MFMError, WriteError
from manifests.manifest import Manifest
from pipeline.cache import open_store
from pipeline.cache.claims import Claims
from pipeline.extract import Extractor
from pipeline.report import Report
from presets import Preset
from presets.encoders import ENCODERS

_TRIES = 3


def array_slice(
    task_id: int | None, num_tasks: int | None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int]:
    """(task, number of tasks) of this array job; (0, 1) outside one.

    Defaults come from Slurm: ``SLURM_ARRAY_TASK_ID`` (counted from ``SLURM_ARRAY_TASK_MIN``) and
    ``SLURM_ARRAY_TASK_COUNT``. Raises :class:`InputError` for a task outside the range.
    """
    if (task_id is None) != (num_tasks is None):
        raise InputError("give both --task-id and --num-tasks, or neither")
    if task_id is None or num_tasks is None:
        if "SLURM_ARRAY_TASK_ID" not in environment:
            return 0, 1
        try:
            task_id = int(environment["SLURM_ARRAY_TASK_ID"]) - int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
            num_tasks = int(environment["SLURM_ARRAY_TASK_COUNT"])
        except (KeyError, ValueError) as error:
            raise InputError(
                f"SLURM_ARRAY_TASK_ID is set, but the rest of the array's variables are not: {error}"
            ) from None
    if not 0 <= task_id < num_tasks:
        raise InputError(f"task {task_id} is not one of {num_tasks} (they count from 0)")
    return task_id, num_tasks


@dataclass(frozen=True)
class ExtractJob:
    """All that a worker anywhere needs to make an :class:`Extractor`; plain data, so it travels.

    Claims are the job's (``owner``): what one of its workers loses, another may go on with.
    """

    manifest: Manifest
    cache: str
    cache_format: str
    preset: Preset
    stages: tuple[str, ...]
    options: dict[str, Any]
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def extractor(self, on_clip: Callable[[int], None] = lambda clips: None) -> Extractor:
        store = open_store(self.cache, self.cache_format)
        return Extractor(
            self.manifest, store, self.preset, self.stages, on_clip=on_clip, owner=self.owner, **self.options
        )

    def run(self, shards: Sequence[int], on_clip: Callable[[int], None]) -> Report:
        """Make shards in this process, and save the report of what was done, whatever ends it."""
        with self.extractor(on_clip) as extractor:
            try:
                extractor.run(shards)
            except BaseException:
                with suppress(WriteError):  # what ended the run is what matters, not that its report fails too
                    extractor.report.save_if_any(extractor.store)
                raise
            extractor.report.save_if_any(extractor.store)
            return extractor.report

    def release(self, shards: Sequence[int]) -> None:
        """Give up the claims of workers that are gone."""
        claims = Claims(open_store(self.cache, self.cache_format).files, self.owner)
        for stage in self.stages:
            for shard in shards:
                claims.release(stage, shard)


class ShardWorker:
    """Lives in a Ray actor: loads the encoders once, then makes shards as they are given to it."""

    def __init__(self, job: ExtractJob):
        from common.runtime import quiet_libraries

        quiet_libraries()
        self.job = job
        self.extractor: Extractor | None = None

    def make(self, shard: int) -> Report | MFMError:
        """One shard; a typed error is returned, not raised, so that it keeps its type over the wire."""
        try:
            if self.extractor is None:
                self.extractor = self.job.extractor()
            self.extractor.report = Report(stages=list(self.job.stages), preset=self.job.preset.name)
            return self.extractor.run([shard])
        except MFMError as error:
            return error


def run_on_ray(
    job: ExtractJob,
    shards: Sequence[int],
    on_shard: Callable[[int], None] = lambda shard: None,
    workers: int | None = None,
) -> Report:
    """Make shards on a Ray cluster (``RAY_ADDRESS``, else one on this machine).

    As many actors as the stages' declared CPUs and GPUs allow. A shard whose actor or node is lost goes to
    another actor, three times at most. Raises the first error of a worker as what it is.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise InputError("EXECUTOR=ray needs Ray: pip install '.[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    cuda = str(job.options.get("device", "cpu")).startswith("cuda")
    chosen = [ENCODERS[name] for name in job.stages]
    cpus = max(encoder.cpus for encoder in chosen)
    gpus = max(encoder.gpus for encoder in chosen) if cuda else 0
    total = ray.cluster_resources()
    fits = int(total.get("CPU", 1) // cpus) or 1
    if gpus:
        fits = min(fits, int(total.get("GPU", 0) // gpus))
        if fits == 0:
            raise InputError(f"the stages need {gpus:g} GPU a worker, and the Ray cluster has none")
    count = max(1, min(len(shards), workers or fits))
    actor = ray.remote(ShardWorker).options(num_cpus=min(cpus, total.get("CPU", cpus)), num_gpus=gpus)
    report = Report(stages=list(job.stages), preset=job.preset.name)
    waiting, tries = list(shards), dict.fromkeys(shards, 0)
    actors = [actor.remote(job) for _ in range(count)]
    running: dict[Any, tuple[Any, int]] = {}
    unfinished: set[int] = set()  # given to an actor
    try:
        while waiting or running:
            busy = {handle for handle, _ in running.values()}
            for handle in [handle for handle in actors if handle not in busy]:
                if waiting:
                    shard = waiting.pop(0)
                    unfinished.add(shard)
                    running[handle.make.remote(shard)] = (handle, shard)
            finished, _ = ray.wait(list(running), num_returns=1)
            handle, shard = running.pop(finished[0])
            try:
                result = ray.get(finished[0])
            except RayTaskError as error:  # the worker lives: its error is no loss of a worker
                raise (error.cause or error) from error
            except RayError as error:
                tries[shard] += 1
                if tries[shard] == _TRIES:
                    raise InputError(f"shard {shard} lost its worker {_TRIES} times: {error}") from error
                # The cluster may have shrunk for good: go on with who is left rather than wait for a place.
                actors.remove(handle)
                if not actors:
                    actors.append(actor.remote(job))
                waiting.insert(0, shard)
                continue
            if isinstance(result, MFMError):
                raise result
            unfinished.discard(shard)
            report.merge(result)
            on_shard(shard)
    finally:
        for handle in actors:
            ray.kill(handle)
        job.release(sorted(unfinished))
    report.save_if_any(open_store(job.cache, job.cache_format))
    return report
