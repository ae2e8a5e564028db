"""PaSST (passt_s_swa_p16_128_ap476): FD_PaSST and KL_PaSST.

Koutini et al. 2022, official repositories kkoutini/PaSST and kkoutini/passt_hear21. At 32 kHz, the clip padded with
silence to 10 s, without patchout.

Not transformers' ASTModel: its one positional embedding and its split query, key and value are not the file's, and
mapping them would take more than the twelve blocks that Synchformer shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork
from evaluation.networks.transformer import Block, parameter
from evaluation.sounds import SoundInput
from pipeline.frozen import load_own_keys
from pipeline.mel import MelSettings, MelSpectrogram
from presets.official import OFFICIAL_FILES

_MEL = MelSettings(
    rate=32_000,
    fft=1024,
    window=800,
    hop=320,
    bins=128,
    low=0,
    high=15_000,
    scale="kaldi",
    triangles_in_mel=True,
    periodic=False,
    edge=512,
)
_SAMPLES = 320_000  # 10 s
_WIDTH, _PREEMPHASIS = 768, 0.97


class PaSST(FeatureNetwork):
    """Waveforms (B, 256000) at 32 kHz -> features (B, 768) and logits (B, 527)."""

    name = "passt"
    files = OFFICIAL_FILES["passt"]
    caches = ("passt_features_embed.pth", "passt_logits.pth")
    sound = SoundInput(rate=32_000, without_mean=True)

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(_MEL)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, _WIDTH, 16, 10)})
        self.cls_token, self.dist_token = parameter(1, 1, _WIDTH), parameter(1, 1, _WIDTH)
        self.new_pos_embed = parameter(1, 2, _WIDTH)
        self.freq_new_pos_embed = parameter(1, _WIDTH, 12, 1)
        self.time_new_pos_embed = parameter(1, _WIDTH, 1, 99)
        self.blocks = nn.Sequential(*(Block(_WIDTH, 12) for _ in range(12)))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 527))

    def load(self, paths: Mapping[str, Path]) -> None:
        load_own_keys(self, paths["passt"], ignored=("head_dist.",))  # of training: outputs are averaged before

    def bank(self, waveforms: Tensor) -> Tensor:
        """The normalised log-mel spectrogram of 10 s, (B, 128, T)."""
        padded = nn.functional.pad(waveforms[:, :_SAMPLES], (0, max(_SAMPLES - waveforms.shape[1], 0)))
        emphasised = padded[:, 1:] - _PREEMPHASIS * padded[:, :-1]
        return (torch.log(self.mel(emphasised).mT + 1e-5) + 4.5) / 5

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        patches = self.patch_embed["proj"](self.bank(waveforms)[:, None])  # (B, 768, 12, 99)
        patches = patches + self.time_new_pos_embed[..., : patches.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        hidden = torch.cat([tokens.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        features = self.norm(self.blocks(hidden))[:, :2].mean(dim=1)
        return {"passt_features_embed.pth": {"": features}, "passt_logits.pth": {"": self.head(features)}}
