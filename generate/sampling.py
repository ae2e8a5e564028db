"""From visual features to waveforms: mapper, label, audio model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import CacheError, WeightsError
from common.hashing import sha256_file
from generate.audio_model import AudioModel, load_audio_model
from generate.schedulers import mapper_seeds, step_seeds
from presets import Preset
from trainer.mapper import Mapper
from trainer.provenance import differing_features, features_provenance
from trainer.registry import MFMMapper, mapper_folder

NOT_FINITE = "the sampler gave NaN or Inf; try generation.precision=float32, or another seed"
_SPEED_ONLY = ("batch", "decode_batch", "compile")


@dataclass(frozen=True)
class Batch:
    """Clips to be made together: visual features by encoder, each (B, L, D) float32, and B labels and clip ids."""

    visual: Mapping[str, Tensor]
    labels: Sequence[str]
    clip_ids: Sequence[str]


class Sound:
    """Waveforms (B, samples) that a device may still be at; :meth:`result` waits for them."""

    def __init__(self, waveforms: Tensor):
        self._waveforms, self._event = waveforms, None
        if waveforms.device.type == "cuda":
            # To pinned memory, behind all that was launched so far; what is launched later is not waited for.
            self._waveforms = waveforms.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(waveforms.device))

    def result(self) -> np.ndarray:
        """Float32 in [-1, 1]; all of a waveform is NaN where the model gave any NaN or Inf: whoever takes it must look.

        Raises what a device raises late, where it is waited for.
        """
        if self._event is not None:
            self._event.synchronize()
        waveforms = self._waveforms.cpu().numpy()
        finite = np.isfinite(waveforms).all(axis=1, keepdims=True)  # before clipping, which makes Inf a 1
        return np.where(finite, np.clip(waveforms, -1.0, 1.0), np.float32(np.nan))


@dataclass(frozen=True)
class Sampler:
    """A trained mapper and an audio model, with one preset's settings."""

    mapper: Mapper
    audio_model: AudioModel
    preset: Preset
    mapper_fingerprint: str

    @property
    def encoders(self) -> list[str]:
        return list(self.mapper.spec.mapper.encoders)

    def settings(self) -> dict[str, Any]:
        """What decides the sound besides the clip: two folders of outputs mix only if these agree."""
        generation = {k: v for k, v in self.preset.to_dict()["generation"].items() if k not in _SPEED_ONLY}
        return {**generation, "mapper": self.mapper_fingerprint, self.preset.audio_model: self.audio_model.fingerprint}

    def check_encoders(self, made: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise :class:`CacheError` if the features come from other encoders than the mapper's, or other settings.

        ``made``: ``weights``, ``config`` and ``media`` by encoder, as in the fingerprint of a shard.
        """
        here = features_provenance({name: made[name] for name in self.encoders})
        if different := differing_features(self.mapper.spec.provenance, here, self.encoders):
            raise CacheError(
                f"the mapper was trained on features of another kind than these ({'; '.join(map(str, different))}): "
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
        return self.start(Batch(visual, labels, clip_ids), on_step).result()

    def start(self, batch: Batch, on_step: Callable[[], None] = lambda: None) -> Sound:
        """Launch a batch. On a GPU this returns long before its sound is there; on a CPU, with the sound made."""
        seed = self.preset.generation.seed
        noise, seeds = self.audio_model.noise(batch.clip_ids, seed), step_seeds(batch.clip_ids, seed)
        tokens = self.predict(batch.visual, batch.clip_ids)
        return self._launch(tokens, batch.labels, noise, seeds, self.preset.generation.batch, on_step)

    def stream(
        self, batches: Iterable[Batch], on_step: Callable[[], None] = lambda: None
    ) -> Iterator[np.ndarray | Exception]:
        """For each batch in turn, its waveforms (B, samples) as :meth:`generate` gives them, or what went wrong.

        A batch that fails does not end the stream: its exception is yielded in its place. On an accelerator a batch is
        asked of ``batches`` and launched before the one ahead of it is waited for, so the device decodes one while the
        host prepares the next and whoever iterates writes the last; on a CPU they are made one after the other::

            batches = [Batch(features, labels, clip_ids), ...]  # any iterable; read one ahead on an accelerator
            for batch, made in zip(batches, sampler.stream(batches), strict=True):
                if isinstance(made, Exception): ...  # e.g. each clip alone, by ``sampler.generate``
        """
        ahead = 0 if self.audio_model.device.type == "cpu" else 1
        started: deque[Sound | Exception] = deque()
        for batch in batches:
            try:
                started.append(self.start(batch, on_step))
            except Exception as error:
                started.append(error)
            if len(started) > ahead:
                yield _settled(started.popleft())
        while started:
            yield _settled(started.popleft())

    def predict(self, visual: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """Visual features by encoder -> the mapper's tokens (B, T_c, D).

        ``names`` (B,) of the clips or films: a mapper that draws noise draws it from these.
        """
        there = {name: array.to(self.audio_model.device) for name, array in visual.items()}
        return self.mapper.sample(there, mapper_seeds(names))

    def synthesise(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        on_step: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Tokens (B, T_c, D), labels, start noise (B, C, H, W) and seeds of the steps' -> waveforms (B, samples).

        As :meth:`Sound.result` gives them.
        """
        rows = 1 if len(tokens) == 1 else self.preset.generation.batch  # most films are one window
        return self._launch(tokens, labels, noise, seeds, rows, on_step).result()

    def _launch(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        rows: int,
        on_step: Callable[[], None],
    ) -> Sound:
        samples = round(self.preset.media.seconds * self.audio_model.sample_rate)
        return Sound(
            self.audio_model.synthesise(tokens, labels, noise, seeds, samples, self.preset.generation, rows, on_step)
        )


def _settled(started: Sound | Exception) -> np.ndarray | Exception:
    if isinstance(started, Exception):
        return started
    try:
        return started.result()
    except Exception as error:
        return error


def load_sampler(preset: Preset, mapper_source: str | Path, device: str = "cpu") -> Sampler:
    """Load a trained mapper (a folder, or a hub id as text) and the preset's audio model.

    Raises :class:`WeightsError` where the two do not fit, :class:`InputError` where the audio model cannot follow the
    section ``generation``.
    """
    preset.audio.check(preset.generation)
    folder = mapper_folder(mapper_source)
    mapper = MFMMapper.from_pretrained(folder, device)
    mapper.predict_with(preset.generation.mapper_options)
    spec, (count, width) = mapper.spec, preset.tokens
    trained_for = spec.provenance.get("preset", preset.name)
    if spec.target_encoder != preset.target:
        raise WeightsError(
            f"the mapper in {mapper_source} was trained with preset '{trained_for}' and predicts features of "
            f"{spec.target_encoder}; preset '{preset.name}' needs {preset.target}"
        )
    for there, here, what in ((spec.target[0], count, "tokens a clip"), (spec.target[1], width, "values a token")):
        if here not in (None, there):
            raise WeightsError(
                f"the mapper in {mapper_source} was trained with preset '{trained_for}' and predicts {there} {what}; "
                f"preset '{preset.name}' needs {here}"
            )
    fingerprint = sha256_file(folder / "model.safetensors")[:32]
    return Sampler(mapper, load_audio_model(preset, device), preset, fingerprint)
