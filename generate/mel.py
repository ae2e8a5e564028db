"""AudioLDM-2's 64-bin log-mel spectrogram."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

MEL_FRAMES, MEL_BINS = 1024, 64  # 10.24 s at 10 ms
RATE, FFT, HOP, _FLOOR = 16_000, 1024, 160, 1e-5


def mel_filters() -> Tensor:
    """(513, 64): Slaney's mel scale and normalisation, 0 to 8 kHz."""
    filters = mel_filter_bank(FFT // 2 + 1, MEL_BINS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


class LogMel(nn.Module):
    """Waveform -> what AudioLDM-2's VAE reads (its ``TacotronSTFT``): natural log of mel magnitudes."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def forward(self, waveform: Tensor, frames: int = MEL_FRAMES) -> Tensor:
        """(B, samples) at 16 kHz -> (B, frames, 64), padded with silence or cut."""
        short = frames * HOP - waveform.shape[-1]
        waveform = nn.functional.pad(waveform[:, : frames * HOP], (0, max(short, 0)))
        edge = (FFT - HOP) // 2
        padded = nn.functional.pad(waveform[:, None], (edge, edge), mode="reflect")[:, 0]
        spectrum = torch.stft(padded, FFT, HOP, window=self.window, center=False, return_complex=True)
        return torch.log(torch.clamp(spectrum.abs().transpose(1, 2) @ self.filters, min=_FLOOR))
