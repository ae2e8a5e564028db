"""Quality against cost of sampling at micro scale: schedulers and steps, on the study's trained mappers.

Of a study it needs ``cache`` and ``runs`` of MFM-Mapper, which it leaves as they are. Its own folder gets
``curve/<point>/<seed>`` (wav, and ``made-0.json`` and so on with the seconds, one a batch), ``curve.json``,
``curve.md`` and ``curve.png``. It samples on the CPU, whose seconds it counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.hashing import sha256_file
from common.writing import write_text
from generate.audioldm2 import AudioLDM2
from micro.judge import judge_of, mean_and_spread
from micro.points import Point, cheapest, check_points
from micro.study import MFM, Study, scene
from micro.study_parts import mapper_task
from micro.study_sound import SYNTHESIS_BATCH, audio_model, models_digest, predict
from micro.tasks import Task, Workers
from pipeline.media.writing import read_wav, write_wav
from presets.config import GenerationConfig
from trainer.registry import MFMMapper

_DECIDE_THE_SOUND = ("scheduler", "steps", "guidance_scale", "negative_prompt", "seed")


def _place(folder: Path, point: Point, seed: int) -> Path:
    return folder / "curve" / point.name.lower().replace(" ", "-") / str(seed)


def curve_tasks(study: Study, folder: Path, points: Sequence[Point]) -> list[Task]:
    """One for each batch of clips at each point."""
    ids = study.test_clips
    return [
        Task(
            f"curve at {point.name}, seed {seed}, clips from {first} on",
            sample,
            (study, point, seed, folder, first // SYNTHESIS_BATCH, tuple(ids[first : first + SYNTHESIS_BATCH])),
            point.steps,
            (mapper_task(MFM, seed),),
        )
        for point in points
        for seed in range(study.seeds)
        for first in range(0, len(ids), SYNTHESIS_BATCH)
    ]


def sample(study: Study, point: Point, seed: int, folder: Path, number: int, clip_ids: Sequence[str]) -> None:
    """wav of a batch of clips at one point, and CPU seconds of the sampler in ``made-<number>.json``.

    Clips that were made with the same mapper, models and settings are not made again.
    """
    place, preset = _place(folder, point, seed), point.preset(study)
    mapper = study.run_folder(MFM, seed) / "mapper"
    settings = {
        "mapper": sha256_file(mapper / "model.safetensors"),
        "models": models_digest(preset),
        **{name: getattr(preset.generation, name) for name in _DECIDE_THE_SOUND},
    }
    path, seconds = place / f"made-{number}.json", {}
    if path.is_file() and (made := json.loads(path.read_text()))["settings"] == settings:
        seconds = made["seconds"]
    todo = [clip for clip in clip_ids if clip not in seconds or not (place / f"{clip}.wav").is_file()]
    if not todo:
        return
    model = audio_model(study, MFM, "cpu")
    model.negative(preset.generation.negative_prompt)  # before the clock runs
    tokens = torch.from_numpy(predict(study, mapper, todo))
    # Of the process, which has one thread: what else runs on the machine hardly changes it.
    started = time.process_time()
    latents = denoise(model, preset.generation, todo, tokens)
    seconds |= dict.fromkeys(todo, (time.process_time() - started) / len(todo))
    for clip_id, waveform in zip(todo, model.decode(latents, preset.media.samples), strict=True):
        write_wav(place / f"{clip_id}.wav", waveform.numpy(), model.sample_rate)
    write_text(path, json.dumps({"settings": settings, "seconds": seconds}, indent=1))


def denoise(model: AudioLDM2, generation: GenerationConfig, clip_ids: Sequence[str], tokens: Tensor) -> Tensor:
    """Latents (B, C, H, W) of rendered clips from their tokens (B, 8, D) and labels."""
    return model.denoise(
        model.condition(tokens, [scene(clip_id).label for clip_id in clip_ids]),
        model.negative(generation.negative_prompt),
        model.noise(clip_ids, generation.seed),
        steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        scheduler_name=generation.scheduler,
    )


def check_curve(study: Study, points: Sequence[Point]) -> None:
    """Raise :class:`InputError` for a study whose mappers are not trained, and for a scheduler that there is not."""
    for seed in range(study.seeds):
        if not (mapper := study.run_folder(MFM, seed) / "mapper").is_dir():
            raise InputError(f"no trained mapper in {mapper}: python -m micro study --folder {study.folder} trains it")
        MFMMapper.from_pretrained(mapper)
    check_points(study, points)


def run_curve(
    study: Study, folder: Path, points: Sequence[Point], workers: Workers, note: Callable[[str], None]
) -> dict[str, Any]:
    """All points on the mappers of all seeds; writes and returns the figures. Raises what :func:`check_curve` does."""
    check_curve(study, points)
    workers.through(curve_tasks(study, folder, points), note)
    return report_curve(study, folder, points, workers, note)


def report_curve(
    study: Study, folder: Path, points: Sequence[Point], workers: Workers, note: Callable[[str], None]
) -> dict[str, Any]:
    """Measure points that are sampled; write ``curve.json`` and the page."""
    from micro.curve_report import write_curve

    results = measure_curve(study, folder, points, workers, note)
    write_text(folder / "curve.json", json.dumps(results, indent=1))
    write_curve(results, folder)
    return results


def is_sampled(study: Study, folder: Path, points: Sequence[Point]) -> bool:
    """Whether every clip is there, at every point and for every seed."""
    places = [_place(folder, point, seed) for point in points for seed in range(study.seeds)]
    return all((place / f"{clip_id}.wav").is_file() for place in places for clip_id in study.test_clips)


def measure_sound(study: Study, place: Path, clip_ids: tuple[str, ...]) -> dict[str, float]:
    """Figures of the wav of clips in a folder."""
    sound = np.stack([read_wav(place / f"{clip_id}.wav")[0] for clip_id in clip_ids])
    return judge_of(study, clip_ids).measure(sound).figures


def measure_curve(
    study: Study, folder: Path, points: Sequence[Point], workers: Workers, note: Callable[[str], None]
) -> dict[str, Any]:
    """Figures and seconds of each point: mean and spread over seeds, and the seeds' own."""
    ids = tuple(study.test_clips)
    places = {(point, seed): _place(folder, point, seed) for point in points for seed in range(study.seeds)}
    tasks = [Task(f"figures of {place}", measure_sound, (study, place, ids)) for place in places.values()]
    found = workers.through(tasks, note)
    rows: list[dict[str, Any]] = []
    for point in points:
        seeds, seconds = [], []
        for seed in range(study.seeds):
            place = places[point, seed]
            seeds.append(found[f"figures of {place}"])
            made: dict[str, float] = {}
            for path in place.glob("made-*.json"):
                made |= json.loads(path.read_text())["seconds"]
            seconds += [made[clip_id] for clip_id in ids]
        rows.append(
            {
                "name": point.name,
                "method": point.method,
                "scheduler": point.scheduler,
                "steps": point.steps,
                "seconds": float(np.median(seconds)),
                "figures": {figure: mean_and_spread([s[figure] for s in seeds]) for figure in seeds[0]},
                "seeds": seeds,
            }
        )
    fast = study.preset_of(MFM, options="fast").generation
    return {
        "preset": study.preset.name,
        "fast": Point(fast.scheduler, fast.steps).name,
        "clips": len(ids),
        "clips with events": sum(bool(scene(clip_id).onsets) for clip_id in ids),
        "seeds": study.seeds,
        "points": rows,
        "cheapest": cheapest(rows) if study.seeds > 1 else None,  # of one mapper there is no spread
    }
