"""The classifier that judges generated sounds; trained on true sounds only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from micro.audio import HELD_OUT
from micro.data import LABELS, classes, on_device, rows_of, waveforms
from micro.fit import Fit, Machine
from micro.networks import RATE, SECONDS, MicroClassifier
from presets import Preset

_CLIPS, _FIRST = 2400, 20_000
_VALIDATION = 120


def train_classifier(preset: Preset, folder: Path, steps: int, machine: Machine) -> MicroClassifier:
    torch.manual_seed(preset.weights.seed + 8)
    model = MicroClassifier(LABELS)
    device = machine.device
    sound, label = on_device(waveforms(_CLIPS, _FIRST), device), classes(_CLIPS, _FIRST).to(device)
    rows = rows_of(steps, _CLIPS, 24, 8)

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number]
        first = int(torch.randint(0, 2 * RATE, ()))
        waveform = sound[chosen, first : first + SECONDS * RATE].float()
        waveform = waveform + 10 ** (-2 - 2 * torch.rand(len(chosen), 1, device=device)) * torch.randn_like(waveform)
        _, logits = model(waveform)
        target = label[chosen]
        right = (logits.argmax(1) == target).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, target, label_smoothing=0.05), "right": right}

    def held_out() -> dict[str, Tensor]:
        _, logits = model(waveforms(_VALIDATION, HELD_OUT, "test")[:, : SECONDS * RATE].float().to(device))
        return {"right": (logits.argmax(1) == classes(_VALIDATION, HELD_OUT).to(device)).float().mean()}

    Fit("classifier", folder, steps, 2e-3, machine=machine).run(model, step, held_out)
    return model.cpu()
