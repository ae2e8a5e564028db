"""One half of a contrastive pair out of the folder of the whole, as transformers saves it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from common.errors import WeightsError
from presets.official import CheckpointFile

# transformers' own order: the first that is there is read.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PREPROCESSOR = "preprocessor_config.json"


def files_of(folder: Path) -> dict[str, Path]:
    """The files of such a folder that decide the numbers, by name: its configuration and the weights that are read.

    Other copies of the weights, and what belongs to the other half, identify nothing.
    """
    names = ["config.json"]
    for weights in _WEIGHTS:
        if (folder / weights).is_file():
            names += [weights]
            if weights.endswith(".index.json"):
                names += sorted(set(_read_json(folder / weights)["weight_map"].values()))
            break
    else:
        names += [_WEIGHTS[0]]
    return {name: folder / name for name in names}


def load_half(kind: Any, folder: Path, file: CheckpointFile, sizes: Mapping[str, Any], where: str) -> Any:
    """A transformers model ``kind`` in float32 from ``folder``, of the whole or of this half alone.

    ``sizes``: what its configuration must say, as settings ``where`` say it. Raises :class:`WeightsError` for a folder
    that lacks a file, for weights that are not all there, and with every size that is another.
    """
    missing = [name for name, path in files_of(folder).items() if not path.is_file()]
    if missing:
        raise WeightsError(
            f"{folder} lacks {', '.join(missing)}: from {file.source}, licence {file.licence}, {file.size_gb:g} GB"
        )
    config = _half_config(kind.config_class, folder)
    said = {name: getattr(config, name, None) for name in sizes}
    check_said(said, sizes, folder / "config.json", where)
    try:
        with _without_report():
            model, info = kind.from_pretrained(
                folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # transformers raises many kinds
        raise WeightsError(f"{folder} cannot be read as a {kind.__name__}: {str(error)[:300]}") from error
    if info["missing_keys"]:
        raise WeightsError(f"{folder}: the weights lack {', '.join(sorted(info['missing_keys'])[:5])}")
    return model


def check_preprocessor(folder: Path, wanted: Mapping[str, Any], where: str) -> None:
    """Raise :class:`WeightsError` if the folder says that its model reads another input than ``wanted``."""
    path = folder / PREPROCESSOR
    if path.is_file():
        check_said(_read_json(path), wanted, path, where)


def check_said(said: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, where: str) -> None:
    """Raise :class:`WeightsError` with every value of a file that is not the wanted one."""
    different = [
        f"{name} is {said[name]}, not {value}"
        for name, value in wanted.items()
        if said.get(name) is not None and _plain(said[name]) != _plain(value)
    ]
    if different:
        raise WeightsError(f"{path} is not what the settings {where} say: {'; '.join(different)}")


@contextmanager
def _without_report() -> Iterator[None]:
    """transformers lists every key of the other half."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _half_config(kind: Any, folder: Path) -> Any:
    """The configuration of this half. What the halves share stands above both in old files."""
    values = _read_json(folder / "config.json")
    half = values.get(kind.base_config_key)
    if half is not None:
        shared = ("projection_dim", "projection_hidden_act")
        values = {**half, **{name: values[name] for name in shared if name in values}}
    try:
        return kind.from_dict(values)
    except Exception as error:  # of transformers' own checks
        raise WeightsError(f"{folder / 'config.json'} is no {kind.__name__}: {str(error)[:300]}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is no object of JSON")
    return values


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
