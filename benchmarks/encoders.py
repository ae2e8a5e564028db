"""The paper's encoders at their published sizes, seeded weights, on one 10-s clip: shape, memory, seconds.

    python -m benchmarks.encoders clip.mp4 [--device cuda --precision bfloat16]

Each encoder runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import peak_memory_gb, seconds, write_result
from common.runtime import quiet_libraries
from pipeline.encoders import load_encoder
from pipeline.media import decode_clip
from presets import load_preset


def measure(name: str, video: str, device: str, precision: Any, queue: Any) -> None:
    quiet_libraries()
    preset = load_preset("paper", ["weights.source=seeded"])
    rate = preset.encoders[name].sample_rate
    clip = decode_clip(video, preset.media, rates=[] if rate is None else [rate])
    base = peak_memory_gb()
    encoder = load_encoder(name, preset=preset, device=device, precision=precision)
    shapes: list[tuple[int, ...]] = []
    first = seconds(lambda: shapes.append(tuple(encoder.encode_clips([clip]).shape)))
    second = seconds(lambda: encoder.encode_clips([clip])) if first < 60 else first
    row = {
        "encoder": name,
        "parameters_million": round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1),
        "shape": list(shapes[0]),
        "seconds_per_clip": round(min(first, second), 2),
        "peak_memory_gb": round(peak_memory_gb(), 2),
        "memory_before_model_gb": round(base, 2),
        "precision": precision,
    }
    if device.startswith("cuda"):
        row["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    queue.put(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--encoders", default="cavp,timechat,audiomae")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in arguments.encoders.split(","):
        queue = context.Queue()
        process = context.Process(
            target=measure, args=(name, arguments.video, arguments.device, arguments.precision, queue)
        )
        process.start()
        rows.append(queue.get())
        process.join()
        print(json.dumps(rows[-1]))
    write_result(f"encoders_{arguments.device}_{arguments.precision}", {"encoders": rows}, arguments.out)


if __name__ == "__main__":
    main()
