"""What sounds of rendered clips are worth: class, timing, loudness, distance, against scenes that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import softmax

from evaluation.metrics import frechet_distance
from micro.networks import MicroClassifier, load_classifier
from micro.onsets import compare_onsets, find_onsets, loudness_agreement
from micro.study import TRUTH, Condition, Study, features, label_given, rows, scene
from micro.study_sound import is_made, load_sound, load_tokens, true_waveform
from micro.world.scene import Scene
from presets import load_preset

_LEVEL_TIMES = (np.arange(40) + 0.5) / 4
TITLES = {
    "class_accuracy": "class accuracy",
    "class_probability": "class probability",
    "onset_f1": "events F1",
    "onset_recall": "events hit",
    "timing_error": "timing error, s",
    "loudness": "loudness r",
    "FD": "FD",
    "token_error": "token error",
}
HIGHER = ("class_accuracy", "class_probability", "onset_f1", "onset_recall", "loudness")


@dataclass(frozen=True)
class Measured:
    """Figures of a condition by name; of each clip the timing error in s (where it has events), and the probability
    that the classifier gives to its class."""

    figures: dict[str, float]
    errors: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Judge:
    """What sounds of some clips are measured against: their scenes, and features of their true sound."""

    scenes: list[Scene]
    classifier: MicroClassifier
    reference: np.ndarray

    @classmethod
    def of(cls, study: Study, clip_ids: Sequence[str]) -> Judge:
        """By the classifier that ships with the micro preset, whatever the study's presets are."""
        truth = Condition(TRUTH, kind="truth")
        if is_made(study, truth, clip_ids):
            sound = load_sound(study, truth, clip_ids)
        else:
            sound = np.stack([true_waveform(study, clip_id) for clip_id in clip_ids])
        classifier = load_classifier(load_preset("micro"))
        reference, _ = classifier.classify_all(sound)
        return cls([scene(clip_id) for clip_id in clip_ids], classifier, reference)

    def measure(self, sound: np.ndarray, labels: Sequence[str] = ()) -> Measured:
        """Waveforms (N, samples); ``labels``: those that the audio model was told, to see whether it is they that are
        heard."""
        known = list(self.classifier.labels)
        heard, logits = self.classifier.classify_all(sound)
        classes = np.array([known.index(scene.label) for scene in self.scenes])
        probability = softmax(logits.astype(np.float64), axis=1)[np.arange(len(classes)), classes]
        timing = [compare_onsets(s.onsets, find_onsets(w)) for s, w in zip(self.scenes, sound, strict=True) if s.onsets]
        levels = [
            loudness_agreement(w, s.level(_LEVEL_TIMES)) for s, w in zip(self.scenes, sound, strict=True) if s.sustained
        ]
        errors = np.array([t.error for t in timing])
        figures = {
            "class_accuracy": float((logits.argmax(axis=1) == classes).mean()),
            "class_probability": float(probability.mean()),
            "onset_f1": float(np.mean([t.f1 for t in timing])),
            "onset_recall": float(np.mean([t.recall for t in timing])),
            "timing_error": float(errors.mean()),
            "loudness": float(np.mean(levels)),
            "FD": frechet_distance(heard, self.reference),
        }
        if labels:
            told = np.array([known.index(label) for label in labels])
            figures["heard_as_told"] = float((logits.argmax(axis=1) == told).mean())
        return Measured(figures, errors, probability)


@lru_cache(maxsize=4)
def judge_of(study: Study, clip_ids: tuple[str, ...]) -> Judge:
    """:meth:`Judge.of`, once a process."""
    return Judge.of(study, clip_ids)


def measure_condition(study: Study, condition: Condition, clip_ids: tuple[str, ...]) -> Measured:
    """Figures of a condition that has its sound; of one with tokens their error, too."""
    told = [label_given(condition, clip_id) for clip_id in clip_ids] if condition.label == "wrong" else ()
    found = judge_of(study, clip_ids).measure(load_sound(study, condition, clip_ids), told)
    if condition.kind not in ("truth", "ceiling") and not condition.epoch:
        true, variance, _ = true_tokens(study, condition.system, clip_ids)
        tokens = load_tokens(study, condition, clip_ids)
        found.figures["token_error"] = float(((tokens - true) ** 2).mean() / variance)
    return found


@lru_cache(maxsize=8)
def true_tokens(study: Study, system: str, clip_ids: tuple[str, ...]) -> tuple[np.ndarray, float, np.ndarray]:
    """Of the target of a system's preset: the clips' own (N, T_c, D_c), the variance of the training clips' around
    their mean, and that mean (T_c, D_c)."""
    target = study.preset_of(system).target
    joined = features(study, (target,))
    train = [row for row, split in enumerate(joined.splits) if split == "train"]
    tokens = joined.arrays[target][train].astype(np.float64)
    mean = tokens.mean(axis=0)
    true: np.ndarray = joined.arrays[target][rows(joined, clip_ids)].astype(np.float64)
    return true, float(((tokens - mean) ** 2).mean()), mean


def mean_and_spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation over seeds."""
    return [float(np.mean(values)), float(np.std(values))]


def chance(scenes: Sequence[Any]) -> float:
    """Timing error of the instants of another clip of the same class: right class, right rate, wrong video."""
    errors = [
        compare_onsets(one.onsets, other.onsets).error
        for one in scenes
        for other in scenes
        if one is not other and one.label == other.label and one.onsets
    ]
    return float(np.mean(errors)) if errors else float("nan")
