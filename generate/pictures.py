"""Spectrograms beside the truth and the video frames (the paper's Figure 2)."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from common.console import shown
from common.writing import replacing
from pipeline.encoders.audiomae import KaldiFilterBank

_BINS = 128


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """16-kHz waveform (samples,) -> log-mel (bins, frames) in dB, one frame every 10 ms."""
    bank = KaldiFilterBank(_BINS)(torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None])[0]
    return (bank.T * (10 / np.log(10))).numpy()


def draw_clip(
    path: str | Path,
    title: str,
    frames: np.ndarray,
    generated: np.ndarray,
    truth: np.ndarray | None,
    seconds: float,
) -> None:
    """Write a PNG: eight of the frames (T, H, W, 3), the true and the generated spectrogram."""
    rows = 3 if truth is not None else 2
    figure, axes = plt.subplots(rows, 1, figsize=(10, 1.6 + 2.0 * (rows - 1)), height_ratios=[1.1] + [1.6] * (rows - 1))
    chosen = frames[np.linspace(0, len(frames) - 1, 8).round().astype(int)]
    axes[0].imshow(np.concatenate(list(chosen), axis=1))
    axes[0].set_axis_off()
    axes[0].set_title(shown(title)[:120], fontsize=10, parse_math=False)  # "$" is a letter of labels
    tracks = [("generated", generated)] if truth is None else [("truth", truth), ("generated", generated)]
    for axis, (name, waveform) in zip(axes[1:], tracks, strict=True):
        picture = log_mel(waveform)
        loudest = float(picture.max())
        axis.imshow(
            picture,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, _BINS),
            vmin=loudest - 70,
            vmax=loudest,
            cmap="magma",
        )
        axis.set_ylabel(f"{name}\nmel bin", fontsize=8)
    axes[-1].set_xlabel("seconds")
    try:
        with warnings.catch_warnings(), replacing(path) as temporary:
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.tight_layout()
            figure.savefig(temporary, dpi=90)
    finally:
        plt.close(figure)
