"""What an audio model is: a mapper's tokens and labels in, waveforms out. The preset names which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.registry import load_part
from generate.kept import user_cache
from generate.schedulers import name_seed
from presets import Preset
from presets.config import GenerationConfig


class AudioModel(ABC):
    """Frozen; with a mapper it makes a :class:`generate.sampling.Sampler`. Load one by :func:`load_audio_model`.

    A new one is a subclass, the function that loads it, and its settings, a
    :class:`presets.audio_models.AudioModelConfig` that the registry there names.

    ``fingerprint`` says which weights it has. ``label_encoder``: the encoder of labels that its settings name, if any.
    """

    def __init__(self, fingerprint: str, label_encoder: Any = None):
        self.fingerprint, self.label_encoder = fingerprint, label_encoder
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tokens and noise are wanted."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Of its waveforms, in Hz."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Of a clip's start noise: channels, rows in time, and whatever follows."""

    @property
    @abstractmethod
    def latent_seconds(self) -> float:
        """What one row of the latents covers."""

    @abstractmethod
    def synthesise(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        samples: int,
        generation: GenerationConfig,
        rows: int = 0,
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Tokens (B, T_c, D_c), labels, start noise (B, *latent_shape) -> waveforms (B, samples), float32, there.

        ``seeds`` (B,): of noise drawn later. A clip's sound depends on neither the others nor their number; ``rows`` is
        how many a batch has at most. ``on_step`` is called ``generation.steps`` times. The host need not wait.
        """

    def encode_labels(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of labels (B, L, D_t) and mask (B, L); each distinct label is encoded once."""
        for label in dict.fromkeys(labels):
            if label not in self._texts:
                text, mask = self.label_encoder.encode([label])
                self._texts[label] = text[0], mask[0]
        texts = nn.utils.rnn.pad_sequence([self._texts[label][0] for label in labels], batch_first=True)
        masks = nn.utils.rnn.pad_sequence([self._texts[label][1] for label in labels], batch_first=True)
        return texts, masks

    def remember_labels(self, labels: Sequence[str], features: Any, lengths: Any) -> None:
        """Take label embeddings (N, L, D_t) and lengths (N,) from the cache instead of computing them."""
        for label, feature, length in zip(labels, features, lengths, strict=True):
            text = torch.as_tensor(feature[: int(length)]).float().to(self.device)
            self._texts[label] = text, torch.ones(len(text), dtype=torch.long, device=self.device)

    def noise(self, clip_ids: Sequence[str], seed: int) -> Tensor:
        """Start noise (B, *latent_shape) that follows from clip id and seed alone, whatever the batch."""
        noise = [torch.randn(self.latent_shape, generator=_generator(clip_id, seed)) for clip_id in clip_ids]
        return torch.stack(noise).to(self.device)

    def window_noise(self, clip_id: str, seed: int, starts: Iterable[int]) -> Iterator[Tensor]:
        """Start noise (*latent_shape) of each window of one long clip, from latent row ``starts`` on (ascending).

        Where windows overlap, it is the same. Drawn as it is needed, so a film's length does not matter.
        """
        channels, rows, *rest = self.latent_shape
        generator = _generator(clip_id, seed)
        held: list[Tensor] = []  # rows, each (C, ...); row by row, so that a longer film begins like a shorter one
        begin = 0
        for start in starts:
            lacking = start + rows - begin - len(held)
            held += [torch.randn((channels, *rest), generator=generator) for _ in range(lacking)]
            held, begin = held[start - begin :], start
            yield torch.stack(held, 1).to(self.device)


def _generator(clip_id: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(name_seed(clip_id, seed))


def load_audio_model(preset: Preset, device: str | torch.device = "cpu") -> AudioModel:
    """The audio model that a preset names; what it keeps between runs is in the user's cache folder.

    Raises :class:`common.errors.WeightsError` for weights that are missing or wrong.
    """
    cache: Path | None = user_cache()
    model: AudioModel = load_part(preset.audio.loader)(preset, device, cache)
    return model
