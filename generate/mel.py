"""AudioLDM-2's 64-bin log-mel spectrogram."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.mel import MelSettings, MelSpectrogram

MEL_FRAMES, MEL_BINS = 1024, 64  # 10.24 s at 10 ms
RATE, FFT, HOP = 16_000, 1024, 160
SETTINGS = MelSettings(
    rate=RATE,
    fft=FFT,
    window=FFT,
    hop=HOP,
    bins=MEL_BINS,
    low=0,
    high=RATE / 2,
    norm="slaney",
    edge=(FFT - HOP) // 2,
    magnitude=True,
    floor=1e-5,
)


class LogMel(MelSpectrogram):
    """Waveform -> what AudioLDM-2's VAE reads (its ``TacotronSTFT``): natural log of mel magnitudes."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)

    def forward(self, waveform: Tensor, frames: int = MEL_FRAMES) -> Tensor:
        """(B, samples) at 16 kHz -> (B, frames, 64), padded with silence or cut."""
        short = frames * HOP - waveform.shape[-1]
        return super().forward(nn.functional.pad(waveform[:, : frames * HOP], (0, max(short, 0))))
