"""Training steps a second: ours against a plain DataLoader over npz files, and over WebDataset shards.

    python -m benchmarks.train                                        # a small mapper, for 2 CPU cores
    python -m benchmarks.train --size paper --clips 77265 --steps 200 # on a GPU: the paper's size

The peers are what one writes first: one file a clip (or ``webdataset``), a DataLoader with workers, GPT-2
with eager attention in float32, AdamW as it comes. Ours is the trainer's own data, SDPA, fused AdamW, and
on a GPU bfloat16 and ``torch.compile``. ``outside_model`` is the share of a step that is not the same
model on a batch that is there already.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import interleaved, medians, write_result
from common.runtime import choose_device
from pipeline.cache import Joined, ShardContent, open_store
from presets.config import MapperConfig
from trainer.data import TensorData
from trainer.mapper import Mapper, MapperSpec
from trainer.registry import build_mapper

SIZES = {
    "small": MapperConfig(layers=4, width=192, heads=4, max_positions=128),
    "paper": MapperConfig(),
}
LENGTHS, WIDTHS = {"cavp": 40, "timechat": 10}, {"cavp": 512, "timechat": 768}
EPOCHS, PAPER_CLIPS = 40, 77_265
Arrays = dict[str, torch.Tensor]


def synthetic(clips: int, width: int) -> Joined:
    random = np.random.default_rng(0)
    shapes = {name: (LENGTHS[name], WIDTHS[name]) for name in LENGTHS} | {"audiomae": (8, width)}
    block = {
        name: random.standard_normal((min(clips, 512), *shape)).astype(np.float16) for name, shape in shapes.items()
    }
    arrays = {name: np.resize(values, (clips, *values.shape[1:])) for name, values in block.items()}
    ids = tuple(f"clip{n:06d}" for n in range(clips))
    return Joined(ids, ids, ("train",) * clips, arrays, {}, {})


class Files(Dataset):
    """One npz a clip."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob("*.npz"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Arrays:
        with np.load(self.paths[index]) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}


