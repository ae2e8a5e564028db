"""Training curves as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from common.writing import replacing


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Error (train, teacher-forced and free-running validation) and cosine over epochs."""
    figure, (errors, cosines) = plt.subplots(1, 2, figsize=(10, 3.5))
    epochs = [line["epoch"] for line in metrics]
    names = {
        "train_loss": "train, teacher-forced",
        "validation_loss": "validation, teacher-forced",
        "validation_free_running": "validation, free-running",
    }
    for key, label in names.items():
        if key in metrics[0]:
            errors.plot(epochs, [line[key] for line in metrics], label=label)
    errors.set_xlabel("epoch")
    errors.set_ylabel("squared L2 distance a token")
    errors.legend(fontsize=8)
    if "validation_cosine" in metrics[0]:
        cosines.plot(epochs, [line["validation_cosine"] for line in metrics])
    cosines.set_xlabel("epoch")
    cosines.set_ylabel("cosine, free-running validation")
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)
