"""Pooled AudioMAE: the audio target C of the mapper, as AudioLDM-2 computes it.

Waveform -> Kaldi log-mel filter bank -> AudioMAE ViT-B/16 -> mean of the last blocks -> 8x8 pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from pipeline.encoders.base import Encoder
from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from pipeline.encoders.settings import AudioMAEConfig
from pipeline.mel import KALDI, MelSpectrogram


def normalise_waveform(waveform: Tensor, samples: int) -> Tensor:
    """(B, n) -> (B, samples): no mean, peak 0.5, zeros at the end (AudioLDM-2's loader)."""
    waveform = waveform - waveform.mean(dim=-1, keepdim=True)
    waveform = 0.5 * waveform / (waveform.abs().amax(dim=-1, keepdim=True) + 1e-8)
    return nn.functional.pad(waveform[:, :samples], (0, max(samples - waveform.shape[-1], 0)))


class AudioMAE(Encoder):
    """Waveform -> 8 vectors, one every 1.28 s."""

    name = "audiomae"
    full_precision = ("vit.embeddings",)  # the residual path would follow their dtype
    config: AudioMAEConfig

    def __init__(self, config: AudioMAEConfig):
        super().__init__(config)
        self.filter_bank = MelSpectrogram(replace(KALDI, bins=config.mel_bins))
        self.vit = ViTModel(
            ViTConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=(config.frames, config.mel_bins),
                patch_size=config.patch_size,
                num_channels=1,
                layer_norm_eps=1e-6,
                hidden_act="gelu",
            ),
            add_pooling_layer=False,
        )

    @property
    def samples(self) -> int:
        return self.config.frames * KALDI.hop

    def rules(self) -> Iterator[Rule]:
        for name, tensor in self.state_dict().items():
            shape = tuple(tensor.shape)
            key = name.removeprefix("vit.")
            for ours, official in (
                ("embeddings.cls_token", "cls_token"),
                ("embeddings.position_embeddings", "pos_embed"),
                ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
                ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
                ("layernorm.", "norm."),
                ("layers.", "blocks."),
                ("attention.o_proj", "attn.proj"),
            ):
                key = key.replace(ours, official)
            for part, projection in enumerate(("q_proj", "k_proj", "v_proj")):
                if f"attention.{projection}." in key:
                    key = key.replace(f"attention.{projection}", "attn.qkv")
                    whole = (3 * shape[0], *shape[1:])
                    yield Rule(name, (key,), (whole,), partial(_third, part))
                    break
            else:
                yield Rule(name, (key,), (shape,))

    def load(self, paths: Mapping[str, Path]) -> None:
        path = paths["audiomae"]
        owned = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
        load_checked(self, self.rules(), read_state(path), files=[path], owned=lambda key: key.startswith(owned))

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Waveform (B, samples), already 10.24 s -> normalised filter bank (B, 1024, 128).

        Rows past the last window are zeros *before* normalising, as AudioLDM-2 pads.
        """
        bank = self.filter_bank(waveform - waveform.mean(dim=-1, keepdim=True))
        bank = nn.functional.pad(bank[:, : self.config.frames], (0, 0, 0, max(self.config.frames - bank.shape[1], 0)))
        return (bank - self.config.mean) / (2 * self.config.std)

    def contextual(self, spectrogram: Tensor) -> Tensor:
        """(B, 1024, 128) -> (B, 1 + 512, 768): mean of the last blocks, each after the final norm."""
        blocks: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out: blocks.append(out[0] if isinstance(out, tuple) else out))
            for layer in self.vit.layers[-self.config.contextual_layers :]
        ]
        try:
            self.vit(spectrogram[:, None])
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([self.vit.layernorm(block).float() for block in blocks]).mean(dim=0)

    def pool(self, contextual: Tensor) -> Tensor:
        """(B, 1 + time * frequency, D) -> (B, 8, D): (average + max) / 2 over 8x8 patches."""
        patches = contextual[:, 1:].transpose(1, 2)
        grid = patches.unflatten(2, (self.config.frames // self.config.patch_size, -1))
        size = self.config.pool
        pooled = (nn.functional.avg_pool2d(grid, size) + nn.functional.max_pool2d(grid, size)) / 2
        return pooled.flatten(2).transpose(1, 2)

    @torch.inference_mode()
    def encode(self, waveform: Tensor | np.ndarray) -> Tensor:
        """Waveform (B, samples), float at 16 kHz -> C, (B, 8, 768).

        10 s are padded to 10.24 s. Source: AudioLDM-2's ``AudioMAEConditionCTPoolRand`` with
        ``time_pooling = freq_pooling = 8``; paper section 3.3. Raises ValueError for another shape.
        """
        tensor = torch.as_tensor(waveform)
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise ValueError(f"waveform must be float (B, samples), not {tensor.dtype} {tuple(tensor.shape)}")
        tensor = normalise_waveform(tensor.to(self.device, torch.float32), self.samples)
        return self.encode_normalised(tensor)

    @torch.inference_mode()
    def encode_normalised(self, waveform: Tensor) -> Tensor:
        """As :meth:`encode`, for a waveform that has been through :func:`normalise_waveform`."""
        spectrogram = self.spectrogram(waveform)
        with self.autocast():
            contextual = self.contextual(spectrogram)
        return self.pool(contextual)


def _third(part: int, tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].chunk(3, dim=0)[part]
