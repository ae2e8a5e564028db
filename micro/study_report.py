"""What the study's sounds are worth: figures of every condition, tests, tables beside the paper's, Figure 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import wilcoxon

from common.writing import replacing
from evaluation.metrics import frechet_distance
from micro.networks import MicroClassifier
from micro.onsets import CAP_SECONDS, TOLERANCE_SECONDS, compare_onsets, find_onsets, loudness_agreement
from micro.study import CEILING, LABEL, ORACLE, SHUFFLED, TRUTH, VARIANTS, Study, load_sound, load_tokens, scene
from micro.world.scene import Scene

_LEVEL_TIMES = (np.arange(40) + 0.5) / 4
TITLES = {
    "class_accuracy": "class accuracy",
    "onset_f1": "events F1",
    "onset_recall": "events hit",
    "timing_error": "timing error, s",
    "loudness": "loudness r",
    "FD": "FD",
    "token_error": "token error",
}
HIGHER = ("class_accuracy", "onset_f1", "onset_recall", "loudness")
_FUSED = {"Table 2": "CAVP+TimeChat", "Table 3": "concat"}  # what MFM-Mapper is called there


@dataclass(frozen=True)
class Judge:
    """What sounds of the study's test clips are measured against: their scenes, and features of their true sound."""

    scenes: list[Scene]
    classifier: MicroClassifier
    reference: np.ndarray

    @classmethod
    def of(cls, study: Study, classifier: MicroClassifier) -> Judge:
        reference, _ = classifier.classify_all(load_sound(study, TRUTH))
        return cls([scene(clip_id) for clip_id in study.test_clips], classifier, reference)

    def measure(self, sound: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """Figures of waveforms (N, samples), and the timing error in s of each clip with events."""
        features, logits = self.classifier.classify_all(sound)
        right = logits.argmax(axis=1) == [self.classifier.labels.index(s.label) for s in self.scenes]
        timing = [compare_onsets(s.onsets, find_onsets(w)) for s, w in zip(self.scenes, sound, strict=True) if s.onsets]
        levels = [
            loudness_agreement(w, s.level(_LEVEL_TIMES)) for s, w in zip(self.scenes, sound, strict=True) if s.sustained
        ]
        errors = np.array([t.error for t in timing])
        return {
            "class_accuracy": float(right.mean()),
            "onset_f1": float(np.mean([t.f1 for t in timing])),
            "onset_recall": float(np.mean([t.recall for t in timing])),
            "timing_error": float(errors.mean()),
            "loudness": float(np.mean(levels)),
            "FD": frechet_distance(features, self.reference),
        }, errors


def measure(study: Study, classifier: MicroClassifier, seconds: float) -> dict[str, Any]:
    """Figures of every condition (mean and standard deviation over seeds) and the paired tests."""
    judge = Judge.of(study, classifier)
    variance, means = _token_spread(study)
    per_clip: dict[str, np.ndarray] = {}
    figures: dict[str, dict[str, float]] = {}
    for condition in (TRUTH, *study.conditions()):
        figures[condition], per_clip[condition] = judge.measure(load_sound(study, condition))
        if condition not in (TRUTH, CEILING):
            true = study.joined.arrays[study.preset.target][study.rows(study.test_clips)].astype(np.float64)
            figures[condition]["token_error"] = float(((load_tokens(study, condition) - true) ** 2).mean() / variance)
    true = study.joined.arrays[study.preset.target][study.rows(study.test_clips)].astype(np.float64)
    groups = _groups(study)
    ours = np.mean([per_clip[c] for c in groups["MFM-Mapper"]], axis=0)
    against = {}
    for name in (LABEL, SHUFFLED):
        other = np.mean([per_clip[c] for c in groups[name]], axis=0)
        against[name] = {
            "difference": float((other - ours).mean()),
            "p": float(wilcoxon(ours, other, alternative="less").pvalue),
        }
    return {
        "clips": {"rendered": study.clips, "test": len(study.test_clips), "with events": len(ours)},
        "seeds": study.seeds,
        "preset": study.preset.name,
        "seconds_of_last_call": round(seconds),
        "chance_timing_error": _chance(judge.scenes),
        "mean_predictor_token_error": float(((means - true) ** 2).mean() / variance),
        "figures": {
            name: {
                figure: mean_and_spread(values)
                for figure in TITLES
                if (values := [figures[c][figure] for c in members if figure in figures[c]])
            }
            for name, members in groups.items()
        },
        "timing_against": against,
        "curves": {name: _curves(study, name) for name in ("MFM-Mapper", "Diff-Mapper")},
    }


def mean_and_spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation over seeds."""
    return [float(np.mean(values)), float(np.std(values))]


def _groups(study: Study) -> dict[str, list[str]]:
    seeded = {name: [f"{name}/{seed}" for seed in range(study.seeds)] for name in (*VARIANTS, SHUFFLED)}
    return {TRUTH: [TRUTH], CEILING: [CEILING], ORACLE: [ORACLE], **seeded, LABEL: [LABEL]}


def _token_spread(study: Study) -> tuple[float, np.ndarray]:
    """Variance of the training tokens around their mean token, and that mean, (8, D)."""
    train = [row for row, split in enumerate(study.joined.splits) if split == "train"]
    tokens = study.joined.arrays[study.preset.target][train].astype(np.float64)
    mean = tokens.mean(axis=0)
    return float(((tokens - mean) ** 2).mean()), mean


def _chance(scenes: Sequence[Any]) -> float:
    """Timing error of the instants of another clip of the same class: right class, right rate, wrong video."""
    errors = [
        compare_onsets(one.onsets, other.onsets).error
        for one in scenes
        for other in scenes
        if one is not other and one.label == other.label and one.onsets
    ]
    return float(np.mean(errors))


def _curves(study: Study, variant: str) -> list[list[float]]:
    """Free-running validation error by epoch, a row a seed."""
    rows = []
    for seed in range(study.seeds):
        lines = (study.run_folder(variant, seed) / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line)["validation_free_running"] for line in lines])
    return rows


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """The paper's Figure 3: error of the GPT-2 and of the diffusion mapper while they train."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for name, rows in results["curves"].items():
        values = np.array(rows)
        epochs = np.arange(1, values.shape[1] + 1)
        axis.plot(epochs, values.mean(axis=0), label=name)
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), alpha=0.2)
    axis.set_xlabel("epoch")
    axis.set_ylabel("free-running validation error\n(paper's MSE)")
    axis.set_yscale("log")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def cell(value: Sequence[float] | None) -> str:
    """Mean ± spread of a table; without the spread where there is none."""
    if value is None:
        return ""
    return f"{value[0]:.3f}" + (f" ± {value[1]:.3f}" if value[1] else "")


