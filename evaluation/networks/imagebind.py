"""ImageBind (huge), picture and sound: IB-score.

Girdhar et al. 2023, official repository facebookresearch/ImageBind: only the two modalities that the score needs.
Sound: three windows of 2 s; picture: five windows of 2 s, two frames each, three crops each; embeddings averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork, load_own_keys
from evaluation.networks.transformer import MLP, parameter
from evaluation.pictures import crop, frames_at, seconds_of, short_side
from pipeline.encoders.audiomae import KaldiFilterBank
from pipeline.encoders.checkpoints import CheckpointFile
from pipeline.encoders.timechat import CLIP_MEAN, CLIP_STD

_EMBEDDING, _VISION, _AUDIO = 1024, 1280, 768
_AUDIO_WINDOWS, _VIDEO_WINDOWS, _WINDOW_SECONDS = 3, 5, 2.0
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
    """Waveforms (B, samples) at 16 kHz -> (B, 1024); picture windows (B, 30, 3, 224, 224) -> (B, 1024)."""

    name = "imagebind"
    files = (
        CheckpointFile(
            "imagebind",
            "imagebind_huge.pth",
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
            "CC BY-NC-SA 4.0",
            4.8,
        ),
    )
    caches = ("imagebind_audio.pth",)
    video_caches = ("imagebind_video.pth",)

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
                "vision": Trunk(_VISION, 32, 16, norm_first=True, bias_kv=False),
                "audio": Trunk(_AUDIO, 12, 12, norm_first=False, bias_kv=True),
            }
        )
        self.modality_heads = nn.ModuleDict({"vision": _head(_VISION), "audio": _head(_AUDIO)})
        # A constant of the file (20): it scales the sound's embedding and so does not change a cosine.
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.ModuleList([nn.Identity(), LogitScale()])})
        self.filter_bank = KaldiFilterBank(128)

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

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        length = round(_WINDOW_SECONDS * self.rate)
        spare = waveforms.shape[1] - length
        starts = [spare * number // (_AUDIO_WINDOWS - 1) for number in range(_AUDIO_WINDOWS)]
        windows = torch.stack([waveforms[:, start : start + length] for start in starts], dim=1).flatten(0, 1)
        bank = self.filter_bank(windows - windows.mean(dim=1, keepdim=True))  # (B * 3, 198, 128)
        bank = nn.functional.pad(bank, (0, 0, 0, _BANK_FRAMES - bank.shape[1]))
        stem: Any = self.modality_preprocessors["audio"].rgbt_stem
        patches = stem.proj(((bank - _MEAN) / _STD).transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        embedded = self._embed("audio", stem.norm_layer(patches))
        scale: Any = self.modality_postprocessors["audio"]
        embedded = scale[1](embedded)
        return {"imagebind_audio.pth": {"": embedded.unflatten(0, (-1, _AUDIO_WINDOWS)).mean(dim=1)}}

    def read_frames(self, path: Path) -> Tensor:
        """First and last frame of each of five windows, in three crops: (30, 3, 224, 224)."""
        spare = max(seconds_of(path) - _WINDOW_SECONDS, 0.0)
        starts = [spare * number / (_VIDEO_WINDOWS - 1) for number in range(_VIDEO_WINDOWS)]
        times = [time for start in starts for time in (start, start + _WINDOW_SECONDS - 1e-3)]
        pictures = short_side(frames_at(path, times), "bilinear")
        return torch.cat([crop(pictures, where) for where in (0.0, 0.5, 1.0)])

    @torch.inference_mode()
    def encode_video(self, frames: Tensor) -> dict[str, dict[str, Tensor]]:
        """What ``read_frames`` gives of each clip, uint8 (B, 30, 3, 224, 224) -> (B, 1024)."""
        mean = torch.tensor(CLIP_MEAN, device=frames.device).view(3, 1, 1)
        std = torch.tensor(CLIP_STD, device=frames.device).view(3, 1, 1)
        pairs = ((frames.float() / 255 - mean) / std).unflatten(1, (-1, 2)).transpose(2, 3)  # (B, 15, 3, 2, H, W)
        stem: Any = self.modality_preprocessors["vision"].rgbt_stem
        embedded = []
        for clip in pairs:
            patches = stem.proj(clip).flatten(2).transpose(1, 2)
            embedded.append(self._embed("vision", patches).mean(dim=0))
        return {"imagebind_video.pth": {"": torch.stack(embedded)}}


class LogitScale(nn.Module):
    """The file's fixed factor on the sound's embedding, as its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.clip(self.log_logit_scale.exp(), max=100) * embedding
