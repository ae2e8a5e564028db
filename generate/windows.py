"""A film of any length as overlapping windows, and their waveforms joined without a seam."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.errors import InputError


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


def part_seconds(whole: float, start: float, duration: float | None, video: object) -> float:
    """The length of a film's part, which ends with the film; raises :class:`InputError` where it starts after that."""
    if start >= whole:
        raise InputError(f"start is {start:g} s, and {video} has only {whole:g} s")
    return whole - start if duration is None else min(duration, whole - start)


def window_name(number: int, rows: Sequence[int], start: float, seconds: float, window: float, row: float) -> str:
    """For messages, ``window 2 of 3 (8.0 to 18.0 s)``, of a part of ``seconds`` from ``start`` on."""
    begin = start + rows[number] * row
    return f"window {number + 1} of {len(rows)} ({begin:.1f} to {min(begin + window, start + seconds):.1f} s)"


def joined(windows: Iterable[tuple[int, np.ndarray]], samples: int) -> Iterator[np.ndarray]:
    """Windows (n,) with the sample where each starts -> parts of (samples,), cross-faded where windows overlap.

    A part is given as soon as no later window reaches it, so no more than a window is held.
    A linear fade scaled by the measured correlation of the two: it keeps the power whether they agree
    (where a plain linear fade is right) or not (where an equal-power one is).
    """
    held = np.zeros(0, np.float32)  # what a later window may still change, from sample ``begin`` on
    begin = 0
    for start, wave in windows:
        done, held = held[: start - begin], held[start - begin :]
        yield done[: max(samples - begin, 0)]
        begin, overlap = start, len(held)
        new = wave.astype(np.float32)
        if overlap:
            power = float(np.sqrt(np.square(held).sum() * np.square(new[:overlap]).sum()))
            correlation = float(np.clip((held * new[:overlap]).sum() / power, 0.0, 1.0)) if power > 0 else 1.0
            fade = np.linspace(0, 1, overlap, dtype=np.float32)
            scale = np.sqrt((1 - fade) ** 2 + fade**2 + 2 * fade * (1 - fade) * correlation)
            new[:overlap] = ((1 - fade) * held + fade * new[:overlap]) / scale
        held = new
    yield held[: max(samples - begin, 0)]
    if (lacking := samples - begin - len(held)) > 0:
        yield np.zeros(lacking, np.float32)
