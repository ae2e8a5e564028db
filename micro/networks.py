"""The micro preset's classifier of sounds: a small CNN on AudioLDM-2's log-mels, trained by ``micro``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork, load_network
from generate.mel import LogMel
from micro.world.render import KINDS
from pipeline.encoders.audiomae import normalise_waveform
from pipeline.encoders.checkpoints import CheckpointFile
from pipeline.frozen import load_own_keys
from presets import Preset

RATE, SECONDS = 16_000, 8


class MicroClassifier(FeatureNetwork):
    """Waveforms (B, 128000) at 16 kHz -> features (B, 64) and logits (B, classes)."""

    name = "micro"
    files = (CheckpointFile("classifier", "classifier.safetensors", "`python -m micro train`", "Apache-2.0", 2e-4),)
    caches = ("micro_features.pth",)

    def __init__(self, labels: tuple[str, ...] = tuple(KINDS)):
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

    def load(self, paths: Mapping[str, Path]) -> None:
        load_own_keys(self, paths["classifier"])

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        features, logits = self(waveforms)
        return {"micro_features.pth": {"64": features, "logits": logits}}

    @torch.inference_mode()
    def classify_all(self, waveforms: np.ndarray, batch: int = 16) -> tuple[np.ndarray, np.ndarray]:
        """Waveforms (N, samples) -> features (N, 64), logits (N, classes)."""
        parts = [self(part) for part in torch.from_numpy(waveforms).float().split(batch)]
        features, logits = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
        return features, logits


def load_classifier(preset: Preset) -> MicroClassifier:
    """The classifier that ships with the micro preset; raises :class:`WeightsError`."""
    network = load_network(MicroClassifier, preset.weights.path)
    assert isinstance(network, MicroClassifier)
    return network
