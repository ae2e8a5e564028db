"""Initial weights of a mapper: AudioLDM-2's GPT-2 (the paper's choice), plain GPT-2, scratch, or a whole mapper."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from common.errors import WeightsError
from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from pipeline.hub import audioldm2_folder, hub_folder, is_hub_id
from presets import Preset
from trainer.mapper import CONFIG, Mapper, load_weights, read_spec
from trainer.provenance import differing_features
from trainer.registry import shipped_mapper

_NESTINGS = ("cond_stage_models.0.model.", "transformer.", "language_model.", "")
_SOURCE = (
    "AudioLDM-2's GPT-2 is the folder language_model of https://huggingface.co/cvssp/audioldm2 (CC BY-NC-SA 4.0); "
    "train without it by mapper.initialise=scratch"
)


def initial_weights(preset: Preset) -> str:
    """``mapper.initialise`` as ``scratch``, a file or a folder.

    ``audioldm2`` is the folder of its GPT-2 (seeded weights have none), ``shipped`` the mapper that ships with
    the preset's weights, ``owner/name`` the folder of a GPT-2 or a mapper on the hub; raises :class:`WeightsError`
    for one that cannot be had.
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
    return str(audioldm2_folder(preset, ["language_model"]) / "language_model")


def initialise(mapper: Mapper, source: str) -> None:
    """Fill a mapper, or its GPT-2 alone, from ``source``; see :func:`initialise_gpt2`.

    A folder that a mapper was saved in gives all of it, to go on from on other clips. Raises
    :class:`WeightsError` if that one is of another kind, or was fitted on features of other encoders.
    """
    if not _is_mapper(Path(source)):
        initialise_gpt2(mapper.gpt2, source)
        return
    there, here = read_spec(source), mapper.spec
    for name in ("encoders", "fusion", "kind", "layers", "heads", "width"):
        if getattr(there.mapper, name) != getattr(here.mapper, name):
            raise WeightsError(
                f"mapper.initialise: the mapper in {source} has {name} {getattr(there.mapper, name)}, "
                f"this run {getattr(here.mapper, name)}"
            )
    fitted = there.provenance.get("encoders", {})
    known = [name for name in here.provenance.get("encoders", {}) if name in fitted]
    if different := differing_features(there.provenance, here.provenance, known):
        raise WeightsError(
            f"mapper.initialise: the mapper in {source} was fitted on features of another kind "
            f"({'; '.join(map(str, different))})"
        )
    load_weights(mapper, source)


def _is_mapper(folder: Path) -> bool:
    """Whether a mapper was saved here; a folder of a GPT-2 has a config.json too, of transformers."""
    path = folder / CONFIG
    try:
        return path.is_file() and "mapper" in json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return True  # a damaged one: read_spec says so


def initialise_gpt2(gpt2: nn.Module, source: str) -> None:
    """Fill GPT-2 from ``source``, or leave it as drawn where that is ``scratch``.

    ``source`` is a folder (diffusers' ``language_model`` or a Hugging Face GPT-2) or a checkpoint file
    (AudioLDM-2's original, keys ``cond_stage_models.0.model.*``). The token embedding is not read: the
    mapper has no tokens. Raises :class:`WeightsError` naming missing and mis-shaped keys.
    """
    if source == "scratch":
        return
    path = Path(source)
    if path.is_dir():
        names = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
        path = next((path / name for name in names if (path / name).is_file()), path / names[0])
    if not path.is_file():
        raise WeightsError(f"mapper.initialise: {path} does not exist; {_SOURCE}")
    state = read_state(path)
    nesting = next(prefix for prefix in _NESTINGS if not prefix or f"{prefix}ln_f.weight" in state)
    official = {
        key.removeprefix(nesting): value
        for key, value in state.items()
        if key.startswith(nesting) and not key.endswith(("wte.weight", ".attn.bias", ".attn.masked_bias"))
    }
    own = {name: tensor for name, tensor in gpt2.state_dict().items() if name != "wte.weight"}
    rules = [Rule(name, (name,), (tuple(tensor.shape),)) for name, tensor in own.items()]
    rules.append(Rule("wte.weight", (), (), lambda _: gpt2.state_dict()["wte.weight"]))
    load_checked(gpt2, rules, official, files=[path], owned=lambda key: key.startswith(("h.", "ln_f.", "wpe.")))
