"""The frozen encoders behind one way in: :func:`load_encoder`.

A new encoder is one file and one line in :data:`ENCODERS`. Nothing here imports torch before an encoder is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, WeightsError
from common.registry import load_part
from pipeline.hub import repository_folder
from presets import Preset, load_preset
from presets.encoders import ENCODERS

if TYPE_CHECKING:
    import torch

    from pipeline.encoders.base import Precision

__all__ = ["ENCODERS", "check_weights", "load_encoder", "official_paths"]


def official_paths(name: str, preset: Preset) -> dict[str, Path]:
    """Where the preset expects the official files of one encoder, by role.

    Parts of a repository are in its folder, which is fetched where ``weights.folders`` names a hub id for it; raises
    :class:`common.errors.WeightsError` if that cannot be had.
    """
    files = ENCODERS[name].files
    paths = {file.role: preset.weights.path / file.filename for file in files if file.repository is None}
    for repository in dict.fromkeys(file.repository for file in files if file.repository is not None):
        parts = {file.role: file.part for file in files if file.repository == repository}
        folder = repository_folder(repository, preset, list(parts.values()))
        paths |= {role: folder / part for role, part in parts.items()}
    return paths


def check_weights(preset: Preset, names: Sequence[str]) -> None:
    """Raise :class:`InputError` for an unknown encoder, :class:`WeightsError` with every official file they lack."""
    if unknown := [name for name in names if name not in ENCODERS]:
        raise InputError(f"unknown stage '{unknown[0]}': there are {', '.join(ENCODERS)}")
    if preset.weights.source != "official":
        return
    from pipeline.frozen import check_files

    problems = []
    for name in names:
        try:
            check_files(name, ENCODERS[name].files, official_paths(name, preset))
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError(
            f"preset '{preset.name}' needs official weights in '{preset.weights.folder}' "
            f"(set another folder with --set weights.folder=DIR):\n" + "\n".join(problems)
        )


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
    ``<name>.safetensors`` there, or a folder ``<name>`` in the official layout; where they are ``seeded``
    they are drawn. ``config`` overrides single fields of the encoder's settings (for example depths).
    Raises KeyError for an unknown name, :class:`common.errors.InputError` for an unknown precision and
    :class:`common.errors.WeightsError` for weights that are missing or wrong.
    """
    from pipeline.encoders.base import check_precision, override
    from pipeline.frozen import check_files, drawn, fill_official, fill_seeded, fill_shipped

    known = ENCODERS[name]
    check_precision(precision)
    preset = load_preset(preset) if isinstance(preset, str) else preset
    settings = override(preset.encoders[name], config)
    source = "official" if checkpoints is not None else preset.weights.source
    if not known.files:
        source = "seeded"  # there is nothing but what the constructor makes
    elif source == "shipped" and all(file.repository is not None for file in known.files):
        source = "official"  # a folder in its authors' layout, whoever trained it
    if source == "official":
        paths = check_files(name, known.files, official_paths(name, preset) if checkpoints is None else checkpoints)
    encoder = drawn(lambda: load_part(known.encoder)(settings), preset.weights.seed)
    if source == "seeded":
        fill_seeded(encoder)
    elif source == "shipped":
        fill_shipped(encoder, preset.weights.path / f"{name}.safetensors")
    else:
        fill_official(encoder, paths)
    encoder.set_precision(precision)
    encoder.ready(device)
    if compile:
        encoder.compile_submodules()
    return encoder
