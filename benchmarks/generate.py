"""A split of clips from cache to files: the whole command against a loop of ``AudioLDM2Pipeline``, same files.

    python -m benchmarks.generate [--preset micro] [--clips 16] [--steps 12] [--device cuda] [--rounds 3]

Seeded weights, rendered films, random features. Every clip gets ``wav`` and ``wav_8s``; once none gets more, once all
get their video, picture and truth, so that the cost of a shown clip is known apart. Ours and the loop take turns;
medians. From these follow the hours of 15,000 clips (VGGSound's test set) of which 50 are shown; what a run costs once
(workers started, the page) is counted as the clips', so the more clips, the truer.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.common import seconds, write_result
from benchmarks.extract import render
from benchmarks.full_size import difference, diffusers_waveform
from benchmarks.predict import seeded_mapper
from common.runtime import quiet_libraries
from generate.audioldm2 import Conditioning
from generate.clip_files import ClipFiles, write_clip
from generate.sampling import Batch, Sampler, Sound, load_sampler
from generate.split import generate_split
from manifests.builders import clips_from_folder
from manifests.manifest import Clip, make_manifest
from pipeline.cache import ShardContent, Store, open_store
from pipeline.cache.selection import clips_digest
from presets import Preset, load_preset
from trainer.provenance import features_provenance

CLIPS, SHOWN = 15_000, 50
LOOP = "AudioLDM2Pipeline loop"


@dataclass
class Spent:
    """Seconds, of the clock and of this process's cores."""

    wall: float = 0.0
    cores: float = 0.0


@dataclass(frozen=True)
class Timed(Sampler):
    """A sampler that notes what it takes itself: launching batches, and waiting for their sound."""

    spent: Spent = field(default_factory=Spent)

    def start(self, batch: Batch, *options: Any) -> Sound:
        return _TimedSound(self._noting(lambda: super(Timed, self).start(batch, *options)), self)

    def _noting(self, call: Any) -> Any:
        wall, cores = time.perf_counter(), time.process_time()
        try:
            return call()
        finally:
            self.spent.wall += time.perf_counter() - wall
            self.spent.cores += time.process_time() - cores


class _TimedSound(Sound):
    def __init__(self, sound: Sound, sampler: Timed):
        self.sound, self.sampler = sound, sampler

    def result(self) -> np.ndarray:
        return self.sampler._noting(self.sound.result)


@dataclass(frozen=True)
class Job:
    """A split with its cache and mapper in a folder."""

    folder: Path
    preset: Preset
    store: Store
    clips: list[Clip]
    device: str

    def sampler(self) -> Timed:
        return Timed(*vars(load_sampler(self.preset, self.folder / "mapper", self.device)).values())


def prepare(preset: Preset, clips: int, folder: Path, device: str) -> Job:
    """Copies of a 720p film, features and a mapper of seeded weights."""
    render(folder / "videos", 1)
    (film,) = (folder / "videos").iterdir()
    for number in range(1, clips):
        shutil.copy(film, folder / "videos" / f"copy{number:05d}.mp4")
    manifest = make_manifest(clips_from_folder(folder / "videos"), clips)
    mapper, features = seeded_mapper(preset, clips)
    made_by = {stage: {"stage": stage, "weights": "seeded", "media": {}, "config": {}} for stage in features}
    mapper.spec = replace(mapper.spec, provenance=features_provenance(made_by))
    mapper.save_pretrained(folder / "mapper")
    store, ids = open_store(folder / "cache"), tuple(clip.clip_id for clip in manifest.clips)
    for stage, array in features.items():
        fingerprint = {**made_by[stage], "clips": clips_digest(manifest.clips)}
        arrays = {"features": array.numpy().astype(np.float16)}
        store.write(stage, 0, ShardContent(ids, ids, ("test",) * clips, fingerprint, arrays))
    return Job(folder, preset, store, list(manifest.clips), device)


def whole(job: Job, videos: str, number: int) -> dict[str, float]:
    """Our command: seconds of its parts. ``videos``: see :func:`generate.split.generate_split`."""
    out, before = job.folder / f"ours{number}", cores_of_all()
    began, loading = time.perf_counter(), time.process_time()
    sampler = job.sampler()
    load, loading = time.perf_counter() - began, time.process_time() - loading
    outcome = generate_split(sampler, job.store, job.clips, out, videos=videos)
    wall = time.perf_counter() - began
    if outcome.failed:
        raise RuntimeError(f"not every clip was made: {outcome.failed}")
    spent = sampler.spent
    outside = cores_of_all() - before - spent.cores - loading
    shutil.rmtree(out)
    return {
        "load": load,
        "sampler": spent.wall,
        "outside": wall - load - spent.wall,
        "wall_over_sampler": (wall - load) / spent.wall,
        "cpu_seconds_a_clip_outside": outside / len(job.clips),
    }


