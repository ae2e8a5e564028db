"""PANNs Cnn14 at 16 kHz: FD_PANNs, KL_PANNs and IS.

Kong et al. 2020, official repository qiuqiangkong/audioset_tagging_cnn. As av-benchmark takes it: ``2048`` is the
layer before the classifier, ``logits`` are its values before the sigmoid.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork
from evaluation.sounds import SoundInput
from pipeline.frozen import load_own_keys
from pipeline.mel import MelSettings, MelSpectrogram
from presets.official import OFFICIAL_FILES

_MEL = MelSettings(rate=16_000, fft=512, window=512, hop=160, bins=64, low=50, high=8000, norm="slaney", edge=256)


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(hidden))))))


class PANNs(FeatureNetwork):
    """Waveforms (B, 128000) at 16 kHz -> features (B, 2048) and logits (B, 527)."""

    name = "panns"
    files = OFFICIAL_FILES["panns"]
    caches = ("pann_features.pth",)
    sound = SoundInput(without_mean=True)

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(_MEL)
        self.bn0 = nn.BatchNorm2d(64)
        for number, (inputs, outputs) in enumerate(pairwise((1, 64, 128, 256, 512, 1024, 2048)), 1):
            self.add_module(f"conv_block{number}", ConvBlock(inputs, outputs))
        self.fc1 = nn.Linear(2048, 2048)
        self.fc_audioset = nn.Linear(2048, 527)

    def load(self, paths: Mapping[str, Path]) -> None:
        # The file's spectrogram is a convolution with the same window and filters that we compute.
        load_own_keys(self, paths["cnn14"], ignored=("spectrogram_extractor.", "logmel_extractor."))

    def decibels(self, waveforms: Tensor) -> Tensor:
        """The log-mel spectrogram, (B, 64, T)."""
        return 10 * torch.log10(self.mel(waveforms).mT.clamp(min=1e-10))

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        hidden = self.bn0(self.decibels(waveforms)[:, :, :, None]).permute(0, 3, 2, 1)  # (B, 1, T, 64)
        for number in range(1, 7):
            hidden = self.get_submodule(f"conv_block{number}")(hidden)
            if number < 6:
                hidden = nn.functional.avg_pool2d(hidden, 2)
        hidden = hidden.mean(dim=3)
        features = torch.relu(self.fc1(hidden.amax(dim=2) + hidden.mean(dim=2)))
        return {"pann_features.pth": {"2048": features, "logits": self.fc_audioset(features)}}
