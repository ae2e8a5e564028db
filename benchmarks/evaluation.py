"""``python -m benchmarks.evaluation``: Fréchet distance against SciPy's root, feature networks, a whole evaluation.

The distance at 2048 dimensions and 15,000 clips; each network at its published size with seeded weights, on one clip
in memory, and from files as ``make evaluate`` works (read ahead by workers, features written), with the time that
VGGSound's test set would take. Written as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.linalg
import torch

from benchmarks.common import medians, seconds, write_result
from common.runtime import choose_device
from evaluation.extract import extract
from evaluation.files import find_files
from evaluation.metrics import frechet_distance, gaussian
from evaluation.networks import NETWORKS, seeded_network
from evaluation.reading import Reading
from pipeline.media.writing import write_video, write_wav

TEST_SET = 15_000  # clips of VGGSound's test split


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


def networks(names: list[str], device: str) -> dict[str, object]:
    """Parameters, shapes and seconds of one clip of 8 s, and of its picture."""
    rows: dict[str, object] = {}
    for name in names:
        network = seeded_network(NETWORKS[name]).to(device)
        sound = 0.1 * torch.randn(1, network.sound.samples, device=device)
        made = network.encode(sound)
        row: dict[str, object] = {
            "parameters_million": round(sum(p.numel() for p in network.parameters()) / 1e6, 1),
            "seconds_sound": round(seconds(lambda network=network, sound=sound: network.encode(sound)), 2),
            "shapes": {f"{c}{'/' * bool(p)}{p}": list(v.shape[1:]) for c, d in made.items() for p, v in d.items()},
        }
        if network.picture is not None:
            frames = network.picture.frames * (3 if network.picture.crops == "three" else 1)
            picture = torch.randint(0, 256, (1, frames, 3, 224, 224), dtype=torch.uint8, device=device)
            row["seconds_picture"] = round(seconds(lambda network=network, x=picture: network.encode_video(x)), 2)
        rows[name] = row
        print(name, row, flush=True)
    return rows


def make_files(folder: Path, clips: int) -> None:
    """Sounds of 8 s and videos of 10 s, 640x360 at 25 frames a second, of noise that moves."""
    random = np.random.default_rng(0)
    for number in range(clips):
        write_wav(folder / "sound" / f"clip{number:05d}.wav", 0.1 * random.standard_normal(128_000), 16_000)
        image = random.integers(0, 256, (360, 640, 3)).astype(np.uint8)
        frames = (np.roll(image, 8 * frame, axis=1) for frame in range(250))
        write_video(folder / "picture" / f"clip{number:05d}.mp4", frames, 25, None)


def from_files(names: list[str], clips: int, device: str, workers: int, batch: int | None) -> dict[str, object]:
    """Seconds a clip of each network and side, network loaded, and hours for 15,000 clips of both sides.

    The reference's features are made once: a second evaluation takes the hours of the generated side alone.
    """
    rows: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_files(folder, clips)
        for name in names:
            network = seeded_network(NETWORKS[name]).to(device)
            rows[name] = {}
            for kind, video in (("sound", False), ("picture", True)):
                if video and network.picture is None:
                    continue
                files = find_files(folder / kind)
                features = folder / f"{name}-{kind}"
                run = partial(extract, network, files, features, device, video, batch=batch)
                taken = seconds(partial(run, reading=Reading(workers)))
                rows[name][kind] = round(taken / clips, 3)
            print(name, rows[name], flush=True)
    generated = sum(row["sound"] for row in rows.values())
    reference = sum(row.get("picture", row["sound"]) for row in rows.values())
    return {
        "clips": clips,
        "device": device,
        "workers": workers,
        "seconds_per_clip": rows,
        "hours_for_15000_clips": {
            "generated": round(generated * TEST_SET / 3600, 2),
            "reference": round(reference * TEST_SET / 3600, 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=15_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--networks", default="panns,vggish,passt,imagebind,synchformer")
    parser.add_argument("--file-clips", type=int, default=4, help="clips of the evaluation from files; 0: none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2, help="processes that read files (from 32 clips on)")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="folder of the result; default: benchmarks/results")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    names = [name for name in arguments.networks.split(",") if name]
    result: dict[str, object] = {
        "frechet_distance": distance(arguments.clips, arguments.width, arguments.rounds),
        "networks": networks(names, device),
    }
    if arguments.file_clips:
        result["from_files"] = from_files(names, arguments.file_clips, device, arguments.workers, arguments.batch)
    write_result(f"evaluation_{torch.device(device).type}", result, arguments.out)


if __name__ == "__main__":
    main()
