"""How far two waveforms are apart in their short-time spectra, at several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = (256, 512, 1024, 2048)  # samples of a window: 16 ms tell instants, 128 ms tell pitch
_FLOOR = 1e-4  # of magnitudes to unit energy of the window: under the rendered world's faintest noise


def powers(waveform: Tensor, size: int) -> Tensor:
    """(B, samples) -> (B, size // 2 + 1, frames), float32, to unit energy of the Hann window; three in four overlap."""
    window = torch.hann_window(size, device=waveform.device)
    window = window / window.square().sum().sqrt()
    spectrum = torch.stft(waveform.float(), size, size // 4, window=window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1) + _FLOOR**2  # quicker than abs, and has a slope at zero


def spectral_distance(made: Tensor, true: Tensor) -> Tensor:
    """Waveforms (B, samples), longer than half of the largest window -> (B,), in natural log units.

    Mean over :data:`SIZES` of the mean absolute difference of log-magnitudes (the second term of Yamamoto et al.
    2020's multi-resolution STFT loss). Zero for equal waveforms, the same in either order, blind to the sign of
    the whole. Raises ValueError for shapes that differ.
    """
    return torch.stack([_distance(ours, theirs) for ours, theirs in _pairs(made, true)]).mean(0)


def spectral_loss(made: Tensor, true: Tensor) -> Tensor:
    """The mean of :func:`spectral_distance` and that loss's first term, the spectral convergence, as one value."""
    pairs = _pairs(made, true)
    return torch.stack([_distance(*pair).mean() + _convergence(*pair).mean() for pair in pairs]).mean()


def _pairs(made: Tensor, true: Tensor) -> list[tuple[Tensor, Tensor]]:
    if made.shape != true.shape:
        raise ValueError(f"waveforms of {tuple(made.shape)} and {tuple(true.shape)} have no distance")
    return [(powers(made, size), powers(true, size)) for size in SIZES]


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return 0.5 * (ours.log() - theirs.log()).abs().mean((1, 2))


def _convergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of magnitudes: the norm of the difference, to that of the true ones."""
    difference = (ours.sqrt() - theirs.sqrt()).square().sum((1, 2)).add(1e-8).sqrt()  # a root has no slope at zero
    return difference / (theirs.sum((1, 2)).sqrt() + 0.1)
