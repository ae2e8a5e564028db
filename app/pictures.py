"""The spectrogram of a sound, and the tokens it was made from, on one time line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.writing import replacing
from generate.pictures import log_mel

_INK = "#7d8590"  # read on white and on black: the page has both


def draw_sound(
    path: str | Path,
    waveform: np.ndarray,
    tokens: np.ndarray,
    starts: Sequence[float],
    window_seconds: float,
    seconds: float,
) -> None:
    """Write a PNG: log-mel of a 16-kHz waveform (samples,), below it tokens (windows, 8, D) where they sound.

    ``starts``: of the windows, in seconds. The eight vectors of a window follow each other in time; where windows
    overlap, the later one is shown.
    """
    # No pyplot: its figures belong to the main thread, and this runs in others.
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    figure.patch.set_alpha(0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
    mel = log_mel(waveform)
    loudest = float(mel.max())
    above.imshow(
        mel,
        origin="lower",
        aspect="auto",
        extent=(0, len(waveform) / 16000, 0, len(mel)),
        vmin=loudest - 70,
        vmax=loudest,
        cmap="magma",
    )
    above.set_ylabel("mel band")
    above.set_title("Spectrogram", loc="left", fontsize=10, color=_INK)
    most = float(np.quantile(np.abs(tokens), 0.99)) or 1.0
    for start, window in zip(starts, tokens, strict=True):
        below.imshow(
            window.T,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(start, start + window_seconds, 0, window.shape[1]),
            vmin=-most,
            vmax=most,
            cmap="RdBu_r",
        )
        if start > 0:
            below.axvline(start, color=_INK, linewidth=1)
    below.set_ylabel("value")
    below.set_xlabel("seconds")
    windows = "" if len(tokens) == 1 else f" in each of {len(tokens)} windows"
    below.set_title(
        f"Predicted tokens: {tokens.shape[1]} vectors of {tokens.shape[2]} values{windows}",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    below.set_xlim(0, seconds)
    for axis in (above, below):
        axis.tick_params(colors=_INK, labelsize=8)
        axis.yaxis.label.set(color=_INK, fontsize=8)
        axis.xaxis.label.set(color=_INK, fontsize=8)
        axis.spines[:].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
