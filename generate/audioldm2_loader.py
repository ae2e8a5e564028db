"""AudioLDM-2, loaded from a diffusers folder, or built at a preset's sizes with seeded weights.

Only what is needed is loaded: of CLAP its text half, and that only to compute the negative condition.
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
from transformers import (
    AutoTokenizer,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2Model,
)

from common.errors import WeightsError
from generate.audioldm2 import AudioLDM2
from generate.components import (
    build_vocoder,
    find_folder,
    fingerprint_of,
    hash_files,
    missing_parts,
    read_part,
    read_vocoder,
    seeded,
    settle,
)
from generate.negative import NegativeEncoder
from generate.settings import AudioLDM2Config
from pipeline.encoders import load_encoder
from pipeline.encoders.flan_t5 import FlanT5, byte_tokenizer
from pipeline.frozen import fill_official
from presets import Preset
from presets.official import AUDIOLDM2

_LABELS = ("text_encoder_2", "tokenizer_2")
_ALWAYS = ("unet", "vae", "vocoder", "scheduler", *_LABELS)
_NEGATIVE_ONLY = ("text_encoder", "tokenizer", "projection_model", "language_model")


def build_components(preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    """Components at the preset's sizes with seeded weights; the negative branch waits until it is used."""
    config: AudioLDM2Config = preset.audio_models.audioldm2
    text = preset.encoders.flan_t5.width

    def part(name: str, make: Callable[[], Any], offset: int) -> Any:
        return seeded(f"audio_models.audioldm2.{name}", make, preset.weights.seed + offset)

    def negative() -> NegativeEncoder:
        tokenizer = byte_tokenizer(preset.encoders.flan_t5.max_tokens)
        words = max(512, len(tokenizer))
        clap = part("clap", lambda: ClapTextModelWithProjection(ClapTextConfig(**config.clap, vocab_size=words)), 5)
        language_model = part("language_model", lambda: GPT2Model(GPT2Config(**config.language_model)), 7)
        width = language_model.config.n_embd
        return NegativeEncoder(
            clap,
            tokenizer,
            part("clap", lambda: AudioLDM2ProjectionModel(clap.config.projection_dim, text, width), 6),
            language_model,
        ).requires_grad_(False)

    parts = {
        "unet": part("unet", lambda: AudioLDM2UNet2DConditionModel(**config.unet), 1),
        "vae": part("vae", lambda: AutoencoderKL(**config.vae), 2),
        "vocoder": part("vocoder", lambda: build_vocoder(config.vocoder), 3),
        "flan_t5": load_encoder("flan_t5", preset=preset),
        "scheduler": part("scheduler", lambda: DDIMScheduler(**config.scheduler), 4),
    }
    return parts, negative


def load_components(folder: Path, preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    """Components of a diffusers folder; the negative branch is loaded when it is used. Raises WeightsError."""

    def negative() -> NegativeEncoder:
        if missing := missing_parts(folder, _NEGATIVE_ONLY):
            raise WeightsError(
                f"{folder} lacks {', '.join(missing)}, needed for the negative prompt; from {AUDIOLDM2.source}"
            )
        return NegativeEncoder(
            read_part(ClapTextModelWithProjection, folder / "text_encoder"),
            read_part(AutoTokenizer, folder / "tokenizer"),
            read_part(AudioLDM2ProjectionModel, folder / "projection_model"),
            read_part(GPT2Model, folder / "language_model"),
        ).requires_grad_(False)

    flan_t5 = FlanT5(preset.encoders.flan_t5)
    fill_official(flan_t5, {name: folder / name for name in _LABELS})
    parts = {
        "unet": read_part(AudioLDM2UNet2DConditionModel, folder / "unet"),
        "vae": read_part(AutoencoderKL, folder / "vae"),
        "vocoder": read_vocoder(folder / "vocoder"),
        "scheduler": read_part(DDIMScheduler, folder / "scheduler"),
        "flan_t5": flan_t5,
    }
    return parts, negative


def negative_fingerprint_of(preset: Preset, folder: Path | None) -> str:
    """What makes the negative tokens: files of the branch, or seed and sizes."""
    digest = hashlib.sha256()
    if folder is None:
        config = preset.audio_models.audioldm2
        digest.update(json.dumps([preset.weights.seed, config.clap, config.language_model], default=str).encode())
    else:
        hash_files(digest, folder, _NEGATIVE_ONLY)
    return digest.hexdigest()[:32]


def load_audioldm2(preset: Preset, device: str | torch.device = "cpu", cache: str | Path | None = None) -> AudioLDM2:
    """AudioLDM-2 of a preset: seeded at its sizes, or the diffusers folder ``<weights.folder>/audioldm2``.

    ``cache`` is a folder in which negative conditions are kept between runs, in ``negatives``.
    Raises :class:`common.errors.WeightsError` naming what is missing, its source and licence.
    """
    folder = None
    if preset.weights.source != "seeded":
        folder = find_folder("AudioLDM-2", AUDIOLDM2, preset, _ALWAYS, _NEGATIVE_ONLY)
    parts, negative = build_components(preset) if folder is None else load_components(folder, preset)
    model = AudioLDM2(
        **parts,
        load_negative=negative,
        fingerprint=fingerprint_of(parts, folder, parts["flan_t5"].fingerprint),
        negatives=None if cache is None else Path(cache) / "negatives",
        negative_fingerprint=lambda: negative_fingerprint_of(preset, folder),
    )
    return settle(model, preset, device)
