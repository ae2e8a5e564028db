"""Metrics of the rendered world's networks, as the evaluation's table takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import InputError
from evaluation.metric import Features, Metric, frechet, inception, kl
from micro.onsets import compare_onsets


def _onset_f1(generated: Features, reference: Features, ids: Sequence[str]) -> tuple[float, np.ndarray]:
    """Of the clips whose reference has onsets: F1 of the generated onsets within 0.15 s."""
    pairs = zip(generated.of(ids, "onsets.pth"), reference.of(ids, "onsets.pth"), strict=True)
    values = np.array([compare_onsets(r[r >= 0], g[g >= 0]).f1 for g, r in pairs if (r >= 0).any()])
    if not len(values):
        raise InputError("no reference clip has an onset")
    return float(values.mean()), values


FD_MICRO = Metric("FD_micro", "micro", False, frechet("micro_features.pth", "64"))
KL_MICRO = Metric("KL_micro", "micro", False, kl("micro_features.pth", "logits"))
IS_MICRO = Metric("IS_micro", "micro", True, inception("micro_features.pth", "logits"))
ONSET_F1 = Metric("onset_F1", "onsets", True, _onset_f1)
