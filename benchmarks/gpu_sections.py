"""What ``benchmarks.gpu`` measures, section by section; each gives its figures as soon as it has them."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import benchmarks.extract
import benchmarks.predict
import benchmarks.sampler
import benchmarks.train
from benchmarks.common import peak_memory_gb, seconds
from generate.audioldm2 import AudioLDM2
from generate.sampling import Batch, Sampler
from manifests.builders import clips_from_folder
from manifests.manifest import make_manifest
from pipeline.cache import ShardContent, open_store
from pipeline.encoders import load_encoder
from pipeline.encoders.base import cast_matrices
from pipeline.extract import Extractor
from presets import Preset, load_preset
from trainer.data import load_data

Figures = Iterator[tuple[str, Any]]
_VISUAL = ("cavp", "timechat")
_GB = 1e9


@dataclass(frozen=True)
class Settings:
    """Where and on what: a preset's name, a device, and the folder for what is written on the way.

    ``quick``: the smallest numbers that go through all the code.
    """

    preset: str
    device: str
    quick: bool
    folder: str

    def load(self, *assignments: str) -> Preset:
        return load_preset(self.preset, ["weights.source=seeded", "mapper.initialise=scratch", *assignments])

    def choose(self, usual: Any, quick: Any) -> Any:
        return quick if self.quick else usual

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


def memory(settings: Settings) -> dict[str, float]:
    """Peaks in GB: of this process, and, since the last call, on the GPU."""
    peaks = {"host_gb": round(peak_memory_gb(), 2)}
    if settings.cuda:
        peaks["gpu_gb"] = round(torch.cuda.max_memory_allocated() / _GB, 2)
        torch.cuda.reset_peak_memory_stats()
    return peaks


def timed(function: Callable[[], Any], rounds: int) -> float:
    """Median seconds after one call that is not counted."""
    function()
    return float(np.median([seconds(function) for _ in range(rounds)]))


def predict(settings: Settings) -> Figures:
    values = benchmarks.predict.measure(
        settings.load(), settings.choose(256, 2), settings.choose(5, 1), settings.device
    )
    yield "prediction", values
    yield "memory", memory(settings)


def cache(settings: Settings) -> Figures:
    """A cache on disk to tensors on the device, and its batches without a model."""
    clips, per_shard = settings.choose(16_384, 32), settings.choose(1024, 16)
    preset = settings.load()
    joined = benchmarks.train.synthetic(clips, preset.encoders.audiomae.width)
    store = open_store(Path(settings.folder) / "cache")
    size = sum(array.nbytes for array in joined.arrays.values())
    for stage, array in joined.arrays.items():
        for shard, first in enumerate(range(0, clips, per_shard)):
            rows = slice(first, first + per_shard)
            ids = joined.clip_ids[rows]
            made_by = {"stage": stage, "weights": "seeded", "media": {}, "config": {}, "preset": preset.name}
            content = ShardContent(ids, ids, ("train",) * len(ids), made_by, {"features": array[rows]})
            store.write(stage, shard, content)
    names = [*_VISUAL, preset.target]
    loaded = timed(lambda: load_data(store, names, torch.device(settings.device), "memory"), 1)
    yield "to the device", {"gigabytes": size / _GB, "seconds": loaded, "gb_per_second": size / _GB / loaded}
    data = load_data(store, names, torch.device(settings.device), "memory")

    def epoch() -> None:
        for _ in data.batches("train", 48, 0):
            pass

    yield "batches of 48 a second, no model", -(-clips // 48) / timed(epoch, 2)
    yield "memory", memory(settings)


def train(settings: Settings) -> Figures:
    """Steps a second, ours against the peers, and what they make of 40 epochs of the paper's clips."""
    size = settings.choose("paper", "small")
    numbers = {
        "clips": settings.choose(8192, 96),
        "file-clips": settings.choose(2048, 48),
        "steps": settings.choose(60, 1),
        "rounds": settings.choose(2, 1),
        "workers": settings.choose(min(8, os.cpu_count() or 1), 0),
        "batch": settings.choose(48, 8),
    }
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    base = ["--size", size, "--device", settings.device, *options]
    folder = Path(settings.folder) / "train"
    yield (
        "ours",
        benchmarks.train.measure(benchmarks.train.build_parser().parse_args([*base, "--without-peers"]), folder),
    )
    yield "memory", memory(settings)
    yield "with peers", benchmarks.train.measure(benchmarks.train.build_parser().parse_args(base), folder)


