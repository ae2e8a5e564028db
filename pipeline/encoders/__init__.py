"""The frozen encoders behind one way in: :func:`load_encoder`.

A new encoder is one file and one line in :data:`ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.encoders.audiomae import AudioMAE
from pipeline.encoders.base import (
    Encoder,
    Precision,
    check_files,
    check_precision,
    fill_official,
    fill_seeded,
    fill_shipped,
    override,
)
from pipeline.encoders.cavp import CAVP
from pipeline.encoders.flan_t5 import FlanT5
from pipeline.encoders.timechat import TimeChat
from pipeline.hub import audioldm2_folder
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
    """Where the preset expects the official files of one encoder, by role.

    Parts of AudioLDM-2 are in its folder, which is fetched where ``weights.audioldm2`` is a hub id; raises
    :class:`common.errors.WeightsError` if that cannot be had.
    """
    files = ENCODERS[name].files
    paths = {file.role: preset.weights.path / file.filename for file in files}
    parts = {file.role: file.filename.removeprefix("audioldm2/") for file in files if file.in_audioldm2}
    if parts:
        folder = audioldm2_folder(preset, list(parts.values()))
        paths |= {role: folder / part for role, part in parts.items()}
    return paths


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
    names in the preset's weights folder; where the preset's weights are ``shipped`` they are
    ``<name>.safetensors`` there, where they are ``seeded`` they are drawn. ``config`` overrides single
    fields of the encoder's settings (for example depths).
    Raises KeyError for an unknown name, :class:`common.errors.InputError` for an unknown precision and
    :class:`common.errors.WeightsError` for weights that are missing or wrong.
    """
    if name not in ENCODERS:
        raise KeyError(f"unknown encoder '{name}': there are {', '.join(ENCODERS)}")
    check_precision(precision)
    preset = load_preset(preset) if isinstance(preset, str) else preset
    kind = ENCODERS[name]
    settings = override(getattr(preset.encoders, name), config)
    source = "official" if checkpoints is not None else preset.weights.source
    shipped = preset.weights.path / f"{name}.safetensors"
    if source == "shipped" and name == FlanT5.name:
        source = "official"  # part of the diffusers folder, whoever trained it
    if source == "official":
        paths = check_files(kind, official_paths(name, preset) if checkpoints is None else checkpoints)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.weights.seed)
        encoder = kind(settings)
    if source == "seeded":
        fill_seeded(encoder)
    elif source == "shipped":
        fill_shipped(encoder, shipped)
    else:
        fill_official(encoder, paths)
    encoder.set_precision(precision)
    encoder = encoder.to(device).eval().requires_grad_(False)
    if compile:
        encoder.compile_submodules()
    return encoder
