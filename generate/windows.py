"""A film of any length as overlapping windows, and their waveforms joined without a seam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def window_rows(seconds: float, window_seconds: float, overlap_seconds: float, row_seconds: float) -> list[int]:
    """Where windows start, in rows of the latents, so that neighbours can share the noise of their overlap.

    The last window may reach past the end. Raises ValueError unless 0 < overlap < window.
    """
    if not 0 < overlap_seconds < window_seconds:
        raise ValueError(f"an overlap of {overlap_seconds:g} s does not fit windows of {window_seconds:g} s")
    hop = max(1, int((window_seconds - overlap_seconds) / row_seconds))
    starts = [0]
    while starts[-1] * row_seconds + window_seconds < seconds:
        starts.append(starts[-1] + hop)
    return starts


def join_windows(waveforms: Sequence[np.ndarray], starts: Sequence[int], samples: int) -> np.ndarray:
    """Windows (n,) that start at these samples -> (samples,), cross-faded where they overlap.

    A linear fade scaled by the measured correlation of the two: it keeps the power whether they agree
    (where a plain linear fade is right) or not (where an equal-power one is).
    """
    out = np.zeros(max(start + len(wave) for start, wave in zip(starts, waveforms, strict=True)), np.float32)
    filled = 0
    for start, wave in zip(starts, waveforms, strict=True):
        overlap = max(filled - start, 0)
        if overlap:
            old, new = out[start:filled], wave[:overlap]
            power = float(np.sqrt(np.square(old).sum() * np.square(new).sum()))
            correlation = float(np.clip((old * new).sum() / power, 0.0, 1.0)) if power > 0 else 1.0
            fade = np.linspace(0, 1, overlap, dtype=np.float32)
            scale = np.sqrt((1 - fade) ** 2 + fade**2 + 2 * fade * (1 - fade) * correlation)
            out[start:filled] = ((1 - fade) * old + fade * new) / scale
        out[start + overlap : start + len(wave)] = wave[overlap:]
        filled = start + len(wave)
    joined = np.zeros(samples, np.float32)
    joined[: min(samples, len(out))] = out[:samples]
    return joined