def generate(settings: Settings) -> Figures:
    """Single batches, then batch after batch as a split goes through them; the loop of diffusers; compiled."""
    steps, batches = settings.choose(100, 2), settings.choose((1, 8, 32), (1, 2))
    largest, rounds = batches[-1], settings.choose(2, 1)
    precision = settings.choose("bfloat16", "float32")
    sizes = {"precision": precision, "channels_last": settings.cuda, "batch": largest, "decode_batch": largest}
    preset = settings.load(f"generation.steps={steps}", *(f"generation.{k}={v}" for k, v in sizes.items()))
    started = time.monotonic()
    work = benchmarks.sampler.prepare(preset, largest, settings.device)
    yield "seconds to build and move", round(time.monotonic() - started, 1)

    def one(clips: int, rows: int = 0) -> dict[str, Any]:
        work.ours(2, clips, rows)
        spent = float(np.median([seconds(lambda: work.ours(steps, clips, rows)) for _ in range(rounds)]))
        return {
            "precision": precision,
            "steps": steps,
            "seconds": spent,
            "clips_per_hour": 3600 * clips / spent,
            **memory(settings),
        }

    memory(settings)
    for clips in batches:
        yield f"batch {clips}", one(clips)
    work.theirs(2, 1)
    alone = seconds(lambda: work.theirs(steps, 1))
    yield "AudioLDM2Pipeline, clip by clip", {"seconds": alone, "clips_per_hour": 3600 / alone}
    work.model.compile()
    for clips in reversed(batches):
        first = seconds(lambda clips=clips: work.ours(2, clips))
        yield f"batch {clips}, compiled", {"seconds_to_compile": first, **one(clips)}
    yield f"batch {largest - 1} filled up to {largest}, compiled", one(largest - 1, largest)
    yield f"batches of {largest}, compiled", streamed(preset, work.model, largest)


def streamed(preset: Preset, model: AudioLDM2, size: int) -> dict[str, Any]:
    """Three batches: each waited for before the next is launched, and decoded while the next is denoised."""
    mapper, visual = benchmarks.predict.seeded_mapper(preset, size)
    sampler = Sampler(mapper.to(model.device), model, preset, "")
    names = [[f"clip {batch} {row}" for row in range(size)] for batch in range(3)]
    batches = [Batch(visual, each, each) for each in names]
    sampler.generate(visual, names[0], names[0])
    waited = seconds(lambda: [sampler.start(batch).result() for batch in batches])
    ahead = seconds(lambda: list(sampler.stream(batches)))
    return {
        "seconds": ahead,
        "seconds_each_waited_for": waited,
        "clips_per_hour": 3600 * len(batches) * size / ahead,
    }


def extract(settings: Settings) -> Figures:
    """The real extraction from 720p files, then each encoder alone with and without ``torch.compile``."""
    shards, per_shard, batch = settings.choose((5, 16, 8), (2, 2, 2))
    workers = settings.choose(max((os.cpu_count() or 2) - 1, 1), 1)
    preset = settings.load(f"cache.encode_batch={batch}", f"cache.decode_workers={workers}")
    videos = Path(settings.folder) / "videos"
    rendered = settings.choose(4, 1)
    benchmarks.extract.render(videos, rendered)
    originals = sorted(videos.iterdir())
    for number in range(rendered, shards * per_shard):
        shutil.copy(originals[number % rendered], videos / f"copy{number:04d}.mp4")
    manifest = make_manifest(clips_from_folder(videos), per_shard)
    names = benchmarks.extract.STAGE_NAMES
    store = open_store(Path(settings.folder) / "features")
    with Extractor(manifest, store, preset, names, device=settings.device, precision="bfloat16") as extractor:
        extractor.run([0])
        before = dict(extractor.report.seconds)
        extractor.run(range(1, shards))
        spent = {name: value - before.get(name, 0.0) for name, value in extractor.report.seconds.items()}
        encoders = {name: extractor.encoder(name) for name in names}
    yield (
        "all stages",
        {
            "clips_per_second": (shards - 1) * per_shard / spent["total"],
            "encoder_busy": spent["encode"] / spent["total"],
            "decode_workers": workers,
            "precision": "bfloat16",
            "batch": batch,
            **memory(settings),
        },
    )
    for compiled in (False, True):
        for name, inputs in encoder_inputs(batch, settings.choose(40, 4)).items():
            if compiled:
                encoders[name].compile_submodules()
            yield f"{name}{', compiled' if compiled else ''}", encode(settings, encoders[name], inputs)


