"""Mapper prediction: ours (keys and values kept) against an uncached loop like diffusers'.

The uncached loop feeds the whole sequence to GPT-2 for every token, as ``AudioLDM2Pipeline`` does.

python -m benchmarks.predict [--batch 256] [--device cuda] [--preset paper]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common import interleaved, medians, write_result
from pipeline.runtime import quiet_libraries
from presets import load_preset
from trainer.mapper import GPT2Mapper, MapperSpec


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
    dimensions = {"cavp": preset.encoders.cavp.embedding, "timechat": preset.encoders.timechat.qformer_width}
    spec = MapperSpec(preset.mapper, dimensions, {"cavp": 40, "timechat": 10}, (8, preset.encoders.audiomae.width))
    torch.manual_seed(0)
    mapper = GPT2Mapper(spec).to(arguments.device).eval().requires_grad_(False)
    visual = {
        name: torch.randn(arguments.batch, spec.lengths[name], width, device=arguments.device)
        for name, width in dimensions.items()
    }
    ours, theirs = mapper.predict(visual), mapper.predict(visual, cached=False)
    times = medians(
        interleaved(
            {"ours": lambda: mapper.predict(visual), "uncached": lambda: mapper.predict(visual, cached=False)},
            arguments.rounds,
        )
    )
    values = {
        "batch": arguments.batch,
        "seconds": times,
        "ours_times_as_fast": times["uncached"] / times["ours"],
        "relative_difference": float((ours - theirs).norm() / theirs.norm()),
    }
    print(values)
    write_result(f"predict_{arguments.preset}_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
