"""AudioLDM-2, loaded from a diffusers folder, or built at a preset's sizes with seeded weights.

Its components are diffusers' and transformers' own classes. Only what is needed is loaded: of CLAP its text half, and
that only to compute the negative condition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    DDIMScheduler,
)
from torch import nn
from transformers import (
    AutoTokenizer,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2Model,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from common.errors import PresetError, WeightsError
from common.hashing import sha256_file, sha256_state
from common.registry import Registry
from generate.audioldm2 import AudioLDM2
from generate.negative import NegativeEncoder
from generate.settings import AudioLDM2Config
from pipeline.encoders import load_encoder
from pipeline.encoders.base import cast_matrices
from pipeline.encoders.flan_t5 import FlanT5, byte_tokenizer
from pipeline.frozen import fill_official
from pipeline.hub import audioldm2_folder
from presets import Preset
from presets.official import AUDIOLDM2_REPOSITORY

# Vocoders besides HiFi-GAN, by the ``_class_name`` of their config.
VOCODERS = Registry("vocoder", GriffinLim="micro.vocoder:GriffinLim")

_SOURCE = f"https://huggingface.co/{AUDIOLDM2_REPOSITORY} (CC BY-NC-SA 4.0: non-commercial, share alike)"
_ALWAYS = ("unet", "vae", "vocoder", "scheduler", "text_encoder_2", "tokenizer_2")
_NEGATIVE_ONLY = ("text_encoder", "tokenizer", "projection_model", "language_model")


def build_components(preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    """Components at the preset's sizes with seeded weights; the negative branch waits until it is used."""
    config: AudioLDM2Config = preset.audio_models.audioldm2
    text = preset.encoders.flan_t5.width
    seed = preset.weights.seed

    def seeded(name: str, make: Callable[[], Any], offset: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + offset)
            try:
                return make()
            except Exception as error:  # whatever diffusers and transformers say to sizes that do not fit
                raise PresetError(
                    f"audio_models.audioldm2.{name} describes no model: {str(error).strip()[:400]}"
                ) from error

    def negative() -> NegativeEncoder:
        tokenizer = byte_tokenizer(preset.encoders.flan_t5.max_tokens)
        words = max(512, len(tokenizer))
        clap = seeded("clap", lambda: ClapTextModelWithProjection(ClapTextConfig(**config.clap, vocab_size=words)), 5)
        language_model = seeded("language_model", lambda: GPT2Model(GPT2Config(**config.language_model)), 7)
        width = language_model.config.n_embd
        return NegativeEncoder(
            clap,
            tokenizer,
            seeded("clap", lambda: AudioLDM2ProjectionModel(clap.config.projection_dim, text, width), 6),
            language_model,
        ).requires_grad_(False)

    parts = {
        "unet": seeded("unet", lambda: AudioLDM2UNet2DConditionModel(**config.unet), 1),
        "vae": seeded("vae", lambda: AutoencoderKL(**config.vae), 2),
        "vocoder": seeded("vocoder", lambda: _build_vocoder(config.vocoder), 3),
        "flan_t5": load_encoder("flan_t5", preset=preset),
        "scheduler": seeded("scheduler", lambda: DDIMScheduler(**config.scheduler), 4),
    }
    return parts, negative


def _build_vocoder(config: dict[str, Any]) -> Any:
    """HiFi-GAN, or what ``_class_name`` says."""
    if (name := config.get("_class_name", "")) in VOCODERS:
        return VOCODERS[name](**{k: v for k, v in config.items() if k != "_class_name"})
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**config))


def _vocoder_kind(folder: Path) -> Any:
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        name = None  # the loader below says what is wrong
    return VOCODERS.get(name, SpeechT5HifiGan)


def find_folder(preset: Preset) -> Path:
    """The diffusers folder of a preset. Raises WeightsError naming what it lacks, its source and licence."""
    folder = audioldm2_folder(preset, (*_ALWAYS, *_NEGATIVE_ONLY))
    if missing := [name for name in _ALWAYS if not (folder / name).is_dir()]:
        raise WeightsError(f"AudioLDM-2 is missing: {folder} lacks {', '.join(missing)}; get it from {_SOURCE}")
    return folder


