"""Settings and official files of the paper's encoders.

Apart from their classes, so that a preset is read without loading torch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from presets.checks import STRICT, Count, Heads, Layers, Number, Width, check_heads
from presets.encoders import EncoderConfig
from presets.official import AUDIOLDM2, CheckpointFile

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models"


@dataclass(config=STRICT, frozen=True)
class CAVPConfig(EncoderConfig):
    """SlowOnly ResNet of Diff-Foley's video branch; the defaults are the published sizes."""

    encoder: ClassVar = "pipeline.encoders.cavp:CAVP"
    reads: ClassVar = "frames"
    files: ClassVar = (
        CheckpointFile(
            "cavp",
            "cavp_epoch66.ckpt",
            "https://huggingface.co/SimianLuo/Diff-Foley",
            "Apache-2.0 (code)",
            1.2,
            "hub:SimianLuo/Diff-Foley/diff_foley_ckpt/cavp_epoch66.ckpt",
        ),
    )

    width: Width = 64
    blocks: Annotated[list[Layers], Field(min_length=4, max_length=4)] = Field(default_factory=lambda: [3, 4, 6, 3])
    inflated: Annotated[list[bool], Field(min_length=4, max_length=4)] = Field(
        default_factory=lambda: [False, False, True, True]
    )
    embedding: Width = 512

    @property
    def dimension(self) -> int:
        return self.embedding


@dataclass(config=STRICT, frozen=True)
class TimeChatConfig(EncoderConfig):
    """ViT, time-stamped frame Q-Former and sliding video Q-Former; defaults are the published sizes."""

    encoder: ClassVar = "pipeline.encoders.timechat:TimeChat"
    reads: ClassVar = "frames"
    files: ClassVar = (
        CheckpointFile(
            "vit",
            "eva_vit_g.pth",
            f"{_LAVIS}/BLIP2/eva_vit_g.pth",
            "BSD-3-Clause (LAVIS), MIT (EVA)",
            2.0,
            f"{_LAVIS}/BLIP2/eva_vit_g.pth",
        ),
        CheckpointFile(
            "qformer",
            "instruct_blip_vicuna7b_trimmed.pth",
            f"{_LAVIS}/InstructBLIP/instruct_blip_vicuna7b_trimmed.pth",
            "BSD-3-Clause (LAVIS)",
            0.76,
            f"{_LAVIS}/InstructBLIP/instruct_blip_vicuna7b_trimmed.pth",
        ),
        CheckpointFile(
            "timechat",
            "timechat_7b.pth",
            "https://huggingface.co/ShuhuaiRen/TimeChat-7b",
            "BSD-3-Clause (TimeChat); LLaMA-2 terms for its language part, which is not used",
            0.3,
            "hub:ShuhuaiRen/TimeChat-7b/timechat_7b.pth",
        ),
    )

    image_size: Width = 224
    patch_size: Width = 14
    vit_width: Width = 1408
    vit_mlp: Width = 6144
    vit_layers: Layers = 39
    vit_heads: Heads = 16
    qformer_width: Width = 768
    qformer_mlp: Width = 3072
    qformer_heads: Heads = 12
    frame_qformer_layers: Layers = 12
    frame_queries: Width = 32
    video_qformer_layers: Layers = 2
    video_queries: Width = 32
    max_frames: Count = 96
    vocabulary: Count = 30_523
    llama_width: Width = 4096
    window: Count = 4
    stride: Count = 4
    queries: Literal["mean", "keep"] = "mean"
    space: Literal["qformer", "llama"] = "qformer"

    @model_validator(mode="after")
    def _fits(self) -> TimeChatConfig:
        check_heads("encoders.timechat.vit_", self.vit_width, self.vit_heads)
        check_heads("encoders.timechat.qformer_", self.qformer_width, self.qformer_heads)
        return self

    @property
    def dimension(self) -> int:
        return self.llama_width if self.space == "llama" else self.qformer_width


@dataclass(config=STRICT, frozen=True)
class AudioMAEConfig(EncoderConfig):
    """AudioMAE ViT encoder and AudioLDM-2's pooling; defaults are the published sizes."""

    encoder: ClassVar = "pipeline.encoders.audiomae:AudioMAE"
    reads: ClassVar = "waveform"
    files: ClassVar = (
        CheckpointFile(
            "audiomae",
            "audiomae_16k_128bins.ckpt",
            "https://zenodo.org/records/14342967 (inside checkpoints.tar of AudioLDM-training-finetuning)",
            "CC BY-NC 4.0 (AudioMAE)",
            0.45,
        ),
    )

    width: Width = 768
    mlp: Width = 3072
    layers: Layers = 12
    heads: Heads = 12
    patch_size: Width = 16
    frames: Count = 1024
    mel_bins: Width = 128
    contextual_layers: Layers = 3
    pool: Width = 8
    mean: Annotated[float, Number, Field(ge=-1000, le=1000)] = -4.2677393
    std: Annotated[float, Number, Field(gt=0, le=1000)] = 4.5689974

    @model_validator(mode="after")
    def _fits(self) -> AudioMAEConfig:
        check_heads("encoders.audiomae.", self.width, self.heads)
        if self.contextual_layers > self.layers:
            raise ValueError(
                f"encoders.audiomae.contextual_layers is {self.contextual_layers}, and must be at most "
                f"encoders.audiomae.layers ({self.layers})"
            )
        if self.pool * self.patch_size > min(self.frames, self.mel_bins):
            raise ValueError(
                f"encoders.audiomae.pool is {self.pool}, and must be at most the {min(self.frames, self.mel_bins)} "
                f"frames or mel_bins in patches of {self.patch_size}"
            )
        return self

    @property
    def dimension(self) -> int:
        return self.width

    @property
    def sample_rate(self) -> int:
        return 16_000  # of its filter bank


@dataclass(config=STRICT, frozen=True)
class FlanT5Config(EncoderConfig):
    """Label encoder: the encoder half of FLAN-T5 (AudioLDM-2's ``text_encoder_2``)."""

    encoder: ClassVar = "pipeline.encoders.flan_t5:FlanT5"
    reads: ClassVar = "label"
    gpus: ClassVar = 0
    files: ClassVar = (AUDIOLDM2.part("text_encoder_2", 1.4), AUDIOLDM2.part("tokenizer_2", 0.01))

    width: Width = 1024
    mlp: Width = 2816
    layers: Layers = 24
    heads: Heads = 16
    head_width: Width = 64
    vocabulary: Count = 32_128
    max_tokens: Count = 128

    @property
    def dimension(self) -> int:
        return self.width
