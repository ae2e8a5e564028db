"""Clips for the sampler alone, by a model of seeded weights: what other benchmarks measure it with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.full_size import diffusers_waveform
from generate.audioldm2 import AudioLDM2, Conditioning
from generate.audioldm2_loader import load_audioldm2
from presets import Preset

_SAMPLES, _GUIDANCE = 160_000, 3.5


@dataclass
class Work:
    """Clips to be made: their conditions and start noise."""

    model: AudioLDM2
    positive: Conditioning
    negative: Conditioning
    noise: torch.Tensor

    def to(self, device: str) -> None:
        """Move all of it."""
        for part in (self.model.unet, self.model.vae, self.model.vocoder, self.model.flan_t5):
            part.to(device)
        self.positive, self.negative = (
            Conditioning(*(value.to(device) for value in vars(condition).values()))
            for condition in (self.positive, self.negative)
        )
        self.noise = self.noise.to(device)

    def denoise(self, steps: int, clips: int | None = None, rows: int = 0) -> torch.Tensor:
        """Latents of the first ``clips``, filled up to ``rows`` where shapes are static."""
        positive = Conditioning(*(part[:clips] for part in vars(self.positive).values()))
        noise = self.noise[:clips]
        return self.model.denoise(positive, self.negative, noise, steps=steps, guidance_scale=_GUIDANCE, rows=rows)

    def ours(self, steps: int, clips: int | None = None, rows: int = 0) -> torch.Tensor:
        """Waveforms (clips, samples) by our sampler, in one batch."""
        return self.model.decode(self.denoise(steps, clips, rows), _SAMPLES)

    def theirs(self, steps: int, clips: int | None = None) -> torch.Tensor:
        """The same by a loop of diffusers' pipeline."""
        parts = []
        for row in range(len(self.noise[:clips])):
            single = Conditioning(*(part[row : row + 1] for part in vars(self.positive).values()))
            parts.append(diffusers_waveform(self.model, single, self.negative, self.noise[row : row + 1], steps))
        return torch.cat(parts).cpu().float()


def prepare(preset: Preset, clips: int, device: str) -> Work:
    model = load_audioldm2(preset, device)
    labels = [f"sound number {n}" for n in range(clips)]
    text, mask = model.encode_labels(labels)
    tokens = torch.randn(clips, 8, preset.encoders.audiomae.width, generator=torch.Generator().manual_seed(0))
    positive = Conditioning(tokens.to(device), text, mask)
    return Work(model, positive, model.negative(preset.generation.negative_prompt), model.noise(labels, 0))
