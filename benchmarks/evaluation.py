"""``python -m benchmarks.evaluation``: Fréchet distance at full size against SciPy's root, and every feature network.

The distance at 2048 dimensions and 15,000 clips, and each network at its published size with seeded weights on one
clip. Written as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from benchmarks.common import medians, seconds, write_result
from evaluation.metrics import frechet_distance, gaussian
from evaluation.networks import NETWORKS, seeded_network


def scipy_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """The usual route: the root of the product of the covariances by ``scipy.linalg.sqrtm``."""
    (mean1, covariance1), (mean2, covariance2) = gaussian(generated), gaussian(reference)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2).real
    return float(np.square(mean1 - mean2).sum() + np.trace(covariance1 + covariance2 - 2 * root))


def distance(clips: int, width: int, rounds: int) -> dict[str, object]:
    """Both routes on the same features; at full size one round takes minutes, so there is no warm-up."""
    random = np.random.default_rng(0)
    mix = random.standard_normal((width, width)) / np.sqrt(width)
    features = [
        np.maximum(random.standard_normal((clips, width)) @ mix + shift, 0).astype(np.float32) for shift in (0.0, 0.1)
    ]
    values = {}

    def timed(name: str, function: Callable[..., float]) -> Callable[[], None]:
        return lambda: values.update({name: function(*features)})

    contenders = {"ours": timed("ours", frechet_distance), "scipy": timed("scipy", scipy_distance)}
    times = medians({name: [seconds(run) for _ in range(rounds)] for name, run in contenders.items()})
    ours, scipys = times["ours"], times["scipy"]
    return {
        "clips": clips,
        "width": width,
        "seconds_ours": round(ours, 2),
        "seconds_scipy_sqrtm": round(scipys, 2),
        "ratio": round(scipys / ours, 2),
        "relative_difference": abs(values["ours"] - values["scipy"]) / abs(values["scipy"]),
    }


def networks(names: list[str]) -> dict[str, object]:
    """Parameters, shapes and seconds of one clip of 8 s, and of a segment or window of picture."""
    rows: dict[str, object] = {}
    for name in names:
        network = seeded_network(NETWORKS[name])
        sound = 0.1 * torch.randn(1, network.sound.samples)
        made = network.encode(sound)
        row: dict[str, object] = {
            "parameters_million": round(sum(p.numel() for p in network.parameters()) / 1e6, 1),
            "seconds_sound": round(seconds(lambda network=network, sound=sound: network.encode(sound)), 2),
            "shapes": {f"{c}{'/' * bool(p)}{p}": list(v.shape[1:]) for c, d in made.items() for p, v in d.items()},
        }
        if network.video_caches:
            frames = 200 if name == "synchformer" else 12
            picture = torch.randint(0, 256, (1, frames, 3, 224, 224), dtype=torch.uint8)
            row["seconds_picture"] = round(seconds(lambda network=network, x=picture: network.encode_video(x)), 2)
        rows[name] = row
        print(name, row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=15_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--networks", default="panns,vggish,passt,imagebind,synchformer")
    parser.add_argument("--out", type=Path, default=None, help="folder of the result; default: benchmarks/results")
    arguments = parser.parse_args()
    result = {
        "frechet_distance": distance(arguments.clips, arguments.width, arguments.rounds),
        "networks": networks([name for name in arguments.networks.split(",") if name]),
    }
    write_result("evaluation_cpu", result, arguments.out)


if __name__ == "__main__":
    main()
