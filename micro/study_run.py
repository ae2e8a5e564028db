"""The study part by part: what is there is left alone, so a study that was stopped goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.runtime import choose_device
from common.writing import write_text
from micro.curve import curve_tasks, is_sampled, report_curve
from micro.points import Point, check_points
from micro.study import Study
from micro.study_measure import measure, measure_figure3
from micro.study_parts import extract_tasks, mapper_tasks, render_tasks
from micro.study_report import write_report
from micro.study_sound import sound_tasks
from micro.tasks import Workers
from micro.world.render import KINDS, split_of

PARTS = ("clips", "cache", "mappers", "sounds", "figure3", "curve", "report")


def parts_of(text: str) -> list[str]:
    """Names joined by commas, or ``all``; raises :class:`InputError`."""
    names = list(PARTS) if text == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise InputError(f"there is no part '{unknown[0]}' of the study: there are {', '.join(PARTS)}")
    return names


@dataclass(frozen=True)
class Machine:
    """Who works: ``workers`` processes of one thread each, and where encoders and sound, and mappers, compute.

    ``mapper_device``: ``auto`` gives the accelerator those mappers that take longest on a CPU, the CPU the rest.
    """

    workers: int = 2
    device: str = "auto"
    mapper_device: str = "auto"
    on_device: int = 12

    def mapper_devices(self, device: str) -> tuple[str, str]:
        """Of most mappers, and of those that take longest."""
        if self.mapper_device != "auto":
            chosen = choose_device(self.mapper_device)
            return chosen, chosen
        # In one process all mappers have to be on one device.
        return "cpu" if self.workers > 1 else device, device


def run(
    study: Study,
    machine: Machine,
    note: Callable[[str], None],
    points: Sequence[Point],
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """The chosen parts in their order; returns the figures, as far as the sounds are made (``{}`` without ``report``).

    Mappers, sounds, Figure 3 and the curve are worked on together: a sound is made as soon as its mapper is trained.
    ``points``: of the curve of quality against cost (:mod:`micro.curve`); none leaves it out. Raises
    :class:`InputError` for a study that is too small, before anything is made.
    """
    check_size(study)
    check_points(study, points)
    device = choose_device(machine.device)
    started = time.monotonic()

    def done(part: str) -> None:
        note(f"{part}: done after {time.monotonic() - started:.0f} s")

    with Workers(machine.workers, machine.on_device) as workers:
        if "clips" in parts:
            made = workers.through(render_tasks(study), note)
            done(f"{sum(made.values())} clips rendered")
        if "cache" in parts:
            workers.through(extract_tasks(study, device, machine.workers), note)
            done("cache")
        tasks = mapper_tasks(study, *machine.mapper_devices(device)) if "mappers" in parts else []
        if "sounds" in parts:
            tasks += sound_tasks(study, study.conditions(), study.test_clips, device)
        if "figure3" in parts:
            tasks += sound_tasks(study, study.figure3_conditions(), figure3_clips(study), device)
        if "curve" in parts and points:
            tasks += curve_tasks(study, study.folder, points)
        if tasks:
            workers.through(tasks, note)
            done("mappers and sounds")
        if "report" not in parts:
            return {}
        return report(study, workers, note, points, started)


def check_size(study: Study) -> None:
    """Raise :class:`InputError` where a figure would have no value.

    A video of another clip of the same class, whose instants are those of chance, needs two test clips of each.
    """
    for name, value, least, why in (
        ("--seeds", study.seeds, 1, "mappers are trained and averaged over them"),
        ("--per-class", study.per_class, 2, "each clip is compared with another of its class"),
        ("--clips", study.clips, clips_for(2), "every class needs two test clips, each compared with the other"),
    ):
        if value < least:
            raise InputError(f"{name} is {value}, and must be at least {least}: {why}")


def clips_for(per_class: int) -> int:
    """How many clips a world needs to have so many test clips of each class, which are one in six."""
    return 1 + max(number for number in range(6 * len(KINDS) * per_class) if split_of(number) == "test")


def figure3_clips(study: Study) -> list[str]:
    """Two of each class where the table has four."""
    return study.some_test_clips(max(1, study.per_class // 2))


def report(
    study: Study, workers: Workers, note: Callable[[str], None], points: Sequence[Point], started: float
) -> dict[str, Any]:
    """Measure what is made, and write ``results.json``, ``study.md`` and the figures."""
    results = measure(study, workers, note)
    results["figure3"] = measure_figure3(study, figure3_clips(study), workers, note)
    sampled = bool(points) and is_sampled(study, study.folder, points)
    results["curve"] = report_curve(study, study.folder, points, workers, note) if sampled else None
    results["seconds_of_last_call"] = round(time.monotonic() - started)
    write_text(study.folder / "results.json", json.dumps(results, indent=1))
    write_report(results, study.folder)
    return results
