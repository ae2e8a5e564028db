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
    names = {
        "train_loss": "train, teacher-forced",
        "validation_loss": "validation, teacher-forced",
        "validation_free_running": "validation, free-running",
    }
    validated = [line for line in metrics if "validation_loss" in line]  # not every epoch need be
    for key, label in names.items():
        of_key = metrics if key == "train_loss" else validated
        if of_key:
            errors.plot([line["epoch"] for line in of_key], [line[key] for line in of_key], label=label)
    errors.set_xlabel("epoch")
    errors.set_ylabel("squared L2 distance a token")
    errors.legend(fontsize=8)
    if validated:
        cosines.plot([line["epoch"] for line in validated], [line["validation_cosine"] for line in validated])
    cosines.set_xlabel("epoch")
    cosines.set_ylabel("cosine, free-running validation")
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)
