"""What Table 1 says of a mapper besides its figures: its trained parameters, and the sound that it was trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from manifests.manifest import Manifest
from trainer.mapper import MapperSpec
from trainer.registry import build_mapper


@dataclass(frozen=True)
class Fitted:
    """A mapper as a row of Table 1.

    ``kind``: as in ``mapper.kind``. ``parameters``: those that are trained. ``hours``: :attr:`MapperSpec.hours`.
    """

    kind: str
    parameters: int
    hours: float | None
    epochs: int | None = None


def fitted(spec: MapperSpec) -> Fitted:
    """Of a saved mapper, by its ``config.json``: no weight is loaded."""
    with torch.device("meta"):
        mapper = build_mapper(spec)
    parameters = sum(parameter.numel() for parameter in mapper.parameters() if parameter.requires_grad)
    return Fitted(spec.mapper.kind, parameters, spec.hours, spec.provenance.get("epochs"))


def seconds_of_sound(manifest: Manifest | None, clip_ids: Collection[str], window: float) -> float:
    """Of the clips, each as long as its file, at most ``window``, and that where nobody looked at the file."""
    known = {clip.clip_id: clip.duration_s for clip in manifest.clips} if manifest else {}
    return float(sum(min(known.get(clip_id) or window, window) for clip_id in clip_ids))
