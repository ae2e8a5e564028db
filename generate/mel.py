"""AudioLDM-2's 64-bin log-mel spectrogram, and Griffin-Lim back from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

MEL_FRAMES, MEL_BINS = 1024, 64  # 10.24 s at 10 ms
_RATE, _FFT, _HOP, _FLOOR = 16_000, 1024, 160, 1e-5


def _filters() -> Tensor:
    """(513, 64): Slaney's mel scale and normalisation, 0 to 8 kHz."""
    filters = mel_filter_bank(_FFT // 2 + 1, MEL_BINS, 0.0, _RATE / 2, _RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


class LogMel(nn.Module):
    """Waveform -> what AudioLDM-2's VAE reads (its ``TacotronSTFT``): natural log of mel magnitudes."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", _filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)

    def forward(self, waveform: Tensor, frames: int = MEL_FRAMES) -> Tensor:
        """(B, samples) at 16 kHz -> (B, frames, 64), padded with silence or cut."""
        short = frames * _HOP - waveform.shape[-1]
        waveform = nn.functional.pad(waveform[:, : frames * _HOP], (0, max(short, 0)))
        edge = (_FFT - _HOP) // 2
        padded = nn.functional.pad(waveform[:, None], (edge, edge), mode="reflect")[:, 0]
        spectrum = torch.stft(padded, _FFT, _HOP, window=self.window, center=False, return_complex=True)
        return torch.log(torch.clamp(spectrum.abs().transpose(1, 2) @ self.filters, min=_FLOOR))


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
            sampling_rate=_RATE,
            model_in_dim=MEL_BINS,
            upsample_rates=[_HOP],
            iterations=iterations,
            momentum=momentum,
        )
        filters = _filters()
        self.register_buffer("inverse", torch.linalg.pinv(filters), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)

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
        length = mel.shape[1] * _HOP
        edge = (_FFT - _HOP) // 2
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
        return torch.stft(waveform, _FFT, _HOP, window=self.window, center=False, return_complex=True)

    def _istft(self, spectrum: Tensor, length: int) -> Tensor:
        """Overlap-add without centring: frames start at sample 0."""
        frames = torch.fft.irfft(spectrum.transpose(1, 2), _FFT) * self.window
        count = frames.shape[1]
        total = (count - 1) * _HOP + _FFT

        def overlap(values: Tensor) -> Tensor:
            """(B, T, 1024) -> (B, total), a hop's length at a time: several times as fast as ``fold``."""
            parts = -(-_FFT // _HOP)
            pieces = nn.functional.pad(values, (0, parts * _HOP - _FFT)).unflatten(2, (parts, _HOP))
            out = values.new_zeros(len(values), count + parts - 1, _HOP)
            for part in range(parts):
                out[:, part : part + count] += pieces[:, :, part]
            return out.flatten(1)[:, :total]

        weight = overlap((self.window**2).expand(1, count, _FFT))
        return (overlap(frames) / torch.clamp(weight, min=1e-4))[:, :length]

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        values = {"_class_name": "GriffinLim", "iterations": self.config.iterations, "momentum": self.config.momentum}
        (Path(folder) / "config.json").write_text(json.dumps(values, indent=1))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> GriffinLim:
        values = json.loads((Path(folder) / "config.json").read_text())
        return cls(values["iterations"], values["momentum"])
