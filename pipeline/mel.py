"""Mel spectrograms as the networks that read them were trained on them; they differ in every constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank


@dataclass(frozen=True)
class MelSettings:
    """Window, FFT and hop in samples, mel range in Hz.

    ``edge``: samples reflected at either end; None for frames that begin at sample 0 and are padded behind to the
    FFT's size, as Kaldi and VGGish do it. ``magnitude``: amplitudes instead of powers. ``preemphasis``: Kaldi's,
    within a frame whose mean is taken out first. ``floor``: the natural logarithm of at least this, instead of linear
    energies. ``double``: computed in float64, on Apple's MPS, which has none, in float32.
    """

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
    edge: int | None = None
    magnitude: bool = False
    preemphasis: float | None = None
    floor: float | None = None
    double: bool = False

    def filters(self) -> Tensor:
        """(1 + fft // 2, bins), float64."""
        scales: dict[str, Any] = {"mel_scale": self.scale, "triangularize_in_mel_space": self.triangles_in_mel}
        frequencies = self.fft // 2 + 1
        filters = mel_filter_bank(frequencies, self.bins, self.low, self.high, self.rate, norm=self.norm, **scales)
        return torch.from_numpy(filters)


KALDI = MelSettings(
    rate=16_000,
    fft=512,
    window=400,
    hop=160,
    bins=128,
    low=20,
    high=8000,
    scale="kaldi",
    triangles_in_mel=True,
    periodic=False,
    preemphasis=0.97,
    floor=1.192092955078125e-07,
    double=True,
)
"""Kaldi's log-mel filter bank with a Hann window, as AudioMAE and ImageBind take it; no dither, no energy."""


class MelSpectrogram(nn.Module):
    """Waveforms (B, samples) -> (B, frames, bins), float32."""

    def __init__(self, settings: MelSettings):
        super().__init__()
        self.settings = settings
        dtype = torch.float64 if settings.double else torch.float32
        window = torch.hann_window(settings.window, periodic=settings.periodic, dtype=dtype)
        self._constants = {torch.device("cpu"): (window, settings.filters().to(dtype))}

    def forward(self, waveform: Tensor) -> Tensor:
        kind = waveform.device.type
        if not torch.is_autocast_enabled(kind):
            return self._forward(waveform)
        with torch.autocast(kind, enabled=False):  # the logarithm of a bfloat16 has steps of 0.4 %
            return self._forward(waveform)

    def _forward(self, waveform: Tensor) -> Tensor:
        settings = self.settings
        window, filters = self._constants_on(waveform.device)
        waveform = waveform.to(window.dtype)
        if settings.edge is None:
            spectrum = torch.fft.rfft(self._frames(waveform) * window, settings.fft).abs()
        else:
            edges = (settings.edge, settings.edge)
            waveform = nn.functional.pad(waveform[:, None], edges, mode="reflect")[:, 0]
            sizes = (settings.fft, settings.hop, settings.window)
            spectrum = torch.stft(waveform, *sizes, window=window, center=False, return_complex=True).abs().mT
        energy = (spectrum if settings.magnitude else spectrum.square()) @ filters
        return (energy if settings.floor is None else torch.log(energy.clamp(min=settings.floor))).float()

    def _frames(self, waveform: Tensor) -> Tensor:
        """(B, samples) -> (B, frames, window)."""
        frames = waveform.unfold(-1, self.settings.window, self.settings.hop)
        if self.settings.preemphasis is None:
            return frames
        frames = frames - frames.mean(dim=-1, keepdim=True)
        return frames - self.settings.preemphasis * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Window and filters; not buffers, which a module cannot take to a device that lacks their dtype."""
        if device not in self._constants:
            window, filters = self._constants[torch.device("cpu")]
            try:
                self._constants[device] = window.to(device), filters.to(device)
            except TypeError:
                self._constants[device] = window.float().to(device), filters.float().to(device)
        return self._constants[device]
