"""From visual features to waveforms: mapper, label, AudioLDM-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from generate.audioldm2 import AudioLDM2, Conditioning, load_audioldm2
from pipeline.encoders.checkpoints import sha256_file
from pipeline.errors import CacheError, WeightsError
from presets import Preset
from trainer.mapper import Mapper
from trainer.registry import MFMMapper


@dataclass(frozen=True)
class Sampler:
    """A trained mapper and AudioLDM-2, with one preset's settings."""

    mapper: Mapper
    audioldm2: AudioLDM2
    preset: Preset
    mapper_fingerprint: str

    @property
    def encoders(self) -> list[str]:
        return list(self.mapper.spec.mapper.encoders)

    def settings(self) -> dict[str, Any]:
        """What decides the sound besides the clip: two folders of outputs mix only if these agree."""
        generation = {k: v for k, v in self.preset.to_dict()["generation"].items() if k != "batch"}
        return {**generation, "mapper": self.mapper_fingerprint, "audioldm2": self.audioldm2.fingerprint}

    def check_encoders(self, fingerprints: Mapping[str, str]) -> None:
        """Raise :class:`CacheError` if the features come from other encoders than the mapper's."""
        trained = self.mapper.spec.provenance.get("encoders", {})
        for name in self.encoders:
            if trained.get(name) != fingerprints.get(name):
                raise CacheError(
                    f"the mapper was trained on '{name}' features of weights {trained.get(name)}, these come "
                    f"from {fingerprints.get(name)}: train on this cache, or extract with the same weights"
                )

    def generate(
        self,
        visual: Mapping[str, Tensor],
        labels: Sequence[str],
        clip_ids: Sequence[str],
        on_step: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Waveforms (B, samples), float32 in [-1, 1], of a batch of clips with any labels."""
        generation, model = self.preset.generation, self.audioldm2
        tokens = self.mapper.predict({name: features.to(model.device) for name, features in visual.items()})
        text, mask = model.encode_labels(labels)
        latents = model.denoise(
            Conditioning(tokens, text, mask),
            model.negative(generation.negative_prompt),
            model.noise(clip_ids, generation.seed),
            steps=generation.steps,
            guidance_scale=generation.guidance_scale,
            eta=generation.eta,
            on_step=on_step,
        )
        return np.clip(model.decode(latents, self.preset.media.samples).numpy(), -1.0, 1.0)


def load_sampler(preset: Preset, mapper_folder: str | Path, device: str = "cpu") -> Sampler:
    """Load a trained mapper and AudioLDM-2; raises :class:`WeightsError` where the two do not fit."""
    mapper = MFMMapper.from_pretrained(mapper_folder, device)
    trained_for = mapper.spec.provenance.get("preset", preset.name)
    width = preset.encoders.audiomae.width
    if mapper.spec.target[1] != width:
        raise WeightsError(
            f"the mapper in {mapper_folder} was trained with preset '{trained_for}' and predicts "
            f"{mapper.spec.target[1]} values a token; preset '{preset.name}' needs {width}"
        )
    fingerprint = sha256_file(Path(mapper_folder) / "model.safetensors")[:32]
    return Sampler(mapper, load_audioldm2(preset, device), preset, fingerprint)
