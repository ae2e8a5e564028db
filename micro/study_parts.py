"""What is made once for the study: clips, features, mappers. Each part as tasks; what is there is left alone."""

from __future__ import annotations

import shutil

from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest, write_manifest
from micro.study import SYSTEMS, Study
from micro.tasks import Task
from micro.world.render import render_world
from pipeline.cluster import ExtractJob
from pipeline.probing import probe_clips
from trainer.checkpoints import whole_folder

_RENDERED_AT_ONCE = 24


def render_tasks(study: Study) -> list[Task]:
    return [
        Task(f"clips from {first} on", _render, (study, range(first, min(first + _RENDERED_AT_ONCE, study.clips))))
        for first in range(0, study.clips, _RENDERED_AT_ONCE)
    ]


def _render(study: Study, numbers: range) -> int:
    return sum(new for _, new in render_world(study.folder / "clips", study.clips, numbers=numbers))


def extract_tasks(study: Study, device: str, workers: int) -> list[Task]:
    """Of each preset the stages that no preset before it has, its shards in as many slices as workers."""
    path = study.folder / "cache" / "manifest.parquet"
    if not path.is_file():
        clips = probe_clips(clips_from_folder(study.folder / "clips"))
        write_manifest(make_manifest(clips, study.preset.cache.clips_per_shard), path)
    tasks, planned = [], set[str]()
    for preset in study.presets:
        stages = tuple(stage for stage in preset.stages if stage not in planned)
        planned |= {*stages}
        if not stages:
            continue
        job = ExtractJob(study.manifest, str(study.folder / "cache"), "hdf5", preset, stages, {"device": device})
        slices = [range(first, study.manifest.shard_count, workers) for first in range(workers)]
        title = f"{', '.join(stages)} of shards %d, {workers} apart"
        tasks += [Task(title % s.start, _extract, (job, s), device=device) for s in slices if s]
    return tasks


def _extract(job: ExtractJob, shards: range) -> None:
    job.run(list(shards), lambda clips: None)


def mapper_tasks(study: Study, device: str, long_on: str) -> list[Task]:
    """A mapper of each system and seed; ``long_on``: the device of those that take longest on a CPU."""
    continued = {system.goes_on: system.name for system in study.systems.values() if _goes_on(study, system.name)}
    tasks = []
    for name, system in study.systems.items():
        kind = study.preset_of(name).mapper.kind
        place = long_on if kind != "gpt2" or system.goes_on or name in continued else device
        for seed in range(study.seeds):
            cost = _cost(study, name) + (_cost(study, continued[name]) if name in continued else 0)
            after = (mapper_task(system.goes_on, seed),) if continued.get(system.goes_on) == name else ()
            tasks.append(Task(mapper_task(name, seed), train_one, (study, name, seed, place), cost, after, place))
    return tasks


def mapper_task(system: str, seed: int) -> str:
    return f"mapper {system}, seed {seed}"


def _cost(study: Study, system: str) -> float:
    """In epochs of MFM-Mapper: which of two is longer matters, not by how much."""
    preset = study.mapper_preset(system, 0)
    training = preset.training
    return training.epochs * training.share_of_clips * (3 if preset.mapper.kind != "gpt2" else 1)


def _goes_on(study: Study, system: str) -> bool:
    """Whether its first epochs are those of the shorter system: not with a schedule that ends at the last epoch."""
    return bool(SYSTEMS[system].goes_on) and study.preset_of(system).training.schedule == "constant"


def train_one(study: Study, system: str, seed: int, device: str) -> None:
    """One mapper; a finished run is left as it is, one that was stopped goes on."""
    from trainer.train import Trainer

    run = study.run_folder(system, seed)
    shorter = study.run_folder(SYSTEMS[system].goes_on, seed)
    if not run.exists() and _goes_on(study, system) and (shorter / "mapper").is_dir():
        with whole_folder(run) as temporary:
            shutil.copytree(shorter, temporary, dirs_exist_ok=True)
    Trainer(study.mapper_preset(system, seed), study.store, run, device).fit()
