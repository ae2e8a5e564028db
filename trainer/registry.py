"""A mapper of any kind: built, found, and by :class:`MFMMapper` loaded, whichever one a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common.errors import PresetError, WeightsError
from pipeline.hub import hub_folder, is_hub_id
from presets import Preset
from presets.mappers import MAPPERS
from trainer.mapper import CONFIG, Mapper, MapperSpec, check_weights, load_weights, read_spec


def build_mapper(spec: MapperSpec) -> Mapper:
    """A mapper of the kind its spec names, with fresh weights.

    Raises :class:`PresetError` for options it does not have, :class:`WeightsError` for sizes that do not fit.
    """
    mapper: Mapper = MAPPERS[spec.mapper.kind](spec)
    return mapper


def trained_parameters(preset: Preset) -> int:
    """How many parameters training fits of a preset's mapper, by its settings alone; no weight takes memory.

    Raises :class:`PresetError` where only features tell a width or a number of vectors, and as :func:`build_mapper`.
    """
    dimensions = {name: preset.encoders[name].dimension for name in preset.mapper.encoders}
    count, width = preset.tokens
    sizes = {**dimensions, f"vectors of {preset.target}": count, preset.target: width}
    if count is None or width is None or None in dimensions.values():
        unknown = [name for name, size in sizes.items() if size is None]
        raise PresetError(f"the parameters of the mapper cannot be counted without features: {', '.join(unknown)}")
    lengths: dict[str, Any] = dict.fromkeys(dimensions, 1)  # nothing is fitted to them
    spec = MapperSpec(preset.mapper, dimensions, lengths, (count, width))
    with torch.device("meta"):
        return build_mapper(spec).trained_parameters


def mapper_folder(source: str | Path) -> Path:
    """The folder of a saved mapper, given itself or its run; of a hub id (``owner/name``) the one in the hub's cache.

    Text that could be both, as ``runs/mine``, is a folder where its first part is one.
    """
    if isinstance(source, str) and is_hub_id(source) and not Path(source).parent.is_dir():
        return hub_folder(source, [""], "mapper")
    folder = Path(source)
    inside = folder / "mapper"
    return inside if inside.is_dir() and not (folder / CONFIG).exists() else folder


def shipped_mapper(preset: Preset) -> Path | None:
    """The mapper that ships with the preset's weights."""
    return preset.weights.path / preset.weights.mapper if preset.weights.source == "shipped" else None


def default_mapper(preset: Preset) -> Path:
    """:func:`shipped_mapper`; where there is none, raises :class:`WeightsError` that says how to get one."""
    if (shipped := shipped_mapper(preset)) is None:
        raise WeightsError(
            f"no trained mapper ships with the preset '{preset.name}'. Train one (make extract, then make train "
            f"PRESET={preset.name}), and give its run, the folder of a mapper, or the id of one on the hub "
            f"(owner/name): --run, or VideoToAudio.from_pretrained(mapper)"
        )
    return shipped


class MFMMapper:
    """``MFMMapper.from_pretrained(folder)`` -> a :class:`trainer.mapper.Mapper` in evaluation mode."""

    @staticmethod
    def from_pretrained(source: str | Path, device: str | torch.device = "cpu") -> Mapper:
        """Load a folder that ``save_pretrained`` wrote, or the hub id that ``push_to_hub`` pushed to.

        A config that asks for more than its file of weights holds is refused before memory is asked for. Raises
        :class:`common.errors.WeightsError`.
        """
        folder = mapper_folder(source)
        spec = read_spec(folder)
        try:
            with torch.device("meta"):
                shapes = build_mapper(spec)
        except (PresetError, WeightsError) as error:
            raise WeightsError(f"{folder / CONFIG} does not describe a mapper: {error}") from None
        check_weights(shapes, folder)
        mapper = build_mapper(spec)
        load_weights(mapper, folder)
        return mapper.to(device).eval().requires_grad_(False)
