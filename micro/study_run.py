"""The whole study in one call: clips, cache, mappers, sounds, the curve of the sampler, figures and pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from common.writing import write_text
from micro.curve import run_curve
from micro.networks import load_classifier
from micro.points import Point, check_points
from micro.study import VARIANTS, Study, Task, prepare, synthesise, train_one, work_through
from micro.study_report import measure, write_report


def run(study: Study, workers: int, note: Callable[[str], None], points: Sequence[Point]) -> dict[str, Any]:
    """Everything, in order; returns what :func:`micro.study_report.measure` found.

    ``points``: of the curve of quality against cost (:mod:`micro.curve`); none leaves it out.
    """
    check_points(study, points)
    started = time.monotonic()
    prepare(study, note)
    training: list[Task] = [(train_one, (study, name, seed)) for seed in range(study.seeds) for name in VARIANTS]
    # The condition that all others share makes the negative tokens; the rest then find them.
    sounds: list[Task] = [(synthesise, (study, condition)) for condition in study.conditions()]
    for title, tasks in (("mappers trained", training), ("conditions made to sound", sounds)):
        work_through(tasks, workers, title, note)
    curve = run_curve(study, study.folder, points, workers, note) if points else None
    results = measure(study, load_classifier(study.preset), time.monotonic() - started)
    results["curve"] = curve
    write_text(study.folder / "results.json", json.dumps(results, indent=1))
    write_report(results, study.folder)
    return results
