"""VGGish: FD_VGG, over frames of 0.96 s.

Hershey et al. 2017; the weights of harritaylor/torchvggish. As av-benchmark takes it: no PCA, and the last layer
without its ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork
from evaluation.sounds import SoundInput
from pipeline.frozen import load_own_keys
from pipeline.mel import MelSettings, MelSpectrogram
from presets.official import OFFICIAL_FILES

_MEL = MelSettings(
    rate=16_000,
    fft=512,
    window=400,
    hop=160,
    bins=64,
    low=125,
    high=7500,
    scale="htk",
    triangles_in_mel=True,
    magnitude=True,
)
_FRAMES = 96  # 0.96 s
_POOL = 0


class VGGish(FeatureNetwork):
    """Waveforms (B, 128000) at 16 kHz -> frames (B, 8, 128)."""

    name = "vggish"
    files = OFFICIAL_FILES["vggish"]
    caches = ("vggish_features.pth",)
    sound = SoundInput(without_mean=True)

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(_MEL)
        layers: list[nn.Module] = []
        inputs = 1
        for outputs in (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL):
            if outputs == _POOL:
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def load(self, paths: Mapping[str, Path]) -> None:
        load_own_keys(self, paths["vggish"], ignored=("pproc.",))

    def examples(self, waveforms: Tensor) -> Tensor:
        """Log-mel patches of 0.96 s, (B, count, 96, 64)."""
        logs = torch.log(self.mel(waveforms) + 0.01)  # (B, frames, 64)
        count = logs.shape[1] // _FRAMES
        return logs[:, : count * _FRAMES].unflatten(1, (count, _FRAMES))

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        examples = self.examples(waveforms)
        hidden = self.features(examples.flatten(0, 1)[:, None])
        hidden = hidden.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order: channels last
        return {"vggish_features.pth": {"": self.embeddings(hidden).unflatten(0, examples.shape[:2])}}
