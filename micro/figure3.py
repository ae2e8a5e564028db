"""The paper's Figure 3: the GPT-2 and the diffusion mapper while they train, in three measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from common.writing import replacing
from micro.study import FIGURE3

_PANELS = (
    ("class_probability", "probability of the picture's class\nin the sound (as IB-score), higher is better"),
    ("timing_error", "timing error, s\n(as DeSync), lower is better"),
)


def draw_figure3(results: Mapping[str, Any], path: Path) -> None:
    """Validation error by epoch, and of the sound of the kept mappers what stands in for IB-score and DeSync."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for number, (system, title) in enumerate(FIGURE3.items()):
        if curve := results["curves"].get(system):
            epochs, mean, low, high = spread_of_curves(curve)
            axes[0].plot(epochs, mean, color=f"C{number}", label=title)
            axes[0].fill_between(epochs, low, high, color=f"C{number}", alpha=0.2)
        points = results["figure3"]["lines"].get(system, [])
        for axis, (name, _) in zip(axes[1:], _PANELS, strict=True):
            values = np.array([point["figures"][name] for point in points]).reshape(-1, 2)
            at = [point["epoch"] for point in points]
            axis.errorbar(at, values[:, 0], values[:, 1], color=f"C{number}", marker="o", capsize=3, label=title)
    axes[0].set_ylabel("free-running validation error\n(the paper's MSE)")
    axes[0].set_yscale("log")
    for axis, (_, words) in zip(axes[1:], _PANELS, strict=True):
        axis.set_ylabel(words)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def spread_of_curves(
    curve: Sequence[Sequence[Sequence[float]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Curves of [epoch, error] of each seed -> epochs that all have, and there mean, lowest and highest."""
    seeds = [{point[0]: point[1] for point in seed} for seed in curve]
    epochs = sorted(set.intersection(*(set(seed) for seed in seeds)))
    values = np.array([[seed[epoch] for epoch in epochs] for seed in seeds])
    return np.array(epochs), values.mean(axis=0), values.min(axis=0), values.max(axis=0)
