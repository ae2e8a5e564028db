"""The classifier that judges generated sounds; trained on true sounds only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from micro.audio import HELD_OUT
from micro.data import LABELS, classes, rows_of, waveforms
from micro.fit import Fit
from micro.networks import RATE, SECONDS, MicroClassifier
from presets import Preset

_CLIPS, _FIRST = 2400, 20_000
_VALIDATION = 120


def train_classifier(preset: Preset, folder: Path, steps: int, device: str) -> MicroClassifier:
    torch.manual_seed(preset.weights.seed + 8)
    model = MicroClassifier(LABELS)
    label = classes(_CLIPS, _FIRST)
    rows = rows_of(steps, _CLIPS, 24, 8)

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number]
        first = int(torch.randint(0, 2 * RATE, ()))
        waveform = waveforms(_CLIPS, _FIRST)[chosen, first : first + SECONDS * RATE].float()
        waveform = waveform + 10 ** (-2 - 2 * torch.rand(len(chosen), 1)) * torch.randn_like(waveform)
        _, logits = model(waveform.to(device))
        target = label[chosen].to(device)
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, target, label_smoothing=0.05), "right": right}

    def held_out() -> dict[str, Tensor]:
        _, logits = model(waveforms(_VALIDATION, HELD_OUT, "test")[:, : SECONDS * RATE].float().to(device))
        return {"right": (logits.argmax(1) == classes(_VALIDATION, HELD_OUT).to(device)).float().mean()}

    Fit("classifier", folder, steps, 2e-3, device=device).run(model, step, held_out)
    return model.cpu()
