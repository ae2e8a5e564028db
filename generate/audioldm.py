"""AudioLDM (Liu et al. 2023), conditioned on one CLAP embedding a clip: a mapper's, in place of a text's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoTokenizer, ClapTextConfig, ClapTextModelWithProjection

from common.errors import PresetError, WeightsError
from generate.components import (
    build_vocoder,
    find_folder,
    fingerprint_of,
    hash_files,
    read_part,
    read_vocoder,
    seeded,
    settle,
)
from generate.kept import kept_negative
from generate.latent_diffusion import LatentDiffusion, fill_rows
from generate.mel import MEL_BINS, MEL_FRAMES
from generate.settings import AUDIOLDM, AudioLDMConfig
from pipeline.encoders.flan_t5 import byte_tokenizer
from presets import Preset

_ALWAYS = ("unet", "vae", "vocoder", "scheduler")
_TEXT = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class ClapCondition:
    """The UNet's class condition: ``embedding`` (B, D), L2-normalised CLAP embeddings, or zeros for none."""

    embedding: Tensor

    def expand(self, batch: int) -> ClapCondition:
        return ClapCondition(self.embedding.expand(batch, -1))

    def filled(self, rows: int) -> ClapCondition:
        return ClapCondition(fill_rows(self.embedding, rows))


class AudioLDM(LatentDiffusion):
    """CLAP embeddings -> waveforms. No label is read.

    ``encode_negative``: a prompt -> its embedding (1, D), L2-normalised; None for a condition of zeros. ``made_by``
    says what makes it: with a folder ``negatives``, it is kept there under that.
    """

    mel_shape, mel_seconds = (MEL_FRAMES, MEL_BINS), 0.01

    def __init__(
        self,
        unet: Any,
        vae: Any,
        vocoder: Any,
        scheduler: Any,
        fingerprint: str,
        encode_negative: Callable[[str], Tensor] | None = None,
        made_by: str = "",
        negatives: Path | None = None,
    ):
        super().__init__(unet, vae, vocoder, scheduler, fingerprint)
        self.encode_negative, self.made_by, self.negatives = encode_negative, made_by, negatives
        self._negatives: dict[str, ClapCondition] = {}

    def condition(self, tokens: Tensor, labels: Sequence[str] = ()) -> ClapCondition:
        """Predictions (B, 1, D), scaled to length 1 as AudioLDM scales its text embeddings."""
        return ClapCondition(nn.functional.normalize(tokens[:, 0].float(), dim=-1))

    def negative(self, prompt: str) -> ClapCondition:
        """Computed once a prompt: CLAP is loaded for it where it is not kept."""
        if prompt not in self._negatives:
            encode = self.encode_negative
            if encode is None:
                embedding = torch.zeros(1, self.unet.config.projection_class_embeddings_input_dim)
            else:
                made = kept_negative(self.negatives, prompt, lambda: self.made_by, lambda: {"clap": encode(prompt)})
                embedding = made["clap"]
            self._negatives[prompt] = ClapCondition(embedding.to(self.device))
        return self._negatives[prompt]

    def unet_arguments(self, negative: ClapCondition, positive: ClapCondition) -> dict[str, Any]:
        """Its attention layers attend to the latents alone."""
        return {"encoder_hidden_states": None, "class_labels": torch.cat([negative.embedding, positive.embedding])}


@torch.inference_mode()
def encode_text(text_encoder: Any, tokenizer: Any, prompt: str) -> Tensor:
    """A prompt's CLAP embedding (1, D) as ``AudioLDMPipeline`` makes it: L2-normalised, of at most D tokens."""
    most = text_encoder.config.projection_dim
    tokens = tokenizer([prompt], return_tensors="pt", truncation=True, max_length=most)
    embedding: Tensor = text_encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
    return nn.functional.normalize(embedding, dim=-1)


