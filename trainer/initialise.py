"""Initial weights of the GPT-2 mapper: AudioLDM-2's GPT-2 (the paper's choice), plain GPT-2, or scratch."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from pipeline.errors import WeightsError
from presets import Preset

_NESTINGS = ("cond_stage_models.0.model.", "transformer.", "language_model.", "")
_SOURCE = (
    "AudioLDM-2's GPT-2 is the folder language_model of https://huggingface.co/cvssp/audioldm2 (CC BY-NC-SA 4.0); "
    "train without it by mapper.initialise=scratch"
)


def initial_weights(preset: Preset) -> str:
    """``mapper.initialise`` with ``audioldm2`` made the folder of its GPT-2; seeded weights have none."""
    source, weights = preset.mapper.initialise, preset.weights
    if source != "audioldm2":
        return source
    if weights.source == "seeded":
        return "scratch"
    folder = Path(weights.audioldm2) if weights.audioldm2 else weights.path / "audioldm2"
    return str(folder / "language_model")


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
