"""Parts of a latent diffusion model: read from a diffusers folder, or built at a preset's sizes with seeded weights.

They are diffusers' and transformers' own classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from torch import nn
from transformers import PreTrainedModel, SpeechT5HifiGan, SpeechT5HifiGanConfig

from common.errors import PresetError, WeightsError
from common.hashing import sha256_file, sha256_state
from common.registry import Registry
from common.words import counted
from generate.latent_diffusion import LatentDiffusion
from pipeline.encoders.base import cast_matrices
from pipeline.hub import repository_folder
from presets import Preset
from presets.official import Repository

T = TypeVar("T")
D = TypeVar("D", bound=LatentDiffusion)
HIFIGAN = "SpeechT5HifiGan"
# Vocoders besides HiFi-GAN, by the ``_class_name`` of their config.
VOCODERS = Registry("vocoder", GriffinLim="micro.vocoder:GriffinLim")


def seeded(setting: str, make: Callable[[], T], seed: int) -> T:
    """What ``make`` builds, with weights that follow from ``seed``; ``setting`` is where its sizes are.

    Raises :class:`PresetError` for sizes that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return make()
        except Exception as error:  # whatever diffusers and transformers say to sizes that do not fit
            raise PresetError(f"{setting} describes no model: {str(error).strip()[:400]}") from error


def vocoder_name(config: Mapping[str, Any]) -> str:
    """The class that a preset's vocoder is of."""
    return str(config.get("_class_name") or HIFIGAN)


def build_vocoder(config: Mapping[str, Any]) -> Any:
    """HiFi-GAN, or what ``_class_name`` says; raises KeyError for a class that is not registered."""
    name, arguments = vocoder_name(config), {k: v for k, v in config.items() if k != "_class_name"}
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**arguments)) if name == HIFIGAN else VOCODERS[name](**arguments)


def read_vocoder(folder: Path) -> Any:
    """As :func:`read_part`; its config says of which class it is."""
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        name = None  # the loader below says what is wrong
    return read_part(VOCODERS.get(name, SpeechT5HifiGan), folder)


def find_folder(
    what: str, repository: Repository, preset: Preset, needed: Sequence[str], wanted: Sequence[str] = ()
) -> Path:
    """The folder of a repository of a preset; of a hub id, ``needed`` and ``wanted`` parts are fetched.

    Raises :class:`WeightsError` naming what of ``needed`` is not there, the source and its licence.
    """
    folder = repository_folder(repository, preset, (*needed, *wanted))
    if missing := missing_parts(folder, needed):
        raise WeightsError(f"{what} is missing: {folder} lacks {', '.join(missing)}; get it from {repository.source}")
    return folder


def missing_parts(folder: Path, parts: Sequence[str]) -> list[str]:
    return [name for name in parts if not (folder / name).is_dir()]


def read_part(kind: Any, folder: Path) -> Any:
    """A model, tokenizer or scheduler of class ``kind`` from its folder, weights in float32.

    Weights may be ``.safetensors`` or ``.bin``, and in half precision (``.fp16.``) where there are no others. Raises
    :class:`WeightsError` for files that are missing or damaged, and for weights that do not fill the model.
    """
    is_model = issubclass(kind, ModelMixin | PreTrainedModel)
    arguments: dict[str, Any] = {}
    if is_model:
        arguments = {"torch_dtype": torch.float32, "output_loading_info": True, **_form(folder)}
    try:
        made = kind.from_pretrained(folder, local_files_only=True, **arguments)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} cannot be loaded: {str(error)[:400]}") from error
    if not is_model:
        return made
    model, told = made
    if missing := sorted(told["missing_keys"]):  # they would be drawn at random
        raise WeightsError(f"{folder} cannot be loaded: its file lacks weights: {counted(missing, 8)}")
    return model


def _form(folder: Path) -> dict[str, Any]:
    """How ``from_pretrained`` is told which of the files are the weights."""
    weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin")]
    if not weights:
        return {}
    half = all(".fp16" in path.name for path in weights)
    return {
        "variant": "fp16" if half else None,
        "use_safetensors": any(path.suffix == ".safetensors" and (".fp16" in path.name) == half for path in weights),
    }


def fingerprint_of(parts: Mapping[str, Any], folder: Path | None, *also: str) -> str:
    """Of UNet, VAE, vocoder and scheduler, which lie in ``folder`` or are seeded, and of what ``also`` decides."""
    digest = hashlib.sha256()
    for name in ("unet", "vae", "vocoder"):
        if folder is None:
            digest.update(sha256_state(parts[name].state_dict()).encode())
        else:
            hash_files(digest, folder, [name])
    scheduler = {k: v for k, v in parts["scheduler"].config.items() if not k.startswith("_")}
    digest.update(json.dumps(scheduler, sort_keys=True, default=str).encode())
    for text in also:
        digest.update(text.encode())
    return digest.hexdigest()[:32]


def hash_files(digest: Any, folder: Path, parts: Sequence[str]) -> None:
    """Feed a hash with the names and contents of all files of ``parts``."""
    for name in parts:
        for path in sorted((folder / name).glob("*")):
            digest.update(f"{name}/{path.name}={sha256_file(path)}".encode())


def settle(model: D, preset: Preset, device: str | torch.device) -> D:
    """Frozen, on the device, as the section ``generation`` wants the UNet."""
    generation = preset.generation
    cast_matrices(model.unet, generation.precision)
    for part in (model.unet, model.vae, model.vocoder, model.label_encoder):
        if isinstance(part, nn.Module):
            part.to(device).eval().requires_grad_(False)
    if generation.channels_last:
        model.unet.to(memory_format=torch.channels_last)
    model.precision = generation.precision
    if generation.compile:
        model.compile()
    return model
