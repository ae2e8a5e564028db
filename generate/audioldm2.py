"""AudioLDM-2, conditioned on a mapper's tokens and FLAN-T5's text; :mod:`generate.audioldm2_loader` loads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generate.kept import kept_negative
from generate.latent_diffusion import LatentDiffusion, fill_rows
from generate.mel import MEL_BINS, MEL_FRAMES
from generate.negative import NegativeEncoder
from pipeline.encoders.flan_t5 import FlanT5


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

    def condition(self, tokens: Tensor, labels: Sequence[str]) -> Conditioning:
        return Conditioning(tokens, *self.encode_labels(labels))

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
            made_by = lambda: f"{self.flan_t5.fingerprint}/{self._negative_fingerprint()}"  # noqa: E731
            stored = kept_negative(self.negatives, prompt, made_by, lambda: self._make_negative(prompt))
            self._negatives[prompt] = Conditioning(**{name: value.to(self.device) for name, value in stored.items()})
        return self._negatives[prompt]

    def _make_negative(self, prompt: str) -> dict[str, Tensor]:
        text, mask = self.flan_t5.encode([prompt])
        tokens = self.load_negative_branch().to(self.device).eval()(prompt, text, mask)
        return {"tokens": tokens, "text": text, "mask": mask}
