"""Clips per hour: our batched sampler against a loop of ``AudioLDM2Pipeline``, clip by clip, interleaved.

python -m benchmarks.generate [--preset micro] [--clips 8] [--steps 20] [--device cuda]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import interleaved, medians, seconds, write_result
from benchmarks.full_size import difference
from benchmarks.sampler import Work, prepare
from common.runtime import quiet_libraries
from presets import load_preset


def measure(work: Work, steps: int, rounds: int) -> dict[str, Any]:
    model, clips = work.model, len(work.noise)
    contenders = {
        "ours": lambda: work.ours(steps),
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
