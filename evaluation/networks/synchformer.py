"""Synchformer: DeSync.

Iashin et al. 2024, official repository v-iashin/Synchformer; as av-benchmark uses it: segments of 0.64 s every
0.32 s of sound (16 kHz) and picture (25 frames a second, 16 in a segment), features cached before the projections,
offsets told for the first and the last 14 segments. Modules are named as the official file names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from evaluation.networks.base import FeatureNetwork
from evaluation.networks.transformer import MLP, Attention, parameter
from evaluation.pictures import PictureInput
from pipeline.frozen import load_own_keys
from pipeline.mel import MelSettings, MelSpectrogram
from presets.official import OFFICIAL_FILES

_WIDTH, _HEADS = 768, 12
_MEL = MelSettings(rate=16_000, fft=1024, window=400, hop=160, bins=128, low=0, high=8000, scale="htk", edge=512)
_SEGMENT, _STEP = 10_240, 5_120  # samples: 0.64 s, 0.32 s
_SEGMENT_FRAMES, _STEP_FRAMES = 16, 8
_SPECTROGRAM_FRAMES, _MEAN, _STD = 66, -4.2677393, 4.5689974
_SEGMENTS = 24  # of picture that are encoded together: a clip; memory grows with it
_COMPARED = 14  # segments


class Aggregate(nn.TransformerEncoderLayer):
    """A transformer layer with a class token that sums up (N, S, D) as (N, D)."""

    def __init__(self) -> None:
        super().__init__(
            _WIDTH,
            _HEADS,
            4 * _WIDTH,
            dropout=0.0,
            activation=nn.functional.gelu,
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        self.cls_token = parameter(1, 1, _WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([self.cls_token.expand(len(hidden), -1, -1), hidden], dim=1))[:, 0]


class DividedAttention(Attention):
    """Attention over time or over space; the class token attends to all and is seen by all."""

    def forward(self, hidden: Tensor, frames: int = 8, over_time: bool = False) -> Tensor:
        query, key, value = self.split(hidden)  # (B, H, 1 + T * P, d)
        whole = nn.functional.scaled_dot_product_attention(query[:, :, :1], key, value)

        def grouped(x: Tensor) -> Tensor:
            parts = x[:, :, 1:].unflatten(2, (frames, -1))  # (B, H, T, P, d)
            return parts.transpose(2, 3) if over_time else parts

        def with_class(x: Tensor) -> Tensor:
            parts = grouped(x)
            return torch.cat([x[:, :, None, :1].expand(-1, -1, parts.shape[2], -1, -1), parts], dim=3)

        out = nn.functional.scaled_dot_product_attention(grouped(query), with_class(key), with_class(value))
        out = (out.transpose(2, 3) if over_time else out).flatten(2, 3)
        return self.join(torch.cat([whole, out], dim=2))


class DividedBlock(nn.Module):
    """TimeSformer's block: time, then space, then MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(_WIDTH, eps=1e-6) for _ in range(3))
        self.attn, self.timeattn = DividedAttention(_WIDTH, _HEADS), DividedAttention(_WIDTH, _HEADS)
        self.mlp = MLP(_WIDTH)

    def forward(self, hidden: Tensor, frames: int) -> Tensor:
        hidden = hidden + self.timeattn(self.norm3(hidden), frames, over_time=True)
        hidden = hidden + self.attn(self.norm1(hidden), frames)
        return hidden + self.mlp(self.norm2(hidden))


class Motionformer(nn.Module):
    """Segments (N, 3, 16, 224, 224) in [-1, 1] -> (N, 8, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, _WIDTH, 16, 16)})  # in the file, never used
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, _WIDTH, (2, 16, 16), (2, 16, 16))})
        self.cls_token, self.pos_embed = parameter(1, 1, _WIDTH), parameter(1, 197, _WIDTH)
        self.temp_embed = parameter(1, 8, _WIDTH)
        self.blocks = nn.ModuleList(DividedBlock() for _ in range(12))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-6)
        self.spatial_attn_agg = Aggregate()

    def forward(self, segments: Tensor) -> Tensor:
        patches = self.patch_embed_3d["proj"](segments)  # (N, 768, 8, 14, 14)
        frames = patches.shape[2]
        hidden = patches.flatten(3).permute(0, 2, 3, 1)  # (N, 8, 196, 768)
        hidden = hidden + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(hidden), -1, -1)
        hidden = torch.cat([first, hidden.flatten(1, 2)], dim=1)
        for block in self.blocks:
            hidden = block(hidden, frames)
        hidden = self.norm(hidden[:, 1:]).unflatten(1, (frames, -1))
        return self.spatial_attn_agg(hidden.flatten(0, 1)).unflatten(0, (-1, frames))


def _linear(*names: str) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(_WIDTH, _WIDTH) for name in names})


class ASTLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"attention": _linear("query", "key", "value"), "output": _linear("dense")})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(_WIDTH, 4 * _WIDTH)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * _WIDTH, _WIDTH)})
        self.layernorm_before = nn.LayerNorm(_WIDTH, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, hidden: Tensor) -> Tensor:
        inner, outer = self.attention["attention"], self.attention["output"]
        hidden = hidden + outer["dense"](_attend(inner, self.layernorm_before(hidden), _HEADS))  # type: ignore[index]
        return hidden + self.output["dense"](
            nn.functional.gelu(self.intermediate["dense"](self.layernorm_after(hidden)))
        )


def _attend(parts: nn.Module, hidden: Tensor, heads: int) -> Tensor:
    """Attention whose projections are three layers: ``query``, ``key``, ``value``."""
    query, key, value = (
        getattr(parts, name)(hidden).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
    )
    return nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class ASTEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.distillation_token = parameter(1, 1, _WIDTH), parameter(1, 1, _WIDTH)
        self.position_embeddings = parameter(1, 2 + 12 * 6, _WIDTH)
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, _WIDTH, 16, 10)})

    def forward(self, bank: Tensor) -> Tensor:
        patches = self.patch_embeddings["projection"](bank[:, None]).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token, self.distillation_token], dim=1).expand(len(bank), -1, -1)
        return torch.cat([tokens, patches], dim=1) + self.position_embeddings


class AudioExtractor(nn.Module):
    """Spectrograms (N, 128, 66) -> (N, 6, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.ast = nn.ModuleDict(
            {
                "embeddings": ASTEmbeddings(),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(ASTLayer() for _ in range(12))}),
                "layernorm": nn.LayerNorm(_WIDTH, eps=1e-12),
            }
        )
        self.freq_attn_agg = Aggregate()

    def forward(self, bank: Tensor) -> Tensor:
        hidden = self.ast["embeddings"](bank)
        for layer in self.ast["encoder"]["layer"]:  # type: ignore[index]
            hidden = layer(hidden)
        hidden = self.ast["layernorm"](hidden)[:, 2:].unflatten(1, (12, 6)).transpose(1, 2)  # (N, 6, 12, 768)
        return self.freq_attn_agg(hidden.flatten(0, 1)).unflatten(0, (-1, 6))


class SyncBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.attn = _linear("key", "query", "value", "proj")
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn["proj"](_attend(self.attn, self.ln1(hidden), 8))
        return hidden + self.mlp(self.ln2(hidden))


class PositionEmbedding(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.pos_emb = parameter(1, length, _WIDTH)


class GlobalTransformer(nn.Module):
    """Picture (N, 112, 768) and sound (N, 84, 768) -> logits over 21 offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.OFF_tok, self.MOD_tok = parameter(1, 1, _WIDTH), parameter(1, 1, _WIDTH)
        self.pos_emb_cfg = PositionEmbedding(2 + _COMPARED * (8 + 6))
        self.blocks = nn.Sequential(*(SyncBlock() for _ in range(3)))
        self.ln_f, self.off_head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 21)

    def forward(self, seen: Tensor, heard: Tensor) -> Tensor:
        off, mod = (token.expand(len(seen), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        hidden = torch.cat([off, self.vis_in_lnorm(seen), mod, self.aud_in_lnorm(heard)], dim=1)
        return self.off_head(self.ln_f(self.blocks(hidden + self.pos_emb_cfg.pos_emb))[:, 0])


class Synchformer(FeatureNetwork):
    """Waveforms (B, 128000) at 16 kHz -> (B, 24, 6, 768); pictures (B, 200, 3, 224, 224) -> (B, 24, 8, 768)."""

    name = "synchformer"
    files = OFFICIAL_FILES["synchformer"]
    caches = ("synchformer_audio.pth",)
    video_caches = ("synchformer_video.pth",)
    picture = PictureInput(Fraction(25))
    scores_itself = True
    batch = (4, 16)  # of 24 segments each

    def __init__(self) -> None:
        super().__init__()
        self.vfeat_extractor, self.afeat_extractor = Motionformer(), AudioExtractor()
        self.vproj, self.aproj = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.transformer = GlobalTransformer()
        self.mel = MelSpectrogram(_MEL)

    def load(self, paths: Mapping[str, Path]) -> None:
        load_own_keys(self, paths["synchformer"])

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        segments = waveforms.unfold(1, _SEGMENT, _STEP)  # (B, S, 10240)
        logs = torch.log(self.mel(segments.flatten(0, 1)).mT + 1e-6)
        logs = nn.functional.pad(logs, (0, _SPECTROGRAM_FRAMES - logs.shape[-1]))
        features = self.afeat_extractor((logs - _MEAN) / (2 * _STD))
        return {"synchformer_audio.pth": {"": features.unflatten(0, segments.shape[:2])}}

    @staticmethod
    def scaled(frames: Tensor) -> Tensor:
        """uint8 -> float32 in [-1, 1]."""
        return frames.float() / 127.5 - 1

    @torch.inference_mode()
    def encode_video(self, frames: Tensor) -> dict[str, dict[str, Tensor]]:
        segments = self.scaled(frames).unfold(1, _SEGMENT_FRAMES, _STEP_FRAMES)  # (B, S, 3, H, W, 16)
        segments = segments.permute(0, 1, 2, 5, 3, 4)
        features = torch.cat([self.vfeat_extractor(part) for part in segments.flatten(0, 1).split(_SEGMENTS)])
        return {"synchformer_video.pth": {"": features.unflatten(0, segments.shape[:2])}}

    @torch.inference_mode()
    def compare(self, seen: Tensor, heard: Tensor) -> Tensor:
        """Cached features (B, S, 8, 768) and (B, S, 6, 768) -> logits (B, 2, 21) of first and last 14 segments."""
        sides = []
        for part in (slice(None, _COMPARED), slice(-_COMPARED, None)):
            seen_part, heard_part = self.vproj(seen[:, part]).flatten(1, 2), self.aproj(heard[:, part]).flatten(1, 2)
            sides.append(self.transformer(seen_part, heard_part))
        return torch.stack(sides, dim=1)
