"""Linear probes: how much of a fact a linear map can read from a feature (Alain & Bengio 2016), in closed form.

Each learns on training scenes, takes the ridge strength that is best on validation, and is measured on test scenes.
Four facts: CLASS, SIZE (given the class), LEVEL (loudness of a sustained sound, as it is seen, each 250 ms) and
INSTANT (whether something begins to sound, each 125 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from torch import Tensor, nn

from micro.data import LABELS
from micro.world.scene import SECONDS, Scene

INSTANT_STEPS, LEVEL_STEPS = 80, 40  # of 125 and of 250 ms
_STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # times the number of rows: inputs have unit variance
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Subjects:
    """The scenes that are probed, of all three splits, one after the other."""

    scenes: Sequence[Scene]
    splits: Sequence[str]

    def rows(self, split: str, among: np.ndarray | None = None) -> np.ndarray:
        """Numbers of the scenes of a split, or of those ``among`` (a mask) in it."""
        chosen = np.array(self.splits) == split
        return np.flatnonzero(chosen if among is None else chosen & among)

    @cached_property
    def label(self) -> np.ndarray:
        return np.array([LABELS.index(scene.label) for scene in self.scenes])

    @cached_property
    def sustained(self) -> np.ndarray:
        return np.array([scene.sustained for scene in self.scenes])


@dataclass(frozen=True)
class Probed:
    """A feature (N, T, D) of all subjects, whose T rows share ``seconds``; ``context``: neighbours read on each side.

    A row tells of all steps that it lasts, each with weights of its own, as to a mapper with position embeddings.
    Finer rows than half a step are interpolated to that.
    """

    values: np.ndarray
    seconds: float = float(SECONDS)
    context: int = 1

    def on_grid(self, steps: int) -> np.ndarray:
        """(N, R, D'): R divides ``steps``."""
        rows = torch.from_numpy(np.ascontiguousarray(self.values, np.float32))
        count, context = rows.shape[1], self.context
        if count > steps or steps % count:
            rows = nn.functional.interpolate(rows.transpose(1, 2), 2 * steps, mode="area").transpose(1, 2)
            rows = rows.unflatten(1, (steps, 2)).flatten(2)
            context = max(context, 1)  # a rise needs a before
        if count > 1 and context:
            padded = nn.functional.pad(rows.transpose(1, 2), (context, context), mode="replicate").transpose(1, 2)
            rows = torch.cat([padded[:, n : n + rows.shape[1]] for n in range(2 * context + 1)], dim=2)
        return rows.numpy()

    @cached_property
    def pooled(self) -> np.ndarray:
        """(N, 3 D): mean, spread and maximum over time; (N, D) of a single row."""
        values = self.values.astype(np.float64)
        if values.shape[1] == 1:
            return values[:, 0]
        return np.concatenate([values.mean(1), values.std(1), values.max(1)], axis=1)

    def times(self, steps: int) -> np.ndarray:
        """Centres of the steps in seconds."""
        return (np.arange(steps) + 0.5) * self.seconds / steps


Found = dict[str, Any]  # figure -> number, or class -> number, or the confusions


def probe(subjects: Subjects, feature: Probed) -> Found:
    """What of CLASS, SIZE, LEVEL and INSTANT a feature tells, on the test scenes."""
    return {
        **probe_class(subjects, feature),
        "size_r": probe_size(subjects, feature),
        **probe_level(subjects, feature),
        **probe_instant(subjects, feature),
    }


def probe_class(subjects: Subjects, feature: Probed) -> Found:
    """Accuracy of a multinomial logistic regression of the pooled feature, also by class; what is taken for what."""
    train, _, test = (subjects.rows(split) for split in _SPLITS)
    inputs = _standardised(feature.pooled, train)
    guessed = _logistic(inputs, subjects.label, subjects).argmax(axis=1)
    right = guessed == subjects.label
    by_class = {name: float(right[test][subjects.label[test] == n].mean()) for n, name in enumerate(LABELS)}
    mistaken = confusions([LABELS[n] for n in subjects.label[test]], [LABELS[n] for n in guessed[test]])
    return {"class_accuracy": float(right[test].mean()), "class_accuracy_by_class": by_class, "confusions": mistaken}


def confusions(true: Sequence[str], taken: Sequence[str]) -> dict[str, dict[str, int]]:
    """Class -> what else it was taken for -> how often, the most frequent first; classes always right are left out."""
    out: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(true):
        wrong = [t for n, t in zip(true, taken, strict=True) if n == name and t != name]
        if wrong:
            out[name] = {t: wrong.count(t) for t in sorted(set(wrong), key=wrong.count, reverse=True)}
    return out


def probe_size(subjects: Subjects, feature: Probed) -> float:
    """Correlation of the size with that read from the pooled feature, given the class."""
    size = np.array([scene.size for scene in subjects.scenes])[:, None]
    rows = [subjects.rows(split) for split in _SPLITS]
    inputs = _given_class(_standardised(feature.pooled, rows[0]), subjects.label)
    train, validation, test = ((inputs[r], size[r]) for r in rows)
    found = _ridge(train, validation, test[0])
    return _correlation(found[:, 0], test[1][:, 0])


def probe_level(subjects: Subjects, feature: Probed) -> Found:
    """Mean over sustained test clips of the correlation over time of the level with that read, given the class."""
    rows = [subjects.rows(split, subjects.sustained) for split in _SPLITS]
    times = feature.times(LEVEL_STEPS)
    grid = feature.on_grid(LEVEL_STEPS)
    share = LEVEL_STEPS // grid.shape[1]
    level = np.stack([scene.level(times) if scene.sustained else np.zeros(len(times)) for scene in subjects.scenes])
    label = np.repeat(subjects.label[:, None], grid.shape[1], axis=1)
    train = grid[rows[0]].reshape(-1, grid.shape[2])
    mean, spread = train.mean(0), train.std(0) + 1e-6

    def of(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = ((grid[chosen] - mean) / spread).reshape(-1, grid.shape[2])
        return _given_class(flat, label[chosen].ravel()), level[chosen].reshape(-1, share)

    found = _ridge(of(rows[0]), of(rows[1]), of(rows[2])[0]).reshape(len(rows[2]), -1)
    heard = times < SECONDS
    each = [_correlation(one[heard], other[heard]) for one, other in zip(found, level[rows[2]], strict=True)]
    labels = subjects.label[rows[2]]
    by_class = {LABELS[n]: float(np.mean(np.array(each)[labels == n])) for n in dict.fromkeys(labels.tolist())}
    return {"level_r": float(np.mean(each)), "level_r_by_class": by_class}


def probe_instant(subjects: Subjects, feature: Probed) -> Found:
    """Average precision of the steps of 125 ms, and of 250 ms, in which something begins to sound."""
    rows = [subjects.rows(split, ~subjects.sustained) for split in _SPLITS]
    begins = np.stack([_begins(scene, feature.seconds) for scene in subjects.scenes])
    grid = feature.on_grid(INSTANT_STEPS)
    share = INSTANT_STEPS // grid.shape[1]
    train = grid[rows[0]].reshape(-1, grid.shape[2])
    mean, spread = train.mean(0), train.std(0) + 1e-6

    def of(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ((grid[chosen] - mean) / spread).reshape(-1, grid.shape[2]), begins[chosen].reshape(-1, share)

    found = _ridge(of(rows[0]), of(rows[1]), of(rows[2])[0]).reshape(len(rows[2]), -1)
    heard = feature.times(INSTANT_STEPS) < SECONDS
    true = begins[rows[2]][:, heard]
    found = found[:, heard]
    even = heard.sum() // 2 * 2
    pairs = (each[:, :even].reshape(len(each), -1, 2).max(axis=2) for each in (true, found))
    labels = subjects.label[rows[2]]
    return {
        "instant_ap": average_precision(true, found),
        "instant_ap_250": average_precision(*pairs),
        "instant_share": float(true.mean()),
        "instant_ap_by_class": {
            LABELS[n]: average_precision(true[labels == n], found[labels == n]) for n in dict.fromkeys(labels.tolist())
        },
    }


def _begins(scene: Scene, seconds: float) -> np.ndarray:
    """1 in the steps in which something begins to sound, (80,)."""
    out = np.zeros(INSTANT_STEPS)
    for time in scene.onsets:
        out[min(int(time * INSTANT_STEPS / seconds), INSTANT_STEPS - 1)] = 1
    return out


def average_precision(true: np.ndarray, score: np.ndarray) -> float:
    """Mean precision at each true step, in the order of the scores; ties keep their places."""
    order = np.argsort(-score.ravel(), kind="stable")
    hits = true.ravel()[order] > 0
    if not hits.any():
        return 0.0
    return float((np.cumsum(hits) / (np.arange(len(hits)) + 1))[hits].mean())


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.std() < 1e-9 or other.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    return (values - values[train].mean(0)) / (values[train].std(0) + 1e-6)


def _given_class(inputs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, D (1 + classes)): weights that all classes share, and weights of each; and an offset of each."""
    kinds = np.unique(label)
    own = label[:, None] == kinds
    products = (own[:, :, None] * inputs[:, None]).reshape(len(inputs), -1)
    return np.concatenate([inputs, products, own], axis=1)


Pair = tuple[np.ndarray, np.ndarray]


def _ridge(train: Pair, validation: Pair, test: np.ndarray) -> np.ndarray:
    """Closed-form ridge regression with an offset; predictions (N, K) for ``test``.

    Solved in the smaller of both spaces: of values or of rows.
    """
    inputs, targets = (values.astype(np.float64) for values in train)
    centre, offset = inputs.mean(0), targets.mean(0)
    inputs, targets = inputs - centre, targets - offset
    count, width = inputs.shape
    dual = width > count
    gram = inputs @ inputs.T if dual else inputs.T @ inputs
    right = targets if dual else inputs.T @ targets
    best: tuple[float, np.ndarray] | None = None
    for strength in _STRENGTHS:
        penalised = gram.copy()
        penalised[np.diag_indices_from(penalised)] += strength * count
        try:
            solved = cho_solve(cho_factor(penalised, overwrite_a=True, check_finite=False), right)
        except LinAlgError:
            continue
        weights = inputs.T @ solved if dual else solved
        error = float(np.square((validation[0] - centre) @ weights + offset - validation[1]).mean())
        if best is None or error < best[0]:
            best = error, weights
    assert best is not None  # the strongest penalty leaves no matrix singular
    return (test - centre) @ best[1] + offset


def _logistic(inputs: np.ndarray, label: np.ndarray, subjects: Subjects) -> np.ndarray:
    """Logits (N, classes) of a multinomial logistic regression with a ridge; the ridge is chosen on validation."""
    train, validation = subjects.rows("train"), subjects.rows("validation")
    values, target = torch.from_numpy(inputs).float(), torch.from_numpy(label)
    best: tuple[float, Tensor] | None = None
    weights = torch.zeros(values.shape[1] + 1, len(LABELS))
    for strength in sorted(_STRENGTHS, reverse=True)[2:]:  # from strong to weak, each from the last one's weights
        weights = _fit_logistic(values[train], target[train], strength, weights)
        logits = values @ weights[:-1] + weights[-1]
        error = float(nn.functional.cross_entropy(logits[validation], target[validation]))
        if best is None or error < best[0]:
            best = error, logits
    assert best is not None
    return best[1].numpy()


def _fit_logistic(values: Tensor, target: Tensor, strength: float, start: Tensor) -> Tensor:
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = values @ weights[:-1] + weights[-1]
        loss = nn.functional.cross_entropy(logits, target) + strength * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()
