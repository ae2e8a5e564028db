"""The study's figures: every condition over its seeds, paired tests, what was trained on how much, convergence."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from micro.judge import TITLES, Measured, chance, mean_and_spread, measure_condition, true_tokens
from micro.study import FIGURE3, LABEL, MFM, SHUFFLED, V2A, Condition, Study, scene
from micro.study_sound import is_made
from micro.tasks import Task, Workers
from trainer.mapper import read_spec
from trainer.scale import fitted

# Rows, and what each is compared with on the same clips: the first is expected to be better.
PAIRS = (
    (MFM, LABEL),
    (MFM, SHUFFLED),
    (MFM, V2A),
    ("MFM-Mapper, 16 % of clips", V2A),
    ("MFM-Mapper, no label", V2A),
    ("MFM-Mapper, 16 % of clips, no label", V2A),
    ("MFM-Mapper-M", MFM),
    (MFM, "MFM-Mapper, no label"),
)
# Of the last tenth of the epochs: an error that still falls by more is not that of a mapper trained to convergence.
STILL_FALLING = 0.02
_FIGURE3_FIGURES = ("class_probability", "class_accuracy", "timing_error", "onset_f1")


def measure(study: Study, workers: Workers, note: Callable[[str], None]) -> dict[str, Any]:
    """Figures of every condition that has its sound (mean and standard deviation over seeds), and what follows.

    A row lacks what was not made: ``missing`` names it.
    """
    clip_ids = tuple(study.test_clips)
    conditions = study.conditions()
    made = [condition for condition in conditions if is_made(study, condition, clip_ids)]
    found = _measured(study, made, clip_ids, workers, note)
    groups: dict[str, list[Measured]] = {}
    for condition, measured in found.items():
        groups.setdefault(condition.row, []).append(measured)
    scenes = [scene(clip_id) for clip_id in clip_ids]
    true, variance, mean = true_tokens(study, MFM, clip_ids)
    return {
        "clips": {
            "rendered": study.clips,
            "test": len(clip_ids),
            "with events": sum(bool(scene.onsets) for scene in scenes),
        },
        "seeds": study.seeds,
        "preset": study.preset.name,
        "baseline": study.baseline,
        "missing": [condition.name for condition in conditions if condition not in found],
        "chance_timing_error": chance(scenes),
        "mean_predictor_token_error": float(((mean - true) ** 2).mean() / variance),
        "figures": {
            row: {
                figure: mean_and_spread(values)
                for figure in (*TITLES, "heard_as_told")
                if (values := [m.figures[figure] for m in members if figure in m.figures])
            }
            for row, members in groups.items()
        },
        "trained": {name: about for name in study.systems if (about := _about(study, name))},
        "tests": [test for pair in PAIRS for test in _tests(groups, *pair)],
        "curves": {name: curve for name in study.systems if (curve := curves(study, name))},
    }


def _measured(
    study: Study, made: Sequence[Condition], clip_ids: tuple[str, ...], workers: Workers, note: Callable[[str], None]
) -> dict[Condition, Measured]:
    tasks = [Task(f"figures of {c.name}", measure_condition, (study, c, clip_ids)) for c in made]
    results = workers.through(tasks, note)
    return {condition: results[task.name] for condition, task in zip(made, tasks, strict=True)}


def _about(study: Study, system: str) -> dict[str, float]:
    """Of its mapper: parameters, hours of sound it was trained on, the paper's scale, and epochs; {} untrained."""
    folder = study.run_folder(system, 0) / "mapper"
    if not folder.is_dir():
        return {}
    spec = read_spec(folder)
    found = fitted(spec)
    assert found.hours is not None
    hours = spec.provenance["train_seconds"] / 3600
    return {"parameters": found.parameters, "hours": hours, "scale": found.hours, "epochs": spec.provenance["epochs"]}


def _tests(groups: dict[str, list[Measured]], row: str, other: str) -> list[dict[str, Any]]:
    """Timing error, and probability of the right class, of the same clips, each the mean over its seeds.

    ``better``: by how much the first is, in the figure's own unit; ``p``: Wilcoxon's signed-rank test, two-sided.
    """
    if row not in groups or other not in groups:
        return []
    tests = []
    for figure, sign in (("timing_error", -1), ("class_probability", 1)):
        ours, theirs = (
            np.mean([m.errors if figure == "timing_error" else m.probabilities for m in groups[name]], axis=0)
            for name in (row, other)
        )
        better = sign * (ours - theirs)
        p = float(wilcoxon(better).pvalue) if np.any(better) else 1.0
        tests.append({"row": row, "other": other, "figure": figure, "better": float(better.mean()), "p": p})
    return tests


# --- training -------------------------------------------------------------------------------------


def curves(study: Study, system: str) -> list[list[list[float]]]:
    """Of each seed that is trained [epoch, free-running validation error]."""
    rows = []
    for seed in range(study.seeds):
        path = study.run_folder(system, seed) / "metrics.jsonl"
        if path.is_file():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            rows.append([[m["epoch"], e] for m in lines if (e := m.get("validation_free_running")) is not None])
    return [row for row in rows if row]


def convergence(curve: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """``error`` at the end, mean over seeds, and ``fall``: by which part of it it fell over the last tenth of the
    epochs, by the slope of a line through them (of four points at least)."""
    ends, slopes = [], []
    for seed in curve:
        points = np.array(seed)
        last = points[-1, 0]
        late = points[points[:, 0] > 0.9 * last]
        late = late if len(late) >= 4 else points[-4:]
        ends.append(points[-1, 1])
        slopes.append(np.polyfit(late[:, 0], late[:, 1], 1)[0] * 0.1 * last if len(late) > 1 else 0.0)
    return {"error": float(np.mean(ends)), "fall": float(-np.mean(slopes) / np.mean(ends))}


# --- Figure 3 -------------------------------------------------------------------------------------


def measure_figure3(
    study: Study, clip_ids: Sequence[str], workers: Workers, note: Callable[[str], None]
) -> dict[str, Any]:
    """Figures of the kept mappers by epoch, with those conditions alone that all seeds have."""
    conditions = study.figure3_conditions()
    made = [condition for condition in conditions if is_made(study, condition, clip_ids)]
    found = _measured(study, made, tuple(clip_ids), workers, note)
    lines: dict[str, list[dict[str, Any]]] = {}
    for system in FIGURE3:
        for epoch in study.epochs(system):
            seeds = [m for c, m in found.items() if (c.system, c.epoch) == (system, epoch)]
            if len(seeds) == study.seeds:
                figures = {name: mean_and_spread([m.figures[name] for m in seeds]) for name in _FIGURE3_FIGURES}
                lines.setdefault(system, []).append({"epoch": epoch, "figures": figures})
    return {"clips": len(clip_ids), "lines": lines}
