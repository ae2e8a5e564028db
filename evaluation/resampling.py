"""Windowed-sinc resampling, the same as torchaudio's with its defaults (which cannot be installed beside our torch).

y(n / new) = sum over k of x(k / old) h(n / new - k / old), with the low pass
h(t) = (b / old) sinc(b t) cos^2(pi b t / 12) for |b t| <= 6 and b = 0.99 min(old, new): a sinc of 6 zero crossings to
each side under a Hann window.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99


@lru_cache(maxsize=16)
def _filters(old: int, new: int) -> tuple[Tensor, Tensor, int]:
    """For each phase of the output: the filter (new, taps), where it begins (new,), and half its width in samples."""
    band = _ROLLOFF * min(old, new)
    half = math.ceil(_ZERO_CROSSINGS * old / band)
    instants = torch.arange(new, dtype=torch.float64) * old / new  # in samples of the input
    begins = instants.floor().long() - half
    samples = begins[:, None] + torch.arange(2 * half + 2)
    distance = (instants[:, None] - samples) * band / old  # in zero crossings
    window = torch.cos(math.pi * distance.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS) / (2 * _ZERO_CROSSINGS)).square()
    filters = torch.sinc(distance) * window * band / old
    filters[distance.abs() > _ZERO_CROSSINGS] = 0
    return filters.float(), begins, half


def needed(count: int, old_rate: int, new_rate: int) -> int:
    """How many samples of the input the first ``count`` samples of the output depend on."""
    return math.ceil(count * old_rate / new_rate) + _filters(*_reduced(old_rate, new_rate))[2] + 1


def resample(waveform: Tensor, old_rate: int, new_rate: int, count: int | None = None) -> Tensor:
    """(samples,) at ``old_rate`` Hz -> float32 (ceil(samples * new / old),) at ``new_rate``, or its first ``count``."""
    total = math.ceil(len(waveform) * new_rate / old_rate)
    count = total if count is None else min(count, total)
    if old_rate == new_rate:
        return waveform[:count]
    old, new = _reduced(old_rate, new_rate)
    filters, begins, half = _filters(old, new)
    periods = math.ceil(count / new)
    taps = filters.shape[1]
    padded = nn.functional.pad(waveform, (half, max(periods * old + taps - len(waveform), 0)))
    out = torch.empty(periods, new)
    for phase in range(min(new, count)):  # each phase has its own filter, applied every `old` samples
        first = int(begins[phase]) + half
        windows = padded[first:].unfold(0, taps, old)[:periods]
        out[:, phase] = windows @ filters[phase]
    return out.flatten()[:count]


def _reduced(old_rate: int, new_rate: int) -> tuple[int, int]:
    common = math.gcd(old_rate, new_rate)
    return old_rate // common, new_rate // common
