"""Quality against cost of sampling at micro scale: schedulers and steps, on the study's trained mappers.

Of a study it needs ``cache`` and ``runs`` of MFM-Mapper, which it leaves as they are. Its own folder gets
``curve/<point>/<seed>`` (wav, and ``made.json`` with the seconds), ``curve.json``, ``curve.md`` and ``curve.png``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from common.hashing import sha256_file
from common.writing import write_text
from generate.audioldm2 import load_audioldm2
from generate.schedulers import build_scheduler
from micro.networks import load_classifier
from micro.study import SYNTHESIS_BATCH, Study, Task, denoise, predict, work_through
from pipeline.media.writing import read_wav, write_wav
from presets import Preset, load_preset
from trainer.registry import MFMMapper

VARIANT = "MFM-Mapper"
_DECIDE_THE_SOUND = ("scheduler", "steps", "guidance_scale", "negative_prompt", "seed")
_KNOWN_AS = {"DPMSolverMultistep": "DPM-Solver++"}
# What must be as good as at the first point for another to replace it. Loudness is not of them: it follows the
# picture at no point.
DECIDES = ("class_accuracy", "onset_f1", "timing_error", "FD")


@dataclass(frozen=True)
class Point:
    """A scheduler of diffusers and its number of steps."""

    scheduler: str
    steps: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """``DDIMScheduler:100``; raises :class:`InputError` for anything else."""
        scheduler, _, steps = text.strip().partition(":")
        if not (steps.isascii() and steps.isdigit() and int(steps)):
            raise InputError(f"the point '{text}' is not of the form scheduler:steps, such as DDIMScheduler:100")
        return cls(scheduler, int(steps))

    @property
    def method(self) -> str:
        """What the scheduler is called in the literature."""
        name = self.scheduler.removesuffix("Scheduler")
        return _KNOWN_AS.get(name, name)

    @property
    def name(self) -> str:
        return f"{self.method} {self.steps}"

    def preset(self, study: Study) -> Preset:
        own = [f"generation.scheduler={self.scheduler}", f"generation.steps={self.steps}"]
        return load_preset(study.preset_name, [*study.assignments, *own])


# The first is what the others are compared with: the paper's.
POINTS = (
    *(Point("DDIMScheduler", steps) for steps in (100, 50, 25, 12)),
    *(Point("DPMSolverMultistepScheduler", steps) for steps in (25, 15, 10)),
)


def points_of(text: str) -> list[Point]:
    """Points joined by commas, ``default``: :data:`POINTS`, ``none``: none; raises :class:`InputError`."""
    known = {"default": list(POINTS), "none": []}
    return known[text] if text in known else [Point.parse(each) for each in text.split(",")]


def check_points(study: Study, points: Sequence[Point]) -> None:
    """Raise :class:`InputError` for a scheduler that there is not, :class:`PresetError` for too many steps."""
    for point in points:
        build_scheduler(point.scheduler, point.preset(study).audioldm2.scheduler)


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
    model = load_audioldm2(preset, negatives=folder / "negatives")
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


def cheapest(points: Sequence[dict[str, Any]]) -> str:
    """Name of the point of fewest seconds whose mean is no worse than the first's by more than its spread.

    In each of :data:`DECIDES`; the spread is the standard deviation over seeds.
    """
    return str(min((p for p in points if not worse(p, points[0])), key=lambda point: point["seconds"])["name"])


def worse(point: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """The figures of :data:`DECIDES` in which a point is worse than another by more than the other's spread."""
    from micro.study_report import HIGHER

    found = []
    for figure in DECIDES:
        (ours, _), (theirs, spread) = point["figures"][figure], reference["figures"][figure]
        loss = theirs - ours if figure in HIGHER else ours - theirs
        if loss > spread + 1e-9:
            found.append(figure)
    return found
