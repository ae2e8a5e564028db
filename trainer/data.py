"""The joined cache as tensors on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.cache import Joined

TARGET = "audiomae"


@dataclass(frozen=True)
class TensorData:
    """One tensor a stage, (clips, steps, width), in the cache's own precision; rows are taken by index."""

    joined: Joined
    arrays: Mapping[str, Tensor]

    @staticmethod
    def of(joined: Joined, device: str | torch.device) -> TensorData:
        return TensorData(joined, {name: torch.from_numpy(a).to(device) for name, a in joined.arrays.items()})

    def indices(self, split: str) -> Tensor:
        return torch.tensor([row for row, name in enumerate(self.joined.splits) if name == split], dtype=torch.long)

    def take(self, rows: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        """The chosen rows of some stages, float32."""
        return {name: self.arrays[name][rows.to(self.arrays[name].device)].float() for name in stages}
