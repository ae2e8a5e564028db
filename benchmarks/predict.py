"""Mapper prediction: ours (keys and values kept) against an uncached loop like diffusers'.

The uncached loop feeds the whole sequence to GPT-2 for every token, as ``AudioLDM2Pipeline`` does.

python -m benchmarks.predict [--batch 256] [--device cuda] [--preset paper]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import interleaved, medians, write_result
from common.runtime import quiet_libraries
from presets import Preset, load_preset
from trainer.gpt2_mapper import GPT2Mapper
from trainer.mapper import MapperSpec

Arrays = dict[str, torch.Tensor]


def seeded_mapper(preset: Preset, batch: int) -> tuple[GPT2Mapper, Arrays]:
    """A mapper of the preset's size and features of ``batch`` clips, on the CPU."""
    dimensions = {"cavp": preset.encoders.cavp.embedding, "timechat": preset.encoders.timechat.qformer_width}
    spec = MapperSpec(preset.mapper, dimensions, {"cavp": 40, "timechat": 10}, (8, preset.encoders.audiomae.width))
    torch.manual_seed(0)
    mapper = GPT2Mapper(spec).eval().requires_grad_(False)
    return mapper, {name: torch.randn(batch, spec.lengths[name], width) for name, width in dimensions.items()}


def measure(preset: Preset, batch: int, rounds: int, device: str) -> dict[str, Any]:
    mapper, visual = seeded_mapper(preset, batch)
    mapper.to(device)
    visual = {name: array.to(device) for name, array in visual.items()}
    ours, theirs = mapper.predict(visual), mapper.predict(visual, cached=False)
    contenders = {"ours": lambda: mapper.predict(visual), "uncached": lambda: mapper.predict(visual, cached=False)}
    times = medians(interleaved(contenders, rounds))
    return {
        "batch": batch,
        "seconds": times,
        "ours_times_as_fast": times["uncached"] / times["ours"],
        "relative_difference": float((ours - theirs).norm() / theirs.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    preset = load_preset(arguments.preset, ["mapper.initialise=scratch"])
    values = measure(preset, arguments.batch, arguments.rounds, arguments.device)
    print(values)
    write_result(f"predict_{preset.name}_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
