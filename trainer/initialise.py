"""Initial weights of a mapper: AudioLDM-2's GPT-2 (the paper's choice), plain GPT-2, scratch, or a whole mapper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import WeightsError
from pipeline.hub import hub_folder, is_hub_id, repository_folder
from presets import Preset
from presets.checks import checked
from presets.identity import Difference, differences
from presets.mappers import MAPPERS
from presets.official import AUDIOLDM2
from trainer.mapper import CONFIG, Mapper, MapperSpec, load_weights, not_taken, read_spec
from trainer.provenance import differing_features
from trainer.registry import shipped_mapper


def initial_weights(preset: Preset) -> str:
    """``mapper.initialise`` as ``scratch``, a file or a folder.

    ``audioldm2`` is the folder of its GPT-2 (seeded weights have none), ``shipped`` the mapper that ships with
    the preset's weights, ``owner/name`` the folder of a GPT-2 or a mapper on the hub; raises :class:`WeightsError`
    for one that cannot be had, and, before anything is fetched, for one that this kind of mapper does not take.
    """
    source, weights = preset.mapper.initialise, preset.weights
    if source == "shipped":
        if (shipped := shipped_mapper(preset)) is None:
            raise WeightsError(f"mapper.initialise=shipped: no mapper ships with the preset {preset.name}")
        return str(shipped)
    if source != "audioldm2":
        return str(hub_folder(source, [""], "mapper.initialise")) if is_hub_id(source) else source
    if weights.source == "seeded":
        return "scratch"
    if MAPPERS[preset.mapper.kind].initialise is Mapper.initialise:
        raise not_taken(preset.mapper.kind, source)
    return str(repository_folder(AUDIOLDM2, preset, ["language_model"]) / "language_model")


def initialise(mapper: Mapper, source: str) -> MapperSpec | None:
    """Fill a mapper, or the part of it that its :meth:`trainer.mapper.Mapper.initialise` takes, from ``source``.

    A folder that a mapper was saved in gives all of it, to go on from on other clips; returns what that one is. Raises
    :class:`WeightsError` if that one is of another kind, or was fitted on features of other encoders.
    """
    if not _is_mapper(Path(source)):
        mapper.initialise(source)
        return None
    there, here = read_spec(source), mapper.spec
    fused = ("fusion", "standardise") if hasattr(mapper, "fusion") else ()
    for name in ("kind", "encoders", *fused, "layers", "heads", "width", "head_width"):
        if getattr(there.mapper, name) != getattr(here.mapper, name):
            raise WeightsError(
                f"mapper.initialise: the mapper in {source} has {name} {getattr(there.mapper, name)}, "
                f"this run {getattr(here.mapper, name)}"
            )
    if different := _differing_options(mapper, there.mapper.options):
        raise WeightsError(
            f"mapper.initialise: the mapper in {source} has other options ({'; '.join(map(str, different))})"
        )
    if there.target_encoder != here.target_encoder:
        raise WeightsError(
            f"mapper.initialise: the mapper in {source} predicts {there.target_encoder}, this run {here.target_encoder}"
        )
    fitted = there.provenance.get("encoders", {})
    known = [name for name in here.provenance.get("encoders", {}) if name in fitted]
    if different := differing_features(there.provenance, here.provenance, known):
        raise WeightsError(
            f"mapper.initialise: the mapper in {source} was fitted on features of another kind "
            f"({'; '.join(map(str, different))})"
        )
    load_weights(mapper, source)
    return there


def _differing_options(mapper: Mapper, options: Mapping[str, Any]) -> list[Difference]:
    """In which of ``mapper.options`` a saved mapper's differ, but for those that only prediction reads."""
    if mapper.Options is None:
        return differences(options, {}, prefix="mapper.options.")
    there = asdict(checked(mapper.Options, options, "mapper.options of the saved mapper"))
    return differences(there, asdict(mapper.options), None, mapper.prediction_options, "mapper.options.")


def _is_mapper(folder: Path) -> bool:
    """Whether a mapper was saved here; a folder of a GPT-2 has a config.json too, of transformers."""
    path = folder / CONFIG
    try:
        return path.is_file() and "mapper" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True  # a damaged one: read_spec says so
