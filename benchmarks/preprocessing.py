"""What the one shared decode costs TimeChat: cosine between its features and those from its own resize.

    python -m benchmarks.preprocessing clip.mp4 [--vit-layers 39 --frames 8]

The shared decode resizes as CAVP's authors do (PIL bilinear, antialiased); TimeChat's authors resize with
decord. Published sizes with seeded weights, since the official ones cannot be downloaded everywhere.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import write_result
from common.runtime import quiet_libraries
from pipeline.encoders import load_encoder
from pipeline.media import decode_clip
from presets import load_preset


def spread(encoder: torch.nn.Module) -> None:
    """Give matrices unit gain: at the classes' own small initial weights nothing depends on the picture."""
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise / parameter[0].numel() ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--vit-layers", type=int, default=39)
    parser.add_argument("--frames", type=int, default=40, help="a multiple of the window, 4")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    preset = load_preset("paper", ["weights.source=seeded"])
    timechat = load_encoder("timechat", preset=preset, config={"vit_layers": arguments.vit_layers})
    cavp = load_encoder("cavp", preset=preset)
    spread(timechat)
    spread(cavp)
    rows = []
    for video in arguments.videos:
        clips = {
            resize: decode_clip(video, load_preset("paper", [f"media.resize={resize}"]).media, audio=False)
            for resize in ("antialiased", "swscale")
        }
        short = {
            resize: replace(clip, frames=clip.frames[: arguments.frames], times=clip.times[: arguments.frames])
            for resize, clip in clips.items()
        }
        row: dict[str, object] = {"video": Path(video).name}
        pixels = np.abs(clips["antialiased"].frames.astype(int) - clips["swscale"].frames)
        row["mean_pixel_difference"] = round(float(pixels.mean()), 3)
        for name, encoder in (("timechat", timechat), ("cavp", cavp)):
            one, other = encoder.encode_clips([short["antialiased"]]), encoder.encode_clips([short["swscale"]])
            cosine = torch.cosine_similarity(one, other, dim=-1)
            row[f"{name}_cosine_mean"] = round(float(cosine.mean()), 6)
            row[f"{name}_cosine_least"] = round(float(cosine.min()), 6)
            # Random weights give every step nearly the same direction: what differs between steps is what counts.
            centre = one.mean(dim=1, keepdim=True)
            centred = torch.cosine_similarity(one - centre, other - centre, dim=-1)
            row[f"{name}_cosine_of_differences_between_steps"] = round(float(centred.mean()), 4)
        print(row)
        rows.append(row)
    values = {
        "vit_layers": arguments.vit_layers,
        "frames": arguments.frames,
        "weights": "random, unit gain",
        "clips": rows,
    }
    write_result("preprocessing", values, arguments.out)


if __name__ == "__main__":
    main()
