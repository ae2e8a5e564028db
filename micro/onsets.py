"""When things sound: onsets found in a waveform, against instants that are known.

The paper measures timing with Synchformer on real video. In the rendered world the instants themselves are
known, so that seconds can be measured directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.signal import find_peaks

from generate.mel import LogMel

FRAME_SECONDS = 0.01
TOLERANCE_SECONDS = 0.15  # of a hit: under the time that a viewer takes for simultaneous
CAP_SECONDS = 0.5  # no event is worse than this: further away it is another event, or none
_REFRACTORY_SECONDS = 0.4  # no class of the rendered world repeats faster
_RANGE = 3.5  # natural log units under the loudest frame that still count: 30 dB
_RISE = 5  # frames
_LATE_SECONDS = 0.02  # the 64-ms window hears a beginning before it comes


def onset_strength(waveform: np.ndarray) -> np.ndarray:
    """16-kHz waveform (samples,) -> rise of loudness over 50 ms, in natural log units, one value each 10 ms.

    Of the whole band: a chirp that moves to other bins while it sounds does not start again.
    """
    samples = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))[None]
    energy = LogMel()(samples, len(waveform) // 160)[0].double().exp().square().sum(dim=1).numpy()
    loudness = 0.5 * np.log(np.maximum(energy, np.quantile(energy, 0.999) * np.exp(-2 * _RANGE)))
    smooth = np.convolve(np.pad(loudness, 2, mode="edge"), np.ones(5) / 5, "valid")
    rise = np.maximum(smooth[_RISE:] - smooth[:-_RISE], 0)
    return np.pad(rise, (_RISE // 2, _RISE - _RISE // 2))


def find_onsets(waveform: np.ndarray) -> np.ndarray:
    """Seconds at which something starts to sound in a 16-kHz waveform (samples,)."""
    strength = onset_strength(waveform)
    if not strength.any():
        return np.empty(0)
    threshold = max(0.3 * float(np.quantile(strength, 0.99)), 0.25)
    peaks, _ = find_peaks(
        strength, height=threshold, prominence=threshold / 2, distance=round(_REFRACTORY_SECONDS / FRAME_SECONDS)
    )
    return peaks * FRAME_SECONDS + _LATE_SECONDS


@dataclass(frozen=True)
class Timing:
    """How well onsets heard in one clip meet the instants seen.

    ``error``: mean distance in seconds to the nearest onset of the other side, over both sides, at most
    :data:`CAP_SECONDS`. ``hits``: instants matched one to one within :data:`TOLERANCE_SECONDS`.
    """

    known: int
    heard: int
    hits: int
    error: float

    @property
    def recall(self) -> float:
        return self.hits / max(self.known, 1)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(self.known + self.heard, 1)


def compare_onsets(known: Sequence[float] | np.ndarray, heard: Sequence[float] | np.ndarray) -> Timing:
    """Instants and onsets in seconds -> :class:`Timing`; raises ValueError without an instant."""
    known, heard = np.asarray(known, float), np.asarray(heard, float)
    if not len(known):
        raise ValueError("timing needs at least one known instant")
    if not len(heard):
        return Timing(len(known), 0, 0, CAP_SECONDS)
    distance = np.abs(known[:, None] - heard[None])
    nearest = np.concatenate([distance.min(axis=1), distance.min(axis=0)])
    rows, columns = linear_sum_assignment(np.minimum(distance, 10 * TOLERANCE_SECONDS))
    hits = int((distance[rows, columns] <= TOLERANCE_SECONDS).sum())
    return Timing(len(known), len(heard), hits, float(np.minimum(nearest, CAP_SECONDS).mean()))


def loudness_agreement(waveform: np.ndarray, level: np.ndarray) -> float:
    """Correlation of a sustained sound's loudness, in 250-ms steps, with the level (steps,) that is seen."""
    parts = np.array_split(np.asarray(waveform, np.float64), len(level))
    heard = np.array([np.sqrt(np.mean(part**2)) for part in parts])
    if heard.std() < 1e-9 or np.std(level) < 1e-9:
        return 0.0
    return float(np.corrcoef(heard, level)[0, 1])
