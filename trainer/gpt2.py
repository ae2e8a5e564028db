"""The GPT-2 that some mappers are made of: without a token embedding, drawn or filled from AudioLDM-2's."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import GPT2Config, GPT2Model

from common.errors import PresetError, WeightsError
from pipeline.attention import UNPADDED
from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from trainer.mapper import MapperSpec

_NESTINGS = ("cond_stage_models.0.model.", "transformer.", "language_model.", "")
_SOURCE = (
    "AudioLDM-2's GPT-2 is the folder language_model of https://huggingface.co/cvssp/audioldm2 (CC BY-NC-SA 4.0); "
    "train without it by mapper.initialise=scratch"
)


def build_gpt2(spec: MapperSpec, sequence: int) -> GPT2Model:
    """GPT-2 at the spec's sizes, without a token embedding; raises :class:`WeightsError` if these do not fit."""
    config = spec.mapper
    if spec.target[1] != config.width:
        raise WeightsError(
            f"the mapper's width is {config.width}, but the cached targets have {spec.target[1]} values: "
            f"it reads and predicts them, so the two must agree (mapper.width)"
        )
    if config.head_width not in (None, config.width // config.heads) or config.width % config.heads:
        raise PresetError(
            f"mapper.head_width is {config.head_width}, and must be null for a mapper of kind '{config.kind}': a "
            f"head of GPT-2 has width / heads values"
        )
    if sequence > config.max_positions:
        raise WeightsError(f"a sequence of {sequence} does not fit mapper.max_positions = {config.max_positions}")
    gpt2 = GPT2Model(
        GPT2Config(
            vocab_size=1,
            n_positions=config.max_positions,
            n_embd=spec.target[1],
            n_layer=config.layers,
            n_head=config.heads,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own "gelu_new" in one kernel instead of eight
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=UNPADDED,
        )
    )
    gpt2.wte.weight.requires_grad_(False)
    return gpt2


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