def loop(job: Job, videos: str, number: int) -> dict[str, float]:
    """The same files, clip by clip, by diffusers' pipeline."""
    out = job.folder / f"theirs{number}"
    began = time.perf_counter()
    sampler = job.sampler()
    load = time.perf_counter() - began
    arrays = {name: job.store.read(name, 0).features for name in sampler.encoders}
    rate, sampling = sampler.audio_model.sample_rate, 0.0
    for row, clip in enumerate(job.clips):
        started = time.perf_counter()
        waveform = theirs(sampler, {name: array[row : row + 1] for name, array in arrays.items()}, clip)
        sampling += time.perf_counter() - started
        write_clip(ClipFiles(clip, out, job.preset.media, rate, videos == "all", clip.clip_id), waveform, "")
    wall = time.perf_counter() - began
    shutil.rmtree(out)
    return {"load": load, "sampler": sampling, "outside": wall - load - sampling}


def theirs(sampler: Sampler, features: dict[str, np.ndarray], clip: Clip) -> np.ndarray:
    """Waveform (samples,) of one clip by ``AudioLDM2Pipeline``."""
    generation, model = sampler.preset.generation, sampler.audio_model
    visual = {name: torch.from_numpy(array).float() for name, array in features.items()}
    tokens = sampler.predict(visual, [clip.clip_id])
    positive = Conditioning(tokens, *model.encode_labels([clip.label]))
    negative, noise = model.negative(generation.negative_prompt), model.noise([clip.clip_id], generation.seed)
    made = diffusers_waveform(model, positive, negative, noise, generation.steps, generation.scheduler)
    return made[0, : sampler.preset.media.samples].clamp(-1, 1).float().cpu().numpy()


def cores_of_all() -> float:
    """CPU seconds of this process, its workers, and those that have ended."""
    total = 0.0
    for process in (here := psutil.Process(), *here.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that were waited for
        except psutil.NoSuchProcess:
            continue
    return total


def hours(load: float, clip: float, shown: float) -> float:
    """Of ``CLIPS`` clips, ``SHOWN`` of them shown, from seconds."""
    return (load + CLIPS * clip + SHOWN * shown) / 3600


def measure(job: Job, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-c", "import generate.__main__"]
    imports = seconds(lambda: subprocess.run(command, check=True))
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds + 1):
        for videos in ("none", "all"):
            for name, run in (("ours", whole), (LOOP, loop)):
                row = run(job, videos, number)
                if number:  # the first round warms up
                    runs.setdefault((name, videos), []).append(row)
    parts = {
        key: {part: statistics.median(row[part] for row in rows) for part in rows[0]} for key, rows in runs.items()
    }
    values: dict[str, Any] = {"clips": len(job.clips), "steps": job.preset.generation.steps, "imports": imports}
    for name in ("ours", LOOP):
        plain, with_video = parts[name, "none"], parts[name, "all"]
        clip, shown = ((row["sampler"] + row["outside"]) / len(job.clips) for row in (plain, with_video))
        values[name] = {
            "seconds, wav and wav_8s": plain,
            "seconds, all shown": with_video,
            "seconds_a_clip": clip,
            "seconds_more_a_shown_clip": shown - clip,
            f"hours_for_{CLIPS}_clips": {
                "all": hours(imports + plain["load"], clip, shown - clip),
                **{part: hours(0, plain[part] / len(job.clips), 0) for part in ("sampler", "outside")},
            },
        }
    values["ours_times_as_fast"] = values[LOOP]["seconds_a_clip"] / values["ours"]["seconds_a_clip"]
    values["relative_difference"] = compare(job, job.clips[:2])
    return values


def compare(job: Job, clips: Sequence[Clip]) -> float:
    """Between our waveforms of a batch and theirs of its clips, of the norm."""
    sampler, ids = job.sampler(), [clip.clip_id for clip in clips]
    features = {name: job.store.read(name, 0).features[: len(clips)] for name in sampler.encoders}
    visual = {name: torch.from_numpy(array).float() for name, array in features.items()}
    ours = sampler.generate(visual, [clip.label for clip in clips], ids)
    rows = [{name: array[row : row + 1] for name, array in features.items()} for row in range(len(clips))]
    wanted = np.stack([theirs(sampler, row, clip) for row, clip in zip(rows, clips, strict=True)])
    return difference(torch.from_numpy(ours), torch.from_numpy(wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="micro")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    fixed = ["weights.source=seeded", "mapper.initialise=scratch", f"generation.steps={arguments.steps}"]
    preset = load_preset(arguments.preset, [*fixed, *arguments.set])
    folder = Path(tempfile.mkdtemp())
    try:
        values = measure(prepare(preset, arguments.clips, folder, arguments.device), arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(values)
    write_result(f"generate_{preset.name}_{arguments.device}", values, arguments.out)


if __name__ == "__main__":
    main()