def encode(settings: Settings, encoder: Any, inputs: tuple[Any, ...]) -> dict[str, Any]:
    first = seconds(lambda: encoder.encode(*inputs))
    spent = timed(lambda: encoder.encode(*inputs), settings.choose(3, 1))
    return {"clips_per_second": len(inputs[0]) / spent, "seconds_of_first_call": first, **memory(settings)}


def encoder_inputs(batch: int, frames: int) -> dict[str, tuple[Any, ...]]:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 255, (batch, frames, 3, 224, 224), np.uint8)
    waveforms = 0.1 * random.standard_normal((batch, 160_000), np.float32)
    return {"cavp": (pictures,), "timechat": (pictures, np.arange(frames) / 4), "audiomae": (waveforms,)}


def parity(settings: Settings) -> Figures:
    """Relative differences (of the norm) from the CPU, in float32 without TF32 and with half-precision weights.

    And how often the host waited for the device: in a prediction, an encoded batch, four sampler steps.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    preset, device = settings.load(), settings.device

    def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return float((ours.cpu().float() - theirs).norm() / theirs.norm())

    mapper, visual = benchmarks.predict.seeded_mapper(preset, 2)
    wanted = mapper.predict(visual)
    mapper.to(device)
    visual = {name: array.to(device) for name, array in visual.items()}
    ours = mapper.predict(visual)
    waits = synchronisations(settings, lambda: mapper.predict(visual))
    yield "mapper", {"float32": difference(ours, wanted), "waits": waits}
    for name, inputs in encoder_inputs(1, 4).items():
        yield name, encoder_parity(settings, load_encoder(name, preset=preset), inputs, difference)
    work = benchmarks.sampler.prepare(preset, 1, "cpu")
    wanted = work.ours(2)
    work.to(device)
    row: dict[str, Any] = {"float32": difference(work.ours(2), wanted)}
    few, many = (synchronisations(settings, lambda n=n: work.denoise(n)) for n in (2, 6))
    row["waits in four steps"] = None if few is None or many is None else many - few
    cast_matrices(work.model.unet, "bfloat16")
    work.model.precision = "bfloat16"
    yield "waveform after 2 steps", {**row, "bfloat16": difference(work.ours(2), wanted)}
    yield "memory", memory(settings)


def encoder_parity(
    settings: Settings, encoder: Any, inputs: tuple[Any, ...], difference: Callable[..., float]
) -> dict[str, Any]:
    wanted = encoder.encode(*inputs)
    encoder.to(settings.device)
    row: dict[str, Any] = {"float32": difference(encoder.encode(*inputs), wanted)}
    row["waits"] = synchronisations(settings, lambda: encoder.encode(*inputs))
    encoder.set_precision("bfloat16")
    return {**row, "bfloat16": difference(encoder.encode(*inputs), wanted)}


def synchronisations(settings: Settings, function: Callable[[], Any]) -> int | None:
    """As torch counts them; None where there is no CUDA to wait for."""
    if not settings.cuda:
        function()
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


@dataclass(frozen=True)
class Section:
    run: Callable[[Settings], Figures]
    seconds: float


# What costs little comes first, so that its seconds go to what compiles.
SECTIONS = {
    "predict": Section(predict, 40),
    "cache": Section(cache, 40),
    "parity": Section(parity, 110),
    "train": Section(train, 90),
    "generate": Section(generate, 110),
    "extract": Section(extract, 110),
}
