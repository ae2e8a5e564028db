"""Clips per hour: our batched sampler against a loop of ``AudioLDM2Pipeline``, clip by clip, interleaved.

python -m benchmarks.generate [--preset micro] [--clips 8] [--steps 20] [--device cuda]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved, medians, seconds, write_result
from benchmarks.full_size import difference, diffusers_waveform
from common.runtime import quiet_libraries
from generate.audioldm2 import AudioLDM2, Conditioning, load_audioldm2
from presets import Preset, load_preset

_SAMPLES, _GUIDANCE = 160_000, 3.5


@dataclass
class Work:
    """Clips to be made by a model of seeded weights: their conditions and start noise."""

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

    def denoise(self, steps: int, clips: int | None = None, reuse_keys: bool = True) -> torch.Tensor:
        """Latents of the first ``clips``."""
        positive = Conditioning(*(part[:clips] for part in vars(self.positive).values()))
        return self.model.denoise(
            positive, self.negative, self.noise[:clips], steps=steps, guidance_scale=_GUIDANCE, reuse_keys=reuse_keys
        )

    def ours(self, steps: int, clips: int | None = None, reuse_keys: bool = True) -> torch.Tensor:
        """Waveforms (clips, samples) by our sampler, in one batch."""
        return self.model.decode(self.denoise(steps, clips, reuse_keys), _SAMPLES)

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


def measure(work: Work, steps: int, rounds: int) -> dict[str, Any]:
    model, clips = work.model, len(work.noise)
    contenders = {
        "ours": lambda: work.ours(steps),
        "ours, keys computed each step": lambda: work.ours(steps, reuse_keys=False),
        "AudioLDM2Pipeline loop": lambda: work.theirs(steps),
    }
    times = medians(interleaved(contenders, rounds))
    latents = work.denoise(steps)
    shares = {"unet": seconds(lambda: work.denoise(steps))}
    mel = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    shares["vae"] = seconds(lambda: model.vae.decode(latents / model.vae.config.scaling_factor))
    shares["vocoder"] = seconds(lambda: model.vocoder(mel.squeeze(1)))
    return {
        "clips": clips,
        "steps": steps,
        "seconds": times,
        "clips_per_hour": {name: 3600 * clips / value for name, value in times.items()},
        "ours_times_as_fast": times["AudioLDM2Pipeline loop"] / times["ours"],
        "relative_difference": difference(work.ours(steps), work.theirs(steps)),
        "share": {name: value / sum(shares.values()) for name, value in shares.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    preset = load_preset(arguments.preset, ["weights.source=seeded"])
    values = measure(prepare(preset, arguments.clips, arguments.device), arguments.steps, arguments.rounds)
    print(values)
    write_result(f"generate_{preset.name}_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
