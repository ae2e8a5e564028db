"""CLIP-micro: single pictures of scenes against captions. It knows what is seen, and like CLIP not when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from micro.audio import HELD_OUT
from micro.captions import Contrast, attributes
from micro.data import as_decoded, on_device, pictures, rows_of, training_scenes
from micro.fit import Fit, Machine
from pipeline.encoders.clip import CLIP
from presets import Preset

_CLIPS, _FIRST = 1536, 100_000  # those that CAVP-micro and TimeChat-micro learn from
_VALIDATION, _BATCH = 48, 128


def train_clip(preset: Preset, folder: Path, steps: int, machine: Machine) -> Any:
    """The picture half, a ``CLIPVisionModelWithProjection``, of a CLIP of frames and captions."""
    torch.manual_seed(preset.weights.seed + 11)
    encoder, device = CLIP(preset.encoders.clip).to(machine.device), machine.device  # prepares pictures
    model: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**encoder.sizes()))
    contrast = Contrast(model, encoder.config.embedding)
    about = attributes(training_scenes(_CLIPS, _FIRST)).to(device)
    size, count = preset.media.frame_size, preset.media.frames
    rows = rows_of(steps, _CLIPS * count, _BATCH, 11)
    seen = on_device(pictures(size, _CLIPS, _FIRST), device)

    def embedded(frames: Tensor) -> Tensor:
        return model(pixel_values=encoder.pictures(as_decoded(frames))).image_embeds

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number].to(seen.device)
        clips, places = chosen // count, chosen % count
        return contrast(embedded(seen[clips, places]), about[clips])

    def held_out() -> dict[str, Tensor]:
        frames = pictures(size, _VALIDATION, HELD_OUT, "test")[:, 6:38:4].to(device)
        which = attributes(training_scenes(_VALIDATION, HELD_OUT, "test")).to(device)
        return contrast.named(embedded(frames.flatten(0, 1)), which.repeat_interleave(frames.shape[1], 0))

    Fit("clip", folder, steps, 1.5e-3, average=0.99, machine=machine).run(contrast, step, held_out)
    return model.cpu()
