"""Mappers by name, and :class:`MFMMapper`, which loads whichever one a folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.errors import WeightsError
from pipeline.hub import hub_folder, is_hub_id
from trainer.diffusion_mapper import DiffusionMapper
from trainer.mapper import CONFIG, GPT2Mapper, Mapper, MapperSpec, check_weights, load_weights, read_spec

MAPPERS: dict[str, Callable[[MapperSpec], Mapper]] = {"gpt2": GPT2Mapper, "diffusion": DiffusionMapper}


def build_mapper(spec: MapperSpec) -> Mapper:
    """A mapper with fresh weights."""
    return MAPPERS[spec.mapper.kind](spec)


def mapper_folder(source: str | Path) -> Path:
    """The folder of a saved mapper; of a hub id (text ``owner/name``) the one in the hub's cache."""
    return hub_folder(source, [""], "mapper") if isinstance(source, str) and is_hub_id(source) else Path(source)


class MFMMapper:
    """``MFMMapper.from_pretrained(folder)`` -> a :class:`trainer.mapper.Mapper` in evaluation mode."""

    @staticmethod
    def from_pretrained(source: str | Path, device: str | torch.device = "cpu") -> Mapper:
        """Load a folder that ``save_pretrained`` wrote, or the hub id that ``push_to_hub`` pushed to.

        A config that asks for more than its file of weights holds is refused before memory is asked for. Raises
        :class:`pipeline.errors.WeightsError`.
        """
        folder = mapper_folder(source)
        spec = read_spec(folder)
        try:
            with torch.device("meta"):
                shapes = build_mapper(spec)
        except WeightsError as error:
            raise WeightsError(f"{folder / CONFIG} does not describe a mapper: {error}") from None
        check_weights(shapes, folder)
        mapper = build_mapper(spec)
        load_weights(mapper, folder)
        return mapper.to(device).eval().requires_grad_(False)