def stepper(mapper: Mapper, optimizer: torch.optim.Optimizer, autocast: bool, device: str) -> Callable[[Arrays], Any]:
    def step(arrays: Arrays) -> None:
        arrays = {name: array.to(device, non_blocking=True).float() for name, array in arrays.items()}
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            loss = mapper({name: arrays[name] for name in LENGTHS}, arrays["audiomae"]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--clips", type=int, default=1536)
    parser.add_argument("--file-clips", type=int, default=1536, help="clips the peers read, as files")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the model FLOPs utilisation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--without-peers", action="store_true", help="ours alone")
    parser.add_argument("--out", type=Path)
    return parser


def main() -> None:
    arguments = build_parser().parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        result = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    write_result(f"train_{arguments.size}_{result['kind']}", result, arguments.out)


def write_files(arguments: argparse.Namespace, folder: Path, width: int) -> list[str]:
    """What the peers read: an npz a clip in ``folder/npz``, and tars, whose paths are returned."""
    files = synthetic(min(arguments.clips, arguments.file_clips), width)
    npz, tar = folder / "npz", open_store(folder / "tar", "webdataset")
    npz.mkdir(parents=True)
    for row, clip_id in enumerate(files.clip_ids):
        np.savez(npz / f"{clip_id}.npz", **{name: array[row] for name, array in files.arrays.items()})
    for shard, rows in enumerate(np.array_split(np.arange(len(files)), max(1, len(files) // 256))):
        ids = tuple(files.clip_ids[row] for row in rows)
        arrays = {name: array[rows] for name, array in files.arrays.items()}
        tar.write("joined", shard, ShardContent(ids, ids, ids, {}, arrays))
    return [str(tar.path("joined", shard)) for shard in tar.shards("joined")]


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device = choose_device(arguments.device)
    cuda = device.startswith("cuda")
    config = replace(SIZES[arguments.size], dropout=0.1)
    joined = synthetic(arguments.clips, config.width)
    spec = MapperSpec(config, dict(WIDTHS), dict(LENGTHS), (8, config.width))
    peers = () if arguments.without_peers else ("npz", "webdataset")
    npz = folder / "npz"
    urls = write_files(arguments, folder, config.width) if peers else []

    ours_model = build_mapper(spec).to(device).train()
    if cuda:
        ours_model.compile()
    trained = [p for p in ours_model.parameters() if p.requires_grad]
    ours_step = stepper(ours_model, torch.optim.AdamW(trained, 1e-3, fused=True), cuda, device)
    peer_model = build_mapper(spec).to(device).train()
    peer_model.gpt2.set_attn_implementation("eager")
    peer_step = stepper(peer_model, torch.optim.AdamW(peer_model.parameters(), 1e-3), False, device)
    data = TensorData(joined, device)

    def npz_batches() -> Iterator[Arrays]:
        return iter(DataLoader(Files(npz), arguments.batch, shuffle=True, num_workers=arguments.workers))

    def tar_batches() -> Iterator[Arrays]:
        names = [*LENGTHS, "audiomae"]
        pipeline = webdataset.WebDataset(urls, shardshuffle=100).shuffle(1000).decode("torch")
        dataset = pipeline.to_tuple(*(f"{name}.npy" for name in names)).batched(arguments.batch)
        for values in DataLoader(dataset, batch_size=None, num_workers=arguments.workers):
            yield {name: torch.as_tensor(value) for name, value in zip(names, values, strict=True)}

    def our_batches() -> Iterator[Arrays]:
        for epoch in itertools.count():
            for batch in data.batches("train", arguments.batch, epoch):
                yield dict(batch.arrays)

    def endless(make: Callable[[], Iterator[Arrays]]) -> Iterator[Arrays]:
        while True:
            yield from make()

    sources: dict[str, Iterator[Arrays]] = {
        "ours": our_batches(),
        "npz": endless(npz_batches),
        "webdataset": endless(tar_batches),
    }
    steps = {"ours": ours_step, "npz": peer_step, "webdataset": peer_step}
    fixed = {name: array[: arguments.batch].float() for name, array in data.arrays.items()}

    def run(name: str) -> Callable[[], None]:
        def go() -> None:
            for _ in range(arguments.steps):
                steps[name](next(sources[name]))

        return go

    def model_only(step: Callable[[Arrays], Any]) -> Callable[[], None]:
        def go() -> None:
            for _ in range(arguments.steps):
                step(fixed)

        return go

    contenders = {name: run(name) for name in ("ours", *peers)}
    contenders["ours, model alone"] = model_only(ours_step)
    if peers:
        contenders["peer, model alone"] = model_only(peer_step)
    middle = medians(interleaved(contenders, arguments.rounds))
    rate = {name: arguments.steps / value for name, value in middle.items()}
    parameters = sum(p.numel() for p in trained)
    flops = 6 * parameters * (LENGTHS["cavp"] + 2 + 8) * arguments.batch
    result: dict[str, Any] = {
        "kind": "cuda" if cuda else device,
        "parameters_million": round(parameters / 1e6, 1),
        "clips": arguments.clips,
        "batch": arguments.batch,
        "steps_per_second": {name: round(value, 2) for name, value in rate.items()},
        **{f"ours_over_{name}": round(rate["ours"] / rate[name], 2) for name in peers},
        "outside_model": {
            "ours": round(max(0.0, 1 - rate["ours"] / rate["ours, model alone"]), 3),
            **{name: round(max(0.0, 1 - rate[name] / rate["peer, model alone"]), 3) for name in peers},
        },
        "model_tflops": round(flops * rate["ours"] / 1e12, 3),
        "minutes_for_40_epochs_of_77265_clips": round(EPOCHS * PAPER_CLIPS / 48 / rate["ours"] / 60, 1),
    }
    if arguments.peak_tflops:
        result["model_flops_utilisation"] = round(result["model_tflops"] / arguments.peak_tflops, 3)
    print(result)
    return result


if __name__ == "__main__":
    main()
