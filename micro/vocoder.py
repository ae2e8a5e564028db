"""Griffin-Lim in place of HiFi-GAN: AudioLDM-2's log-mel spectrogram back to sound, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from generate.mel import FFT, HOP, MEL_BINS, RATE, SETTINGS


class GriffinLim(nn.Module):
    """Log-mel -> waveform without weights, behind the vocoder's interface.

    Mel bins go back to frequencies through the transposed filter bank scaled to keep each bin's
    magnitude; phases by the fast Griffin-Lim iteration (Perraudin et al. 2013).
    """

    inverse: Tensor
    filters: Tensor
    window: Tensor

    def __init__(self, iterations: int = 24, momentum: float = 0.99):
        super().__init__()
        self.config = SimpleNamespace(
            sampling_rate=RATE,
            model_in_dim=MEL_BINS,
            upsample_rates=[HOP],
            iterations=iterations,
            momentum=momentum,
        )
        filters = SETTINGS.filters().float()
        self.register_buffer("inverse", torch.linalg.pinv(filters), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.window.device

    @property
    def dtype(self) -> torch.dtype:
        return self.window.dtype

    def forward(self, mel: Tensor) -> Tensor:
        """(B, T, 64) -> (B, 160 * T)."""
        wanted = mel.float().exp()
        magnitude = torch.clamp(wanted @ self.inverse, min=1e-7)
        for _ in range(10):  # non-negative least squares by multiplicative updates
            magnitude = magnitude * ((wanted @ self.filters.T) / ((magnitude @ self.filters) @ self.filters.T + 1e-9))
        magnitude = magnitude.transpose(1, 2)
        length = mel.shape[1] * HOP
        edge = (FFT - HOP) // 2
        generator = torch.Generator().manual_seed(0)  # the same phases for every clip of a batch
        phase = torch.rand(magnitude.shape[1:], generator=generator).to(mel.device) * 2 * torch.pi
        spectrum = torch.polar(magnitude, phase.expand_as(magnitude))
        previous = torch.zeros_like(spectrum)
        for _ in range(self.config.iterations):
            rebuilt = self._stft(self._istft(spectrum, length + 2 * edge))
            step = rebuilt + self.config.momentum * (rebuilt - previous)
            previous = rebuilt
            spectrum = magnitude * step / (step.abs() + 1e-9)
        return self._istft(spectrum, length + 2 * edge)[:, edge : edge + length]

    def _stft(self, waveform: Tensor) -> Tensor:
        return torch.stft(waveform, FFT, HOP, window=self.window, center=False, return_complex=True)

    def _istft(self, spectrum: Tensor, length: int) -> Tensor:
        """Overlap-add without centring: frames start at sample 0."""
        frames = torch.fft.irfft(spectrum.transpose(1, 2), FFT) * self.window
        count = frames.shape[1]
        total = (count - 1) * HOP + FFT

        def overlap(values: Tensor) -> Tensor:
            """(B, T, 1024) -> (B, total), a hop's length at a time: several times as fast as ``fold``."""
            parts = -(-FFT // HOP)
            pieces = nn.functional.pad(values, (0, parts * HOP - FFT)).unflatten(2, (parts, HOP))
            out = values.new_zeros(len(values), count + parts - 1, HOP)
            for part in range(parts):
                out[:, part : part + count] += pieces[:, :, part]
            return out.flatten(1)[:, :total]

        weight = overlap((self.window**2).expand(1, count, FFT))
        return (overlap(frames) / torch.clamp(weight, min=1e-4))[:, :length]

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        values = {"_class_name": "GriffinLim", "iterations": self.config.iterations, "momentum": self.config.momentum}
        (Path(folder) / "config.json").write_text(json.dumps(values, indent=1))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> GriffinLim:
        values = json.loads((Path(folder) / "config.json").read_text())
        return cls(values["iterations"], values["momentum"])
