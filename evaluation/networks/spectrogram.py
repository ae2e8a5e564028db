"""Mel spectrograms as the evaluation networks were trained on them; they differ in every constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank


@dataclass(frozen=True)
class MelSettings:
    """Window and FFT in samples, mel range in Hz; ``magnitude`` takes amplitudes instead of powers."""

    rate: int
    fft: int
    window: int
    hop: int
    bins: int
    low: float
    high: float
    scale: str = "slaney"  # of mel: slaney, htk or kaldi
    norm: str | None = None
    triangles_in_mel: bool = False
    periodic: bool = True
    centred: bool = True
    magnitude: bool = False


class MelSpectrogram(nn.Module):
    """Waveforms (B, samples) -> mel energies (B, bins, frames), linear."""

    filters: Tensor
    window: Tensor

    def __init__(self, settings: MelSettings):
        super().__init__()
        self.settings = settings
        scales: dict[str, Any] = {"mel_scale": settings.scale, "triangularize_in_mel_space": settings.triangles_in_mel}
        filters = mel_filter_bank(
            settings.fft // 2 + 1,
            settings.bins,
            settings.low,
            settings.high,
            settings.rate,
            norm=settings.norm,
            **scales,
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        window = torch.hann_window(settings.window, periodic=settings.periodic)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        settings = self.settings
        if settings.centred:
            spectrum = torch.stft(
                waveform,
                settings.fft,
                settings.hop,
                settings.window,
                window=self.window,
                center=True,
                pad_mode="reflect",
                return_complex=True,
            ).abs()
        else:  # frames begin at sample 0 and are padded behind to the FFT's size, as Kaldi and VGGish do it
            frames = waveform.unfold(-1, settings.window, settings.hop) * self.window
            spectrum = torch.fft.rfft(frames, settings.fft).abs().transpose(1, 2)
        energy = spectrum if settings.magnitude else spectrum.square()
        return self.filters.T @ energy
