"""Quality against cost of sampling at micro scale: schedulers and steps, on the study's trained mappers.

Of a study it needs ``cache`` and ``runs`` of MFM-Mapper, which it leaves as they are. Its own folder gets
``curve/<point>/<seed>`` (wav, and ``made.json`` with the seconds), ``curve.json``, ``curve.md`` and ``curve.png``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from common.hashing import sha256_file
from common.writing import write_text
from generate.audioldm2_loader import load_audioldm2
from micro.networks import load_classifier
from micro.points import Point, cheapest, check_points
from micro.study import SYNTHESIS_BATCH, Study, Task, denoise, predict, work_through
from pipeline.media.writing import read_wav, write_wav
from trainer.registry import MFMMapper

VARIANT = "MFM-Mapper"
_DECIDE_THE_SOUND = ("scheduler", "steps", "guidance_scale", "negative_prompt", "seed")


def _place(folder: Path, point: Point, seed: int) -> Path:
    return folder / "curve" / point.name.lower().replace(" ", "-") / str(seed)


def sample(study: Study, point: Point, seed: int, folder: Path) -> None:
    """wav of every test clip at one point, and CPU seconds of the sampler in ``made.json``, batch by batch.

    Clips that were made with the same mapper and settings are not made again.
    """
    place, preset = _place(folder, point, seed), point.preset(study)
    settings = {
        "mapper": sha256_file(study.run_folder(VARIANT, seed) / "mapper" / "model.safetensors"),
        **{name: getattr(preset.generation, name) for name in _DECIDE_THE_SOUND},
    }
    path, seconds = place / "made.json", {}
    if path.is_file() and (made := json.loads(path.read_text()))["settings"] == settings:
        seconds = made["seconds"]
    todo = [clip for clip in study.test_clips if clip not in seconds or not (place / f"{clip}.wav").is_file()]
    if not todo:
        return
    model = load_audioldm2(preset, cache=folder)
    model.negative(preset.generation.negative_prompt)  # before the clock runs
    tokens = torch.from_numpy(predict(study, VARIANT, seed, todo))
    for first in range(0, len(todo), SYNTHESIS_BATCH):
        part = todo[first : first + SYNTHESIS_BATCH]
        # Of the process, which has one thread: what else runs on the machine hardly changes it.
        started = time.process_time()
        latents = denoise(model, preset.generation, part, tokens[first : first + len(part)])
        seconds |= dict.fromkeys(part, (time.process_time() - started) / len(part))
        for clip_id, waveform in zip(part, model.decode(latents, preset.media.samples), strict=True):
            write_wav(place / f"{clip_id}.wav", waveform.numpy(), model.sample_rate)
        write_text(path, json.dumps({"settings": settings, "seconds": seconds}, indent=1))


def run_curve(
    study: Study, folder: Path, points: Sequence[Point], workers: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """All points on the mappers of all seeds; writes and returns the figures.

    Raises :class:`InputError` for a study whose mappers are not trained, and for a scheduler that there is not.
    """
    from micro.curve_report import write_curve

    for seed in range(study.seeds):
        if not (mapper := study.run_folder(VARIANT, seed) / "mapper").is_dir():
            raise InputError(f"no trained mapper in {mapper}: python -m micro study --folder {study.folder} trains it")
        MFMMapper.from_pretrained(mapper)
    check_points(study, points)
    tasks: list[Task] = [(sample, (study, point, seed, folder)) for seed in range(study.seeds) for point in points]
    work_through(tasks, workers, "points of the curve made to sound", note)
    results = measure_curve(study, folder, points)
    write_text(folder / "curve.json", json.dumps(results, indent=1))
    write_curve(results, folder)
    return results


def measure_curve(study: Study, folder: Path, points: Sequence[Point]) -> dict[str, Any]:
    """Figures and seconds of each point: mean and spread over seeds, and the seeds' own."""
    from micro.study_report import Judge, mean_and_spread

    judge = Judge.of(study, load_classifier(study.preset))
    rows: list[dict[str, Any]] = []
    for point in points:
        seeds, seconds = [], []
        for seed in range(study.seeds):
            place = _place(folder, point, seed)
            sound = np.stack([read_wav(place / f"{clip_id}.wav")[0] for clip_id in study.test_clips])
            seeds.append(judge.measure(sound)[0])
            made = json.loads((place / "made.json").read_text())["seconds"]
            seconds += [made[clip_id] for clip_id in study.test_clips]
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
    return {
        "preset": study.preset.name,
        "clips": len(study.test_clips),
        "clips with events": sum(bool(scene.onsets) for scene in judge.scenes),
        "seeds": study.seeds,
        "points": rows,
        "cheapest": cheapest(rows) if study.seeds > 1 else None,  # of one mapper there is no spread
    }
