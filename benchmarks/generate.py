"""Clips per hour: our batched sampler against a loop of ``AudioLDM2Pipeline``, clip by clip, interleaved.

python -m benchmarks.generate [--preset micro] [--clips 8] [--steps 20] [--device cuda]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved, medians, seconds, write_result
from benchmarks.full_size import difference, diffusers_waveform
from generate.audioldm2 import Conditioning, load_audioldm2
from pipeline.runtime import quiet_libraries
from presets import load_preset


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
    model = load_audioldm2(preset, arguments.device)
    labels = [f"sound number {n}" for n in range(arguments.clips)]
    text, mask = model.encode_labels(labels)
    tokens = torch.randn(arguments.clips, 8, preset.encoders.audiomae.width).to(arguments.device)
    positive = Conditioning(tokens, text, mask)
    negative, noise = model.negative(preset.generation.negative_prompt), model.noise(labels, 0)
    settings: dict[str, Any] = {"steps": arguments.steps, "guidance_scale": 3.5}

    def ours(reuse_keys: bool = True) -> torch.Tensor:
        latents = model.denoise(positive, negative, noise, reuse_keys=reuse_keys, **settings)
        return model.decode(latents, 160_000)

    def theirs() -> torch.Tensor:
        rows = range(arguments.clips)
        singles = [Conditioning(tokens[r : r + 1], text[r : r + 1], mask[r : r + 1]) for r in rows]
        parts = [
            diffusers_waveform(model, single, negative, noise[r : r + 1], arguments.steps)
            for r, single in zip(rows, singles, strict=True)
        ]
        return torch.cat(parts).cpu().float()

    contenders = {"ours": ours, "ours, keys computed each step": lambda: ours(False), "AudioLDM2Pipeline loop": theirs}
    times = medians(interleaved(contenders, arguments.rounds))
    latents = model.denoise(positive, negative, noise, **settings)
    shares = {"unet": seconds(lambda: model.denoise(positive, negative, noise, **settings))}
    mel = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    shares["vae"] = seconds(lambda: model.vae.decode(latents / model.vae.config.scaling_factor))
    shares["vocoder"] = seconds(lambda: model.vocoder(mel.squeeze(1)))
    values = {
        "clips": arguments.clips,
        "steps": arguments.steps,
        "seconds": times,
        "clips_per_hour": {name: 3600 * arguments.clips / value for name, value in times.items()},
        "ours_times_as_fast": times["AudioLDM2Pipeline loop"] / times["ours"],
        "relative_difference": difference(ours(), theirs()),
        "share": {name: value / sum(shares.values()) for name, value in shares.items()},
    }
    print(values)
    write_result(f"generate_{preset.name}_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
