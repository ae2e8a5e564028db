"""ImageBind (huge), picture and sound: IB-score.

Girdhar et al. 2023, official repository facebookresearch/ImageBind: only the two modalities that the score needs.
As av-benchmark takes it. Sound: three windows of 2 s of the left channel. Picture: 4 frames at 0.5 a second, their
three pairs of neighbours, three crops each. Embeddings averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork
from evaluation.networks.transformer import MLP, parameter
from evaluation.pictures import PictureInput
from evaluation.sounds import SoundInput
from pipeline.encoders.timechat import CLIP_MEAN, CLIP_STD
from pipeline.frozen import load_own_keys
from pipeline.mel import KALDI, MelSpectrogram
from presets.official import OFFICIAL_FILES

_EMBEDDING, _VISION, _AUDIO = 1024, 1280, 768
_AUDIO_WINDOWS, _WINDOW_SECONDS = 3, 2.0
_CROPS, _PAIR = 3, 2
_BANK_FRAMES, _MEAN, _STD = 204, -4.268, 9.138


class Block(nn.Module):
    def __init__(self, width: int, heads: int, bias_kv: bool):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=bias_kv, batch_first=True)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm_1(hidden)
        hidden = hidden + self.attn(normed, normed, normed, need_weights=False)[0]
        return hidden + self.mlp(self.norm_2(hidden))


class Preprocessor(nn.Module):
    """Patches of a picture or a spectrogram with a class token and positions."""

    def __init__(self, stem: nn.Module, patches: int, width: int):
        super().__init__()
        self.cls_token = parameter(1, 1, width)
        self.rgbt_stem = stem
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": parameter(1, 1 + patches, width)})


class Trunk(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, norm_first: bool, bias_kv: bool):
        super().__init__()
        if norm_first:
            self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(width, eps=1e-6))
        self.blocks = nn.Sequential(*(Block(width, heads, bias_kv) for _ in range(depth)))


class AudioStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, _AUDIO, 16, 10, bias=False)
        self.norm_layer = nn.LayerNorm(_AUDIO)


class VisionStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Identity(), nn.Conv3d(3, _VISION, (2, 14, 14), (2, 14, 14), bias=False))


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Identity(), nn.Linear(width, _EMBEDDING, bias=False))


class ImageBind(FeatureNetwork):
    """Waveforms (B, samples) at 16 kHz -> (B, 1024); pictures (B, 12, 3, 224, 224) -> (B, 1024)."""

    name = "imagebind"
    files = OFFICIAL_FILES["imagebind"]
    caches = ("imagebind_audio.pth",)
    video_caches = ("imagebind_video.pth",)
    sound = SoundInput(left_only=True)
    picture = PictureInput(Fraction(1, 2), crops="three")
    depths = (32, 12)  # blocks of the picture's and of the sound's trunk

    def __init__(self) -> None:
        super().__init__()
        self.modality_preprocessors = nn.ModuleDict(
            {
                "vision": Preprocessor(VisionStem(), 16 * 16, _VISION),
                "audio": Preprocessor(AudioStem(), 12 * 19, _AUDIO),
            }
        )
        self.modality_trunks = nn.ModuleDict(
            {
                "vision": Trunk(_VISION, self.depths[0], 16, norm_first=True, bias_kv=False),
                "audio": Trunk(_AUDIO, self.depths[1], 12, norm_first=False, bias_kv=True),
            }
        )
        self.modality_heads = nn.ModuleDict({"vision": _head(_VISION), "audio": _head(_AUDIO)})
        # A constant of the file (20): it scales the sound's embedding and so does not change a cosine.
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.ModuleList([nn.Identity(), LogitScale()])})
        self.filter_bank = MelSpectrogram(KALDI)

    def load(self, paths: Mapping[str, Path]) -> None:
        others = ("text", "depth", "thermal", "imu")
        parts = ("preprocessors", "trunks", "heads", "postprocessors")
        ignored = tuple(f"modality_{part}.{modality}." for part in parts for modality in others)
        load_own_keys(self, paths["imagebind"], ignored)

    def _embed(self, modality: str, patches: Tensor) -> Tensor:
        """Patches (N, P, D) -> normalised embeddings (N, 1024)."""
        before: Any = self.modality_preprocessors[modality]
        trunk: Any = self.modality_trunks[modality]
        hidden = torch.cat([before.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        hidden = hidden + before.pos_embedding_helper["pos_embed"]
        if modality == "vision":
            hidden = trunk.pre_transformer_layer(hidden)
        return nn.functional.normalize(self.modality_heads[modality](trunk.blocks(hidden)[:, 0]), dim=-1)

    def bank(self, waveforms: Tensor) -> Tensor:
        """Filter banks of the three windows, normalised, (B * 3, 128, 204)."""
        length = round(_WINDOW_SECONDS * self.sound.rate)
        spare = waveforms.shape[1] - length
        starts = [spare * number // (_AUDIO_WINDOWS - 1) for number in range(_AUDIO_WINDOWS)]
        windows = torch.stack([waveforms[:, start : start + length] for start in starts], dim=1).flatten(0, 1)
        bank = self.filter_bank(windows - windows.mean(dim=1, keepdim=True))  # (B * 3, 198, 128)
        bank = nn.functional.pad(bank, (0, 0, 0, _BANK_FRAMES - bank.shape[1]))
        return ((bank - _MEAN) / _STD).transpose(1, 2)

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        stem: Any = self.modality_preprocessors["audio"].rgbt_stem
        patches = stem.proj(self.bank(waveforms)[:, None]).flatten(2).transpose(1, 2)
        embedded = self._embed("audio", stem.norm_layer(patches))
        scale: Any = self.modality_postprocessors["audio"]
        embedded = scale[1](embedded)
        return {"imagebind_audio.pth": {"": embedded.unflatten(0, (-1, _AUDIO_WINDOWS)).mean(dim=1)}}

    @torch.inference_mode()
    def encode_video(self, frames: Tensor) -> dict[str, dict[str, Tensor]]:
        """Crop after crop of 4 frames, uint8 (B, 12, 3, 224, 224) -> (B, 1024)."""
        mean = torch.tensor(CLIP_MEAN, device=frames.device).view(3, 1, 1)
        std = torch.tensor(CLIP_STD, device=frames.device).view(3, 1, 1)
        crops = ((frames.float() / 255 - mean) / std).unflatten(1, (_CROPS, -1))  # (B, 3, 4, 3, H, W)
        pairs = crops.unfold(2, _PAIR, 1).permute(0, 1, 2, 3, 6, 4, 5).flatten(1, 2)  # (B, 9, 3, 2, H, W)
        stem: Any = self.modality_preprocessors["vision"].rgbt_stem
        patches = stem.proj(pairs.flatten(0, 1)).flatten(2).transpose(1, 2)
        embedded = self._embed("vision", patches).unflatten(0, pairs.shape[:2])
        return {"imagebind_video.pth": {"": embedded.mean(dim=1)}}


class LogitScale(nn.Module):
    """The file's fixed factor on the sound's embedding, as its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.clip(self.log_logit_scale.exp(), max=100) * embedding
