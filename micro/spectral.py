"""How far two waveforms are apart in their short-time spectra, at several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = (256, 512, 1024, 2048)  # samples of a window: 16 ms tell instants, 128 ms tell pitch
_FLOOR = 1e-4  # of magnitudes to unit energy of the window: under the rendered world's faintest noise


def magnitudes(waveform: Tensor, size: int) -> Tensor:
    """(B, samples) -> (B, size // 2 + 1, frames), float32, to unit energy of the Hann window; three in four overlap."""
    window = torch.hann_window(size, device=waveform.device)
    window = window / window.square().sum().sqrt()
    return torch.stft(waveform.float(), size, size // 4, window=window, return_complex=True).abs()


def spectral_distance(made: Tensor, true: Tensor) -> Tensor:
    """Waveforms (B, samples), longer than half of the largest window -> (B,), in natural log units.

    Mean over :data:`SIZES` of the mean absolute difference of log-magnitudes (the second term of Yamamoto et al.
    2020's multi-resolution STFT loss). Zero for equal waveforms, the same in either order, blind to the sign of
    the whole. Raises ValueError for shapes that differ.
    """
    return _over_sizes(made, true)[0]


def spectral_loss(made: Tensor, true: Tensor) -> Tensor:
    """The mean of :func:`spectral_distance` and that loss's first term, the spectral convergence, as one value."""
    distance, convergence = _over_sizes(made, true)
    return distance.mean() + convergence.mean()


def _over_sizes(made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    if made.shape != true.shape:
        raise ValueError(f"waveforms of {tuple(made.shape)} and {tuple(true.shape)} have no distance")
    distances, convergences = [], []
    for size in SIZES:
        ours, theirs = magnitudes(made, size), magnitudes(true, size)
        distances.append(((ours + _FLOOR).log() - (theirs + _FLOOR).log()).abs().mean((1, 2)))
        convergences.append(_norm(ours - theirs) / (_norm(theirs) + 0.1))
    return torch.stack(distances).mean(0), torch.stack(convergences).mean(0)


def _norm(values: Tensor) -> Tensor:
    return values.square().sum((1, 2)).add(1e-8).sqrt()  # a root has no slope at zero