def load_audioldm(preset: Preset, device: str | torch.device = "cpu", cache: str | Path | None = None) -> AudioLDM:
    """AudioLDM of a preset: seeded at its sizes, or the diffusers folder ``<weights.folder>/audioldm-s-full-v2``.

    ``cache`` is a folder in which negative conditions are kept between runs, in ``negatives``. Raises
    :class:`common.errors.WeightsError` naming what is missing, its source and licence, and for a UNet that takes no
    embedding of the preset's ``target``.
    """
    config: AudioLDMConfig = preset.audio_models.audioldm
    text = _TEXT if config.negative == "prompt" else ()
    folder = None
    if preset.weights.source != "seeded":
        folder = find_folder("AudioLDM", AUDIOLDM, preset, (*_ALWAYS, *text))
    parts = _build(config, preset.weights.seed) if folder is None else _read(folder)
    _check_condition(parts["unet"], preset, folder)
    made_by = _text_fingerprint(preset, folder) if text else ""
    model = AudioLDM(
        **parts,
        fingerprint=fingerprint_of(parts, folder, config.negative, made_by),
        encode_negative=(lambda prompt: encode_text(*_text_half(preset, folder), prompt)) if text else None,
        made_by=made_by,
        negatives=None if cache is None else Path(cache) / "negatives",
    )
    return settle(model, preset, device)


def _build(config: AudioLDMConfig, seed: int) -> dict[str, Any]:
    def part(name: str, make: Callable[[], Any], offset: int) -> Any:
        return seeded(f"audio_models.audioldm.{name}", make, seed + offset)

    return {
        "unet": part("unet", lambda: UNet2DConditionModel(**config.unet), 1),
        "vae": part("vae", lambda: AutoencoderKL(**config.vae), 2),
        "vocoder": part("vocoder", lambda: build_vocoder(config.vocoder), 3),
        "scheduler": part("scheduler", lambda: DDIMScheduler(**config.scheduler), 4),
    }


def _read(folder: Path) -> dict[str, Any]:
    return {
        "unet": read_part(UNet2DConditionModel, folder / "unet"),
        "vae": read_part(AutoencoderKL, folder / "vae"),
        "vocoder": read_vocoder(folder / "vocoder"),
        "scheduler": read_part(DDIMScheduler, folder / "scheduler"),
    }


def _check_condition(unet: Any, preset: Preset, folder: Path | None) -> None:
    """A UNet without a class condition would leave the embedding out and say nothing."""
    takes = unet.config.projection_class_embeddings_input_dim if unet.config.class_embed_type else None
    wanted = preset.encoders[preset.target].dimension
    if isinstance(takes, int) and wanted in (None, takes):
        return
    what = f"the UNet of {folder or 'audio_models.audioldm.unet'} takes {takes or 'no'} values of a class condition"
    error = PresetError if folder is None else WeightsError
    raise error(f"{what}; AudioLDM's takes an embedding of the target, and {preset.target} has {wanted or 'any'}")


def _text_half(preset: Preset, folder: Path | None) -> tuple[Any, Any]:
    """CLAP's text encoder and its tokenizer."""
    if folder is not None:
        return (
            read_part(ClapTextModelWithProjection, folder / "text_encoder").eval(),
            read_part(AutoTokenizer, folder / "tokenizer"),
        )
    tokenizer = byte_tokenizer(128)
    arguments = {"vocab_size": max(512, len(tokenizer)), **preset.audio_models.audioldm.clap}
    clap = seeded(
        "audio_models.audioldm.clap",
        lambda: ClapTextModelWithProjection(ClapTextConfig(**arguments)),
        preset.weights.seed + 5,
    )
    return clap.eval(), tokenizer


def _text_fingerprint(preset: Preset, folder: Path | None) -> str:
    """What makes the negative condition: files of the text half, or seed and sizes."""
    digest = hashlib.sha256()
    if folder is None:
        digest.update(json.dumps([preset.weights.seed, preset.audio_models.audioldm.clap], default=str).encode())
    else:
        hash_files(digest, folder, _TEXT)
    return digest.hexdigest()[:32]
