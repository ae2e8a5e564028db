"""Time-aligned fusion of visual features (paper section 3.2.2, Algorithm 1, Table 3).

A new fusion is one class and one line in :data:`presets.mappers.FUSIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from presets.mappers import FUSIONS
from trainer.mapper import MapperSpec


def upsample(features: Tensor, length: int) -> Tensor:
    """(B, T, D) -> (B, length, D) by repeating steps (nearest), so that both streams share a clock."""
    steps = features.shape[1]
    if steps == length:
        return features
    index = torch.arange(length, device=features.device) * steps // length
    return features[:, index]


class Fusion(nn.Module):
    """Visual streams, by encoder name, -> V_e (B, T_e, width).

    ``dimensions`` maps each encoder used to its feature width, ``lengths`` to its steps, both in the
    order in which the streams are concatenated.
    """

    def __init__(self, dimensions: Mapping[str, int], lengths: Mapping[str, int], width: int):
        super().__init__()
        self.names = list(dimensions)
        self.lengths = dict(lengths)
        self.width = width
        self.standardise = False

    @property
    def length(self) -> int:
        """Steps of V_e: those of the finest stream where streams are aligned."""
        return max(self.lengths.values())

    def fuse(self, visual: Mapping[str, Tensor]) -> Tensor:
        """Cached features (B, T, D) by encoder name, more than are fused perhaps -> V_e."""
        streams = {name: visual[name].float() for name in self.names}
        if self.standardise:
            streams = {name: nn.functional.rms_norm(x, x.shape[-1:]) for name, x in streams.items()}
        fused: Tensor = self(streams)
        return fused


class ConcatFusion(Fusion):
    """Upsample to the finest stream, concatenate channels, project: the paper's choice."""

    def __init__(self, dimensions: Mapping[str, int], lengths: Mapping[str, int], width: int):
        super().__init__(dimensions, lengths, width)
        self.projection = nn.Linear(sum(dimensions.values()), width)

    def forward(self, streams: Mapping[str, Tensor]) -> Tensor:
        aligned = [upsample(streams[name], self.length) for name in self.names]
        return self.projection(torch.cat(aligned, dim=-1))


class _ProjectedFusion(Fusion):
    def __init__(self, dimensions: Mapping[str, int], lengths: Mapping[str, int], width: int):
        super().__init__(dimensions, lengths, width)
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in dimensions.items()})


class AddFusion(_ProjectedFusion):
    """Project each stream to the mapper's width, upsample, sum."""

    def forward(self, streams: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([upsample(self.projections[name](streams[name]), self.length) for name in self.names]).sum(
            dim=0
        )


class CatFusion(_ProjectedFusion):
    """Project each stream and put one after the other in time: no alignment (Table 3, "cat")."""

    @property
    def length(self) -> int:
        return sum(self.lengths.values())

    def forward(self, streams: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.projections[name](streams[name]) for name in self.names], dim=1)


def build_fusion(spec: MapperSpec) -> Fusion:
    """The fusion that a mapper's settings name, for its streams, with fresh weights."""
    config = spec.mapper
    dimensions = {name: spec.dimensions[name] for name in config.encoders}
    lengths = {name: spec.lengths[name] for name in config.encoders}
    fusion: Fusion = FUSIONS[config.fusion](dimensions, lengths, spec.target[1])
    fusion.standardise = config.standardise
    return fusion
