"""The classifier that judges generated sounds; trained on true sounds only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.networks.micro import RATE, SECONDS, MicroClassifier
from micro.data import LABELS, batches, classes, waveforms
from micro.fit import Fit
from presets import Preset

_CLIPS = 2400


def train_classifier(preset: Preset, folder: Path, steps: int) -> MicroClassifier:
    torch.manual_seed(preset.weights.seed + 8)
    model = MicroClassifier(LABELS)
    audio, label = waveforms(_CLIPS, 20_000), classes(_CLIPS, 20_000)
    rows = list(zip(range(steps), batches(_CLIPS, 24, 8), strict=False))

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number][1]
        first = int(torch.randint(0, 2 * RATE, ()))
        waveform = audio[chosen, first : first + SECONDS * RATE].float()
        waveform = waveform + 10 ** (-2 - 2 * torch.rand(len(chosen), 1)) * torch.randn_like(waveform)
        _, logits = model(waveform)
        right = (logits.argmax(1) == label[chosen]).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, label[chosen], label_smoothing=0.05), "right": right}

    Fit("classifier", folder, steps, 2e-3).run(model, step)
    return model
