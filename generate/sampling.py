"""From visual features to waveforms: mapper, label, AudioLDM-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from generate.audioldm2 import AudioLDM2, Conditioning, load_audioldm2
from generate.kept import user_cache
from generate.schedulers import step_seeds
from pipeline.encoders.checkpoints import sha256_file
from pipeline.errors import CacheError, WeightsError
from presets import Preset
from trainer.mapper import Mapper
from trainer.provenance import differing_features, features_provenance
from trainer.registry import MFMMapper, mapper_folder

NOT_FINITE = "the sampler gave NaN or Inf; try generation.precision=float32, or another seed"
_SPEED_ONLY = ("batch", "decode_batch", "reuse_keys", "compile")


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
        generation = {k: v for k, v in self.preset.to_dict()["generation"].items() if k not in _SPEED_ONLY}
        return {**generation, "mapper": self.mapper_fingerprint, "audioldm2": self.audioldm2.fingerprint}

    def check_encoders(self, made: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise :class:`CacheError` if the features come from other encoders than the mapper's, or other settings.

        ``made``: ``weights``, ``config`` and ``media`` by encoder, as in the fingerprint of a shard.
        """
        here = features_provenance({name: made[name] for name in self.encoders})
        if different := differing_features(self.mapper.spec.provenance, here, self.encoders):
            raise CacheError(
                f"the mapper was trained on features of another kind than these ({'; '.join(different)}): "
                f"train on this cache, or extract with the mapper's weights and settings"
            )

    def generate(
        self,
        visual: Mapping[str, Tensor],
        labels: Sequence[str],
        clip_ids: Sequence[str],
        on_step: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Waveforms (B, samples), float32 in [-1, 1], of a batch of clips with any labels."""
        seed = self.preset.generation.seed
        noise = self.audioldm2.noise(clip_ids, seed)
        return self.synthesise(self.predict(visual), labels, noise, step_seeds(clip_ids, seed), on_step)

    def predict(self, visual: Mapping[str, Tensor]) -> Tensor:
        """Visual features by encoder -> the mapper's tokens (B, 8, D)."""
        return self.mapper.predict({name: array.to(self.audioldm2.device) for name, array in visual.items()})

    def synthesise(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        on_step: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Tokens (B, 8, D), labels, start noise (B, C, H, W) and seeds of the steps' -> waveforms (B, samples).

        All of a waveform is NaN where the model gave any NaN or Inf: whoever takes it must look.
        """
        generation, model = self.preset.generation, self.audioldm2
        text, mask = model.encode_labels(labels)
        latents = model.denoise(
            Conditioning(tokens, text, mask),
            model.negative(generation.negative_prompt),
            noise,
            steps=generation.steps,
            guidance_scale=generation.guidance_scale,
            eta=generation.eta,
            seeds=seeds,
            scheduler_name=generation.scheduler,
            reuse_keys=generation.reuse_keys,
            on_step=on_step,
        )
        waveforms = model.decode(latents, self.preset.media.samples, generation.decode_batch).numpy()
        finite = np.isfinite(waveforms).all(axis=1, keepdims=True)  # before clipping, which makes Inf a 1
        return np.where(finite, np.clip(waveforms, -1.0, 1.0), np.float32(np.nan))


def load_sampler(preset: Preset, mapper_source: str | Path, device: str = "cpu") -> Sampler:
    """Load a trained mapper (a folder, or a hub id as text) and AudioLDM-2.

    Raises :class:`WeightsError` where the two do not fit.
    """
    folder = mapper_folder(mapper_source)
    mapper = MFMMapper.from_pretrained(folder, device)
    trained_for = mapper.spec.provenance.get("preset", preset.name)
    width = preset.encoders.audiomae.width
    if mapper.spec.target[1] != width:
        raise WeightsError(
            f"the mapper in {mapper_source} was trained with preset '{trained_for}' and predicts "
            f"{mapper.spec.target[1]} values a token; preset '{preset.name}' needs {width}"
        )
    fingerprint = sha256_file(folder / "model.safetensors")[:32]
    cache = user_cache()
    audioldm2 = load_audioldm2(preset, device, negatives=None if cache is None else cache / "negatives")
    return Sampler(mapper, audioldm2, preset, fingerprint)
