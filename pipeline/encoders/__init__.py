"""The frozen encoders behind one way in: :func:`load_encoder`.

A new encoder is one file and one line in :data:`ENCODERS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
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
from pipeline.encoders.checkpoints import CheckpointFile, sha256_file
from pipeline.encoders.flan_t5 import FlanT5
from pipeline.encoders.timechat import TimeChat
from presets import Preset, load_preset

ENCODERS: dict[str, type[Encoder]] = {encoder.name: encoder for encoder in (CAVP, TimeChat, AudioMAE, FlanT5)}

# The rest of the diffusers folder: not encoders, but listed with them so that one command shows all.
_AUDIOLDM2_GB = {"unet": 1.4, "vae": 0.2, "vocoder": 0.2, "scheduler": 0.001, "language_model": 0.5}
_AUDIOLDM2_GB |= {"projection_model": 0.01, "text_encoder": 0.8, "tokenizer": 0.01}
AUDIOLDM2_FILES = tuple(
    CheckpointFile(
        name,
        f"audioldm2/{name}",
        f"https://huggingface.co/cvssp/audioldm2 (folder {name})",
        "CC BY-NC-SA 4.0 (AudioLDM-2)",
        size,
    )
    for name, size in _AUDIOLDM2_GB.items()
)

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
    "weight_files",
]


def official_paths(name: str, preset: Preset) -> dict[str, Path]:
    """Where the preset expects the official files of one encoder, by role."""
    return {file.role: preset.weights.path / file.filename for file in ENCODERS[name].files}


@dataclass(frozen=True)
class WeightFile:
    """One official file of a preset; ``sha256`` is empty while the file is missing."""

    encoder: str
    file: CheckpointFile
    path: Path
    found: bool
    bytes: int
    sha256: str


def weight_files(preset: Preset) -> list[WeightFile]:
    """Every official file that a preset's encoders and AudioLDM-2 need, with what is on disk."""
    rows = []
    wanted = [(name, file) for name, kind in ENCODERS.items() for file in kind.files]
    for name, file in [*wanted, *(("audioldm2", file) for file in AUDIOLDM2_FILES)]:
        path = preset.weights.path / file.filename
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] * path.is_file()
        digests = [sha256_file(file) for file in files]
        joined = hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)
        rows.append(WeightFile(name, file, path, bool(files), sum(p.stat().st_size for p in files), joined))
    return rows


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
    Raises KeyError for an unknown name, :class:`pipeline.errors.InputError` for an unknown precision and
    :class:`pipeline.errors.WeightsError` for weights that are missing or wrong.
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
