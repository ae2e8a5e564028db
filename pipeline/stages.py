"""Stages: what each one reads, which encoder it runs, and what identifies its result."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from common.errors import WeightsError
from pipeline.media import DecodedClip
from presets import Preset

if TYPE_CHECKING:  # loading torch and transformers takes seconds; what only names the stages does without
    from pipeline.encoders.base import Encoder, Precision

# Raised by hand when the meaning of cached numbers changes: shards of another version do not mix.
CACHE_VERSION = 1


@dataclass(frozen=True)
class Stage:
    """One encoder over decoded clips, or over labels. ``reads`` says which part of a clip it needs.

    ``cpus`` and ``gpus`` are what one worker of the stage asks a cluster for.
    """

    name: str
    reads: Literal["frames", "waveform", "label"]

    cpus: float = 2
    gpus: float = 1

    def load(self, preset: Preset, device: str, precision: Precision, compile_models: bool = False) -> Encoder:
        from pipeline.encoders import load_encoder

        return load_encoder(self.name, preset=preset, device=device, precision=precision, compile=compile_models)

    def config(self, preset: Preset, precision: str) -> dict[str, Any]:
        return {**dataclasses.asdict(getattr(preset.encoders, self.name)), "precision": precision}

    def encode_labels(self, encoder: Any, labels: Sequence[str]) -> dict[str, np.ndarray]:
        """Label embeddings padded to the longest (N, L, D), float32, and their lengths (N,)."""
        encoded = [encoder.encode([label])[0][0].cpu().numpy() for label in labels]
        features = np.zeros((len(labels), max(map(len, encoded)), encoded[0].shape[1]), np.float32)
        for row, embedding in enumerate(encoded):
            features[row, : len(embedding)] = embedding
        return {"features": features, "lengths": np.array([len(embedding) for embedding in encoded], np.int32)}

    def encode(self, encoder: Any, clips: Sequence[DecodedClip]) -> np.ndarray:
        """Features of a batch of clips, float32 (B, T, D)."""
        import torch

        if self.reads == "waveform":
            waveforms = torch.from_numpy(np.stack([clip.waveform for clip in clips if clip.waveform is not None]))
            return encoder.encode(waveforms).cpu().numpy()
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3)
        if self.name == "timechat":
            return encoder.encode(frames, clips[0].times).cpu().numpy()
        return encoder.encode(frames).cpu().numpy()


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("cavp", "frames"),
        Stage("timechat", "frames"),
        Stage("audiomae", "waveform"),
        Stage("flan_t5", "label", gpus=0),
    )
}


def check_weights(preset: Preset, names: Sequence[str]) -> None:
    """Raise one :class:`WeightsError` that lists every official file missing for these encoders."""
    if preset.weights.source != "official":
        return
    from pipeline.encoders import ENCODERS, check_files, official_paths

    problems = []
    for name in names:
        try:
            check_files(ENCODERS[name], official_paths(name, preset))
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError(
            f"preset '{preset.name}' needs official weights in '{preset.weights.folder}' "
            f"(set another folder with --set weights.folder=DIR):\n" + "\n".join(problems)
        )


def labels_digest(labels: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def fingerprint(
    stage: Stage, preset: Preset, weights: str, rows_digest: str, manifest_digest: str, precision: str
) -> dict[str, Any]:
    """What made a shard. The identity fields must agree for a shard to count as done."""
    text = stage.reads == "label"
    media = dataclasses.asdict(preset.media)
    if media["backend"] == "auto":  # caches made before it say decord, whose pictures it gives
        media["backend"] = "decord"
    return {
        "version": CACHE_VERSION,
        "stage": stage.name,
        "config": stage.config(preset, precision),
        "weights": weights,
        "media": None if text else media,
        "dtype": "float32" if text else preset.cache.dtype,
        "clips": rows_digest,
        "manifest": manifest_digest,
        "preset": preset.name,
        "made_by": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "decord", "av", "numpy")
        },
    }