def load_components(folder: Path, preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    """Components of a diffusers folder; the negative branch is loaded when it is used. Raises WeightsError."""

    def part(kind: Any, name: str) -> Any:
        dtype = {"torch_dtype": torch.float32} if issubclass(kind, nn.Module) else {}
        try:
            return kind.from_pretrained(folder / name, local_files_only=True, **dtype)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder / name} cannot be loaded: {str(error)[:400]}") from error

    def negative() -> NegativeEncoder:
        if missing := [name for name in _NEGATIVE_ONLY if not (folder / name).is_dir()]:
            raise WeightsError(f"{folder} lacks {', '.join(missing)}, needed for the negative prompt; from {_SOURCE}")
        return NegativeEncoder(
            part(ClapTextModelWithProjection, "text_encoder"),
            part(AutoTokenizer, "tokenizer"),
            part(AudioLDM2ProjectionModel, "projection_model"),
            part(GPT2Model, "language_model"),
        ).requires_grad_(False)

    flan_t5 = FlanT5(preset.encoders.flan_t5)
    fill_official(flan_t5, {name: folder / name for name in ("text_encoder_2", "tokenizer_2")})
    parts = {
        "unet": part(AudioLDM2UNet2DConditionModel, "unet"),
        "vae": part(AutoencoderKL, "vae"),
        "vocoder": part(_vocoder_kind(folder / "vocoder"), "vocoder"),
        "scheduler": part(DDIMScheduler, "scheduler"),
        "flan_t5": flan_t5,
    }
    return parts, negative


def fingerprint_of(parts: dict[str, Any], folder: Path | None) -> str:
    digest = hashlib.sha256()
    for name in ("unet", "vae", "vocoder"):
        if folder is None:
            digest.update(sha256_state(parts[name].state_dict()).encode())
        else:
            for path in sorted((folder / name).glob("*")):
                digest.update(f"{name}/{path.name}={sha256_file(path)}".encode())
    scheduler = {k: v for k, v in parts["scheduler"].config.items() if not k.startswith("_")}
    digest.update(json.dumps(scheduler, sort_keys=True, default=str).encode())
    digest.update(parts["flan_t5"].fingerprint.encode())
    return digest.hexdigest()[:32]


def negative_fingerprint_of(preset: Preset, folder: Path | None) -> str:
    """What makes the negative tokens: files of the branch, or seed and sizes."""
    digest = hashlib.sha256()
    if folder is None:
        config = preset.audio_models.audioldm2
        digest.update(json.dumps([preset.weights.seed, config.clap, config.language_model], default=str).encode())
    else:
        for name in _NEGATIVE_ONLY:
            for path in sorted((folder / name).glob("*")):
                digest.update(f"{name}/{path.name}={sha256_file(path)}".encode())
    return digest.hexdigest()[:32]


def load_audioldm2(preset: Preset, device: str | torch.device = "cpu", cache: str | Path | None = None) -> AudioLDM2:
    """AudioLDM-2 of a preset: seeded at its sizes, or the diffusers folder ``<weights.folder>/audioldm2``.

    ``cache`` is a folder in which negative conditions are kept between runs, in ``negatives``.
    Raises :class:`common.errors.WeightsError` naming what is missing, its source and licence.
    """
    folder = None if preset.weights.source == "seeded" else find_folder(preset)
    parts, negative = build_components(preset) if folder is None else load_components(folder, preset)
    fingerprint = fingerprint_of(parts, folder)
    cast_matrices(parts["unet"], preset.generation.precision)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.to(device).eval().requires_grad_(False)
    if preset.generation.channels_last:
        parts["unet"].to(memory_format=torch.channels_last)
    model = AudioLDM2(
        **parts,
        load_negative=negative,
        fingerprint=fingerprint,
        negatives=None if cache is None else Path(cache) / "negatives",
        negative_fingerprint=lambda: negative_fingerprint_of(preset, folder),
    )
    model.precision = preset.generation.precision
    if preset.generation.compile:
        model.compile()
    return model
