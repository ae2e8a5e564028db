"""The micro preset's classifier of sounds: a small CNN on AudioLDM-2's log-mels, trained by ``micro``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from generate.mel import LogMel
from pipeline.encoders.audiomae import normalise_waveform
from pipeline.errors import WeightsError

RATE, SECONDS = 16_000, 8


class MicroClassifier(nn.Module):
    """Waveforms (B, 128000) at 16 kHz -> features (B, 64) and logits (B, classes)."""

    def __init__(self, labels: tuple[str, ...]):
        super().__init__()
        self.labels = labels
        self.mel = LogMel()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, (2, 2)), (16, 32, (2, 2)), (32, 48, (2, 2)), (48, 64, (1, 2))):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Linear(64 * 4 * 2, 64), nn.ReLU())
        self.classify = nn.Linear(64, len(labels))

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        waveform = normalise_waveform(waveform[:, : RATE * SECONDS], RATE * SECONDS)
        hidden = self.layers((self.mel(waveform, 100 * SECONDS)[:, None] + 6) / 3)  # (B, 64, T, 4)
        pooled = torch.cat([hidden.mean(2), hidden.amax(2)], dim=1).flatten(1)
        features = self.features(pooled)
        return features, self.classify(features)

    @classmethod
    def load(cls, path: str | Path, labels: tuple[str, ...]) -> MicroClassifier:
        """Raises :class:`WeightsError` if the file is missing."""
        if not Path(path).is_file():
            raise WeightsError(f"{path} is missing: `python -m micro train` makes it")
        model = cls(labels)
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=False)
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Waveforms (N, samples) -> features (N, 64), logits (N, classes)."""
        parts = [self(part) for part in torch.from_numpy(waveforms).float().split(16)]
        features, logits = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
        return features, logits
