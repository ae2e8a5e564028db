"""The same extraction on a cluster: slices for array jobs, and Ray actors that pull shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cache import open_store
from pipeline.errors import InputError, MFMError
from pipeline.extract import Extractor
from pipeline.manifest import Manifest
from pipeline.report import Report
from pipeline.stages import STAGES
from presets import Preset

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
    """All that a worker anywhere needs to make an :class:`Extractor`; plain data, so it travels."""

    manifest: Manifest
    cache: str
    cache_format: str
    preset: Preset
    stages: tuple[str, ...]
    options: dict[str, Any]

    def extractor(self, on_clip: Callable[[int], None] = lambda clips: None) -> Extractor:
        store = open_store(self.cache, self.cache_format)
        return Extractor(self.manifest, store, self.preset, self.stages, on_clip=on_clip, **self.options)


class ShardWorker:
    """Lives in a Ray actor: loads the encoders once, then makes shards as they are given to it."""

    def __init__(self, job: ExtractJob):
        from pipeline.runtime import quiet_libraries

        quiet_libraries()
        self.job = job
        self.extractor = job.extractor()

    def make(self, shard: int, take_over: bool = False) -> Report | MFMError:
        """One shard; a typed error is returned, not raised, so that it keeps its type over the wire.

        ``take_over``: the scheduler saw the shard's first worker die, whose claim may still look alive.
        """
        self.extractor.take_over = take_over
        self.extractor.report = Report(stages=list(self.job.stages), preset=self.job.preset.name)
        try:
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
    another actor, three times at most. Raises the first typed error of a worker.
    """
    try:
        import ray
        from ray.exceptions import RayActorError, RayError
    except ImportError:
        raise InputError("EXECUTOR=ray needs Ray: pip install '.[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    cuda = str(job.options.get("device", "cpu")).startswith("cuda")
    chosen = [STAGES[name] for name in job.stages]
    cpus = max(stage.cpus for stage in chosen)
    gpus = max(stage.gpus for stage in chosen) if cuda else 0
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
    try:
        while waiting or running:
            busy = {handle for handle, _ in running.values()}
            for handle in [handle for handle in actors if handle not in busy]:
                if waiting:
                    shard = waiting.pop(0)
                    running[handle.make.remote(shard, tries[shard] > 0)] = (handle, shard)
            finished, _ = ray.wait(list(running), num_returns=1)
            handle, shard = running.pop(finished[0])
            try:
                result = ray.get(finished[0])
            except (RayActorError, RayError) as error:
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
            report.merge(result)
            on_shard(shard)
    finally:
        for handle in actors:
            ray.kill(handle)
    return report
