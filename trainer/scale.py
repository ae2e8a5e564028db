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

    ``kind``: as in ``mapper.kind``. ``parameters``: those that are trained. ``hours``: the paper's training scale,
    "the product of the total audio time per epoch and the number of training epochs" (section 4.2.1), with that of a
    mapper that it went on from; None where a mapper of a version before does not say.
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
    return Fitted(spec.mapper.kind, parameters, hours_trained(spec), spec.provenance.get("epochs"))


def hours_trained(spec: MapperSpec) -> float | None:
    """See :class:`Fitted`."""
    made = spec.provenance
    clips, epochs, seconds, before = (
        made.get(name) for name in ("train_clips", "epochs", "train_seconds", "hours_before")
    )
    if seconds is None:  # of a version before: clips of the full length, and nothing on what it went on from
        window = (made.get("media") or {}).get("seconds")
        if clips is None or window is None or spec.mapper.initialise not in ("scratch", "audioldm2"):
            return None
        seconds, before = clips * window, 0.0
    return None if epochs is None or before is None else float(before + epochs * seconds / 3600)


def seconds_of_sound(manifest: Manifest | None, clip_ids: Collection[str], window: float) -> float:
    """Of the clips, each as long as its file, at most ``window``, and that where nobody looked at the file."""
    known = {clip.clip_id: clip.duration_s for clip in manifest.clips} if manifest else {}
    return float(sum(min(known.get(clip_id) or window, window) for clip_id in clip_ids))