def _table(results: dict[str, Any], names: Sequence[str]) -> str:
    lines = ["| | " + " | ".join(TITLES.values()) + " |", "| --- |" + " --- |" * len(TITLES)]
    for name in names:
        cells = [cell(results["figures"][name].get(figure)) for figure in TITLES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _order(results: dict[str, Any], names: Sequence[str], figure: str) -> str:
    best = sorted(names, key=lambda name: results["figures"][name][figure][0], reverse=figure in HIGHER)
    return " > ".join(best)


def write_report(results: dict[str, Any], folder: Path) -> Path:
    """``study.md`` and ``figure3.png``; tables of ours, the paper's order beside ours."""
    draw_curves(results, folder / "figure3.png")
    clips, against = results["clips"], results["timing_against"]
    encoders, fusions = ("MFM-Mapper", "CAVP", "TimeChat"), ("MFM-Mapper", "add", "cat")
    curves = {name: np.array(rows).mean(axis=0) for name, rows in results["curves"].items()}
    orders = [
        ("Table 2", "FD_PaSST", "CAVP+TimeChat > CAVP > TimeChat", "FD", encoders),
        ("Table 2", "DeSync", "CAVP+TimeChat > CAVP > TimeChat", "timing_error", encoders),
        ("Table 2", "IB-score", "CAVP+TimeChat > TimeChat > CAVP", "class_accuracy", encoders),
        ("Table 2", "", "not given", "token_error", encoders),
        ("Table 3", "FD_PaSST", "concat > cat > add", "FD", fusions),
        ("Table 3", "DeSync", "concat > add > cat", "timing_error", fusions),
        ("Table 3", "", "not given", "token_error", fusions),
    ]
    lines = []
    for table, theirs, paper, figure, names in orders:
        ranked = _order(results, names, figure).replace("MFM-Mapper", _FUSED[table])
        lines.append(f"| {table} | {theirs} | {paper} | {TITLES[figure]} | {ranked} |")
    ranked = " > ".join(sorted(curves, key=lambda name: curves[name][-1])).replace("MFM-Mapper", "GPT-2")
    lines.append(f"| Figure 3 | all, at the end | GPT-2 > Diff-Mapper | validation error | {ranked} |")
    order_lines = "\n".join(lines)
    text = f"""# The study at micro scale

Written by `make study`, {results["seeds"]} seeds a mapper. {clips["rendered"]} rendered clips, {clips["test"]} test
clips of sizes that no training clip has, {clips["with events"]} of them with known instants.
Mean ± standard deviation over seeds.

- class accuracy: by a classifier trained on true sounds only; the row *truth* is its own accuracy.
- events hit, F1: instants that have an onset of their own within {TOLERANCE_SECONDS} s, and the balance with false
  ones.
- timing error: mean distance between instants and onsets, both ways, at most {CAP_SECONDS} s. Chance (the instants of
  another clip of the same class): {results["chance_timing_error"]:.3f} s.
- loudness r: of sustained sounds, correlation of loudness with what is seen.
- FD: Fréchet distance in the classifier's features. token error: free-running, 1 is the variance of the
  training tokens; the mean token of the training clips has {results["mean_predictor_token_error"]:.3f}.

{_table(results, list(results["figures"]))}

*ceiling*: truth through VAE and vocoder. *oracle*: true AudioMAE tokens. *label only*: AudioLDM-2's own GPT-2 on the
label, no video. *shuffled videos*: MFM-Mapper on another test clip of the same class.

MFM-Mapper against them, timing error of the same clips (Wilcoxon signed-rank, one-sided):
{", ".join(f"{name}: {v['difference']:.3f} s lower, p = {v['p']:.1e}" for name, v in against.items())}.

## The paper's order beside ours

| | the paper's measure | its order, best first | ours | order here, best first |
| --- | --- | --- | --- | --- |
{order_lines}

![Figure 3](figure3.png)
"""
    if results.get("curve"):
        text += "\nSchedulers and steps, quality against cost: [curve.md](curve.md).\n"
    path = folder / "study.md"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
