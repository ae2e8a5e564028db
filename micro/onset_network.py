"""Onsets as a feature: what stands in for Synchformer in the rendered world, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evaluation.networks.base import FeatureNetwork
from micro.onsets import find_onsets


class Onsets(FeatureNetwork):
    """Waveforms (B, 128000) at 16 kHz -> onset times in seconds, (B, 64), the rest of a row -1."""

    name = "onsets"
    files = ()
    caches = ("onsets.pth",)
    most = 64
    fingerprint = "micro.onsets"

    def load(self, paths: Mapping[str, Path]) -> None:
        """There is nothing to load."""

    def encode(self, waveforms: Tensor) -> dict[str, dict[str, Tensor]]:
        rows = torch.full((len(waveforms), self.most), -1.0)
        for row, waveform in enumerate(waveforms.cpu().numpy()):
            found = torch.from_numpy(find_onsets(waveform)[: self.most]).float()
            rows[row, : len(found)] = found
        return {"onsets.pth": {"": rows}}
