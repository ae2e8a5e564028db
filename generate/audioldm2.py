"""AudioLDM-2, conditioned on a mapper's tokens and FLAN-T5's text; :mod:`generate.audioldm2_loader` loads it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generate.kept import keep, read_kept
from generate.latent_diffusion import LatentDiffusion, fill_rows
from generate.mel import MEL_BINS, MEL_FRAMES
from generate.negative import NegativeEncoder
from pipeline.encoders.flan_t5 import FlanT5
from presets.config import GenerationConfig


@dataclass(frozen=True)
class Conditioning:
    """What the UNet attends to: ``tokens`` (B, 8, D), ``text`` (B, L, D_t), ``mask`` (B, L)."""

    tokens: Tensor
    text: Tensor
    mask: Tensor

    def expand(self, batch: int) -> Conditioning:
        return Conditioning(*(value.expand(batch, *value.shape[1:]) for value in (self.tokens, self.text, self.mask)))

    def padded(self, length: int) -> Conditioning:
        """The text padded with masked zeros: both sides of the guidance need the same length."""
        extra = length - self.text.shape[1]
        text = nn.functional.pad(self.text, (0, 0, 0, extra))
        return Conditioning(self.tokens, text, nn.functional.pad(self.mask, (0, extra)))

    def filled(self, rows: int) -> Conditioning:
        return Conditioning(*(fill_rows(value, rows) for value in (self.tokens, self.text, self.mask)))


def text_length(tokens: int) -> int:
    """The next of a few lengths, powers of two from 16: labels of any batch have one of them."""
    return max(16, 1 << (tokens - 1).bit_length())


class AudioLDM2(LatentDiffusion):
    """Tokens and labels -> waveforms."""

    mel_shape, mel_seconds = (MEL_FRAMES, MEL_BINS), 0.01

    def __init__(
        self,
        unet: Any,
        vae: Any,
        vocoder: Any,
        scheduler: Any,
        flan_t5: FlanT5,
        load_negative: Callable[[], NegativeEncoder],
        fingerprint: str,
        negatives: Path | None = None,
        negative_fingerprint: Callable[[], str] = lambda: "",
    ):
        super().__init__(unet, vae, vocoder, scheduler, fingerprint, flan_t5)
        self.flan_t5, self.load_negative_branch = flan_t5, load_negative
        self.negatives, self._negative_fingerprint = negatives, negative_fingerprint
        self._negatives: dict[str, Conditioning] = {}

    def synthesise(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        samples: int,
        generation: GenerationConfig,
        rows: int = 0,
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        latents = self.denoise(
            Conditioning(tokens, *self.encode_labels(labels)),
            self.negative(generation.negative_prompt),
            noise,
            steps=generation.steps,
            guidance_scale=generation.guidance_scale,
            eta=generation.eta,
            seeds=seeds,
            scheduler_name=generation.scheduler,
            rows=rows,
            on_step=on_step,
        )
        return self.decode_on_device(latents, samples, generation.decode_batch)

    def unet_arguments(self, negative: Conditioning, positive: Conditioning) -> dict[str, Tensor]:
        """The text is padded, masked, to the longer of both; with :attr:`static_shapes` to its :func:`text_length`."""
        length = max(positive.text.shape[1], negative.text.shape[1])
        if self.static_shapes:
            length = text_length(length)
        sides = negative.padded(length), positive.padded(length)
        tokens, text, mask = (torch.cat([getattr(side, name) for side in sides]) for name in ("tokens", "text", "mask"))
        return {
            "encoder_hidden_states": tokens,
            "encoder_hidden_states_1": text,
            "encoder_attention_mask_1": mask,
        }

    def negative(self, prompt: str) -> Conditioning:
        """The negative condition, computed once a prompt: AudioLDM-2's own tokens and FLAN-T5.

        With a folder ``negatives`` it is kept there under the fingerprint of the weights that made it, and
        CLAP, projection and GPT-2 are not loaded again.
        """
        if prompt not in self._negatives:
            path = self._negative_path(prompt)
            kept = read_kept(path) if path is not None else None
            if kept is not None:
                stored = Conditioning(**kept)
            else:
                text, mask = self.flan_t5.encode([prompt])
                tokens = self.load_negative_branch().to(self.device).eval()(prompt, text, mask)
                stored = Conditioning(tokens, text, mask)
                if path is not None:
                    keep(path, vars(stored))
            self._negatives[prompt] = Conditioning(
                stored.tokens.to(self.device), stored.text.to(self.device), stored.mask.to(self.device)
            )
        return self._negatives[prompt]

    def _negative_path(self, prompt: str) -> Path | None:
        if self.negatives is None:
            return None
        made_by = f"{prompt}/{self.flan_t5.fingerprint}/{self._negative_fingerprint()}"
        return self.negatives / f"negative-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.safetensors"
