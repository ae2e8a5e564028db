"""Settings and official files of the encoders of V2A-Mapper (Wang et al. 2024), CLIP and CLAP, both contrastive.

Apart from their classes, so that a preset is read without loading torch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from presets.checks import STRICT, Count, Heads, Layers, Number, Seconds, Width, check_heads
from presets.encoders import EncoderConfig
from presets.official import LAION_CLAP, Repository

_CLIP = Repository("clip", "openai/clip-vit-base-patch32", "MIT (CLIP)", "clip-vit-base-patch32")
_Hertz = Annotated[float, Number, Field(ge=0, le=1_000_000)]


@dataclass(config=STRICT, frozen=True)
class CLIPConfig(EncoderConfig):
    """CLIP's picture half; the defaults are ViT-B/32."""

    encoder: ClassVar = "pipeline.encoders.clip:CLIP"
    reads: ClassVar = "frames"
    files: ClassVar = (_CLIP.part("", 0.6, "clip"),)

    image_size: Width = 224
    patch_size: Width = 32
    width: Width = 768
    mlp: Width = 3072
    layers: Layers = 12
    heads: Heads = 12
    embedding: Width = 512
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

    @model_validator(mode="after")
    def _fits(self) -> CLIPConfig:
        check_heads("encoders.clip.", self.width, self.heads)
        if self.image_size < self.patch_size:
            raise ValueError(
                f"encoders.clip.patch_size is {self.patch_size}, and must be at most encoders.clip.image_size "
                f"({self.image_size})"
            )
        return self

    @property
    def dimension(self) -> int:
        return self.embedding


@dataclass(config=STRICT, frozen=True)
class CLAPConfig(EncoderConfig):
    """CLAP's sound half, HTS-AT on a log-mel spectrogram; the defaults are LAION's ``clap-htsat-unfused``.

    ``spec_size``: height and width of the square that the spectrogram is folded into. ``width``: of the first stage;
    each following one has twice its width and half its height. ``fft`` and ``hop`` are in samples, ``lowest`` and
    ``highest`` in Hz.
    """

    encoder: ClassVar = "pipeline.encoders.clap:CLAP"
    reads: ClassVar = "waveform"
    files: ClassVar = (LAION_CLAP.part("", 0.6, "clap"),)

    sample_rate: Annotated[int, Number, Field(ge=1000, le=1_000_000)] = 48_000
    seconds: Seconds = 10.0
    fft: Count = 1024
    hop: Count = 480
    mel_bins: Width = 64
    lowest: _Hertz = 50.0
    highest: _Hertz = 14_000.0
    spec_size: Width = 256
    patch_size: Width = 4
    window: Width = 8
    width: Width = 96
    layers: Annotated[list[Layers], Field(min_length=1, max_length=8)] = Field(default_factory=lambda: [2, 2, 6, 2])
    heads: Annotated[list[Heads], Field(min_length=1, max_length=8)] = Field(default_factory=lambda: [4, 8, 16, 32])
    embedding: Width = 512

    @model_validator(mode="after")
    def _fits(self) -> CLAPConfig:
        place = "encoders.clap."
        if len(self.layers) != len(self.heads):
            raise ValueError(f"{place}layers and {place}heads are {len(self.layers)} and {len(self.heads)} numbers, "
                             f"and must be one each for every stage")  # fmt: skip
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise ValueError(
                    f"{place}heads[{stage}] is {heads}, and must divide the width of its stage "
                    f"({self.width * 2**stage}: {place}width doubles from stage to stage)"
                )
        if not self.lowest < self.highest <= self.sample_rate / 2:
            raise ValueError(
                f"{place}lowest is {self.lowest:g} and {place}highest {self.highest:g} Hz, and they must be in order "
                f"and below half of {place}sample_rate ({self.sample_rate})"
            )
        if self.samples <= self.fft:
            raise ValueError(f"{place}fft is {self.fft}, and must be below {place}seconds in samples ({self.samples})")
        folds, smallest = self.spec_size // self.mel_bins, self.patch_size * 2 ** (len(self.layers) - 1)
        if self.spec_size % self.mel_bins or not folds or self.spec_size % (smallest * folds):
            raise ValueError(
                f"{place}spec_size is {self.spec_size}, and must be a multiple of {place}mel_bins ({self.mel_bins}) "
                f"and of {smallest} (a patch of the last stage) times their ratio"
            )
        if self.spec_size * folds < self.steps:
            raise ValueError(
                f"{place}spec_size is {self.spec_size}, which holds {self.spec_size * folds} steps of {place}mel_bins "
                f"({self.mel_bins}), and must hold the {self.steps} of {place}seconds in {place}hop"
            )
        return self

    @property
    def samples(self) -> int:
        """Of the waveform that a vector is made of."""
        return round(self.seconds * self.sample_rate)

    @property
    def steps(self) -> int:
        """Of its spectrogram."""
        return 1 + self.samples // self.hop

    @property
    def dimension(self) -> int:
        return self.embedding
