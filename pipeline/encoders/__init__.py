"""The frozen encoders behind one way in: :func:`load_encoder`.

A new encoder is one file and one line in :data:`ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.encoders.audiomae import AudioMAE
from pipeline.encoders.base import Encoder, Precision, check_files, fill_official, fill_seeded, override
from pipeline.encoders.cavp import CAVP
from pipeline.encoders.flan_t5 import FlanT5
from pipeline.encoders.timechat import TimeChat
from presets import Preset, load_preset

ENCODERS: dict[str, type[Encoder]] = {encoder.name: encoder for encoder in (CAVP, TimeChat, AudioMAE, FlanT5)}

__all__ = [
    "CAVP",
    "ENCODERS",
    "AudioMAE",
    "Encoder",
    "FlanT5",
    "TimeChat",
    "check_files",
    "load_encoder",
    "official_paths",
]


def official_paths(name: str, preset: Preset) -> dict[str, Path]:
    """Where the preset expects the official files of one encoder, by role."""
    return {file.role: Path(preset.weights.folder) / file.filename for file in ENCODERS[name].files}


def load_encoder(
    name: str,
    checkpoints: Mapping[str, str | Path] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    preset: Preset | str = "paper",
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
) -> Any:
    """A frozen encoder in evaluation mode, ready to ``encode``.

    ``checkpoints`` maps roles to official files; left out, they are looked for under their official
    names in the preset's weights folder, or drawn from the seed where the preset's weights are
    ``seeded``. ``config`` overrides single fields of the encoder's settings (for example depths).
    Raises KeyError for an unknown name and :class:`pipeline.errors.WeightsError` for weights that are
    missing or wrong.
    """
    if name not in ENCODERS:
        raise KeyError(f"unknown encoder '{name}': there are {', '.join(ENCODERS)}")
    preset = load_preset(preset) if isinstance(preset, str) else preset
    kind = ENCODERS[name]
    settings = override(getattr(preset.encoders, name), config)
    seeded = checkpoints is None and preset.weights.source == "seeded"
    if not seeded:
        paths = check_files(kind, official_paths(name, preset) if checkpoints is None else checkpoints)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.weights.seed)
        encoder = kind(settings)
    if seeded:
        fill_seeded(encoder)
    else:
        fill_official(encoder, paths)
    encoder.precision = precision
    encoder = encoder.to(device).eval().requires_grad_(False)
    if compile:
        encoder.compile_submodules()
    return encoder
