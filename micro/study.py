"""The paper's comparisons at micro scale: Table 2, Table 3 and Figure 3, with a ceiling and controls.

A folder holds everything, each part made once: ``clips``, ``cache``, ``runs`` (a mapper for each variant and
seed), ``tokens``, ``sound`` (wav by condition), ``results.json``, ``study.md`` and ``figure3.png``, and what
:mod:`micro.curve` makes of the same mappers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from generate.audioldm2 import AudioLDM2, Conditioning
from generate.audioldm2_loader import load_audioldm2
from generate.mel import LogMel
from manifests.builders import clips_from_folder
from manifests.manifest import Manifest, make_manifest, read_manifest, write_manifest
from micro.data import SAMPLES
from micro.world.render import KINDS, render_world, scene_of
from micro.world.scene import Scene
from pipeline.cache import Joined, Store, join, open_store
from pipeline.cluster import ExtractJob
from pipeline.encoders.audiomae import normalise_waveform
from pipeline.media import decode_clip
from pipeline.media.writing import read_wav, write_wav
from pipeline.probing import probe_clips
from presets import Preset, load_preset
from presets.config import GenerationConfig
from trainer.registry import MFMMapper

# Variant -> what it changes; the first is the paper's own.
VARIANTS: dict[str, list[str]] = {
    "MFM-Mapper": [],
    "CAVP": ["mapper.encoders=[cavp]"],
    "TimeChat": ["mapper.encoders=[timechat]"],
    "add": ["mapper.fusion=add"],
    "cat": ["mapper.fusion=cat"],
    "Diff-Mapper": ["mapper.kind=diffusion"],
}
SHUFFLED, LABEL, ORACLE, CEILING, TRUTH = "shuffled videos", "label only", "oracle", "ceiling", "truth"
STAGES = ("cavp", "timechat", "audiomae", "flan_t5")
SYNTHESIS_BATCH = 12


@dataclass(frozen=True)
class Study:
    """What is compared: how many clips are rendered, seeds of the mapper, test clips a class."""

    folder: Path
    clips: int = 1440
    seeds: int = 3
    per_class: int = 4
    preset_name: str = "micro"
    assignments: tuple[str, ...] = ()

    @property
    def preset(self) -> Preset:
        return load_preset(self.preset_name, self.assignments)

    def mapper_preset(self, variant: str, seed: int) -> Preset:
        return load_preset(self.preset_name, [*self.assignments, *VARIANTS[variant], f"training.seed={seed}"])

    def run_folder(self, variant: str, seed: int) -> Path:
        return self.folder / "runs" / f"{variant.lower()}-{seed}"

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "cache" / "manifest.parquet")

    @property
    def store(self) -> Store:
        return open_store(self.folder / "cache", "hdf5")

    @cached_property
    def joined(self) -> Joined:
        return join(self.store, ("cavp", "timechat", self.preset.target))

    @cached_property
    def test_clips(self) -> list[str]:
        """Ids of the first test clips of each class that have every feature."""
        chosen: list[str] = []
        for label in KINDS:
            of_class = [
                clip_id
                for clip_id, name, split in zip(
                    self.joined.clip_ids, self.joined.labels, self.joined.splits, strict=True
                )
                if name == label and split == "test"
            ]
            chosen += of_class[: self.per_class]
        return chosen

    @property
    def labels(self) -> list[str]:
        return [scene(clip_id).label for clip_id in self.test_clips]

    def rows(self, clip_ids: Sequence[str]) -> list[int]:
        place = {clip_id: row for row, clip_id in enumerate(self.joined.clip_ids)}
        return [place[clip_id] for clip_id in clip_ids]

    def conditions(self) -> list[str]:
        """Names of everything that is made to sound, ``variant/seed`` where a mapper is behind it."""
        seeded = [f"{name}/{seed}" for name in (*VARIANTS, SHUFFLED) for seed in range(self.seeds)]
        return [CEILING, ORACLE, LABEL, *seeded]


def scene(clip_id: str) -> Scene:
    """The scene behind a rendered clip: ``world000012_000000`` is number 12."""
    return scene_of(int(clip_id.removeprefix("world").split("_")[0]))


def prepare(study: Study, note: Callable[[str], None]) -> None:
    """Clips and cache; what is there is left alone."""
    made = sum(new for _, new in render_world(study.folder / "clips", study.clips))
    note(f"{made} clips rendered")
    settings = study.preset
    path = study.folder / "cache" / "manifest.parquet"
    if not path.is_file():
        clips = probe_clips(clips_from_folder(study.folder / "clips"))
        write_manifest(make_manifest(clips, settings.cache.clips_per_shard), path)
    manifest = read_manifest(path)
    job = ExtractJob(manifest, str(study.folder / "cache"), "hdf5", settings, STAGES, {})
    with job.extractor(lambda clips: None) as extractor:
        extractor.run(list(range(manifest.shard_count)))
    note("features cached")


def train_one(study: Study, variant: str, seed: int) -> None:
    """One mapper; a finished run is left as it is."""
    from trainer.train import Trainer

    Trainer(study.mapper_preset(variant, seed), study.store, study.run_folder(variant, seed), "cpu").fit()


@torch.no_grad()
def predict(study: Study, variant: str, seed: int, clip_ids: Sequence[str]) -> np.ndarray:
    """Free-running tokens (N, 8, D) of a trained mapper."""
    mapper = MFMMapper.from_pretrained(study.run_folder(variant, seed) / "mapper")
    rows = study.rows(clip_ids)
    visual = {name: torch.from_numpy(study.joined.arrays[name][rows]).float() for name in mapper.spec.mapper.encoders}
    return mapper.predict(visual).numpy()


def another_of_its_class(clip_ids: Sequence[str]) -> list[str]:
    """For each clip the next one of its class: its class is right and its timing somebody else's."""
    out = []
    for clip_id in clip_ids:
        same = [other for other in clip_ids if scene(other).label == scene(clip_id).label]
        out.append(same[(same.index(clip_id) + 1) % len(same)])
    return out


def tokens_of(study: Study, condition: str, model: AudioLDM2) -> np.ndarray:
    """The AudioMAE tokens (N, 8, D) that a condition gives AudioLDM-2 for the test clips."""
    ids = study.test_clips
    if condition == ORACLE:
        return study.joined.arrays[study.preset.target][study.rows(ids)].astype(np.float32)
    if condition == LABEL:
        branch = model.load_negative_branch().eval()
        made = {}
        for label in KINDS:
            text, mask = model.flan_t5.encode([label])
            made[label] = branch(label, text, mask)[0].numpy()
        return np.stack([made[label] for label in study.labels])
    variant, seed = condition.split("/")
    if variant == SHUFFLED:
        return predict(study, "MFM-Mapper", int(seed), another_of_its_class(ids))
    return predict(study, variant, int(seed), ids)


def true_waveform(study: Study, clip_id: str) -> np.ndarray:
    path = next(clip.path for clip in study.manifest.clips if clip.clip_id == clip_id)
    waveform = decode_clip(path, study.preset.media).waveform
    assert waveform is not None
    return waveform


def synthesise(study: Study, condition: str) -> None:
    """wav of every test clip; those that are there are not made again."""
    folder = study.folder / "sound" / condition
    ids = study.test_clips
    if all((folder / f"{clip_id}.wav").is_file() for clip_id in ids):
        return
    preset = study.preset
    model = load_audioldm2(preset, cache=study.folder)
    tokens: Tensor | None = None
    if condition != CEILING:
        array = tokens_of(study, condition, model)
        path = study.folder / "tokens" / f"{condition}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": np.ascontiguousarray(array)}, path)
        tokens = torch.from_numpy(array)
    for first in range(0, len(ids), SYNTHESIS_BATCH):
        part = ids[first : first + SYNTHESIS_BATCH]
        if tokens is None:
            latents = _true_latents(study, model, part)
        else:
            latents = denoise(model, preset.generation, part, tokens[first : first + len(part)])
        for clip_id, waveform in zip(part, model.decode(latents, preset.media.samples), strict=True):
            write_wav(folder / f"{clip_id}.wav", waveform.numpy(), model.sample_rate)


def denoise(model: AudioLDM2, generation: GenerationConfig, clip_ids: Sequence[str], tokens: Tensor) -> Tensor:
    """Latents (B, C, H, W) of rendered clips from their tokens (B, 8, D) and labels."""
    text, mask = model.encode_labels([scene(clip_id).label for clip_id in clip_ids])
    return model.denoise(
        Conditioning(tokens, text, mask),
        model.negative(generation.negative_prompt),
        model.noise(clip_ids, generation.seed),
        steps=generation.steps,
        guidance_scale=generation.guidance_scale,
        scheduler_name=generation.scheduler,
    )


@torch.no_grad()
def _true_latents(study: Study, model: AudioLDM2, clip_ids: Sequence[str]) -> Tensor:
    waveforms = torch.from_numpy(np.stack([true_waveform(study, clip_id) for clip_id in clip_ids]))
    mel = LogMel()(normalise_waveform(waveforms, SAMPLES))[:, None]
    return model.vae.encode(mel).latent_dist.mode() * model.vae.config.scaling_factor


def load_sound(study: Study, condition: str) -> np.ndarray:
    """Waveforms (N, samples) of a condition's test clips."""
    if condition == TRUTH:
        return np.stack([true_waveform(study, clip_id) for clip_id in study.test_clips])
    folder = study.folder / "sound" / condition
    return np.stack([read_wav(folder / f"{clip_id}.wav")[0] for clip_id in study.test_clips])


def load_tokens(study: Study, condition: str) -> np.ndarray:
    return load_file(study.folder / "tokens" / f"{condition}.safetensors")["tokens"]


Task = tuple[Callable[..., None], tuple[Any, ...]]  # a function of a module, and its arguments


def _work(task: Task) -> None:
    torch.set_num_threads(1)
    function, arguments = task
    function(*arguments)


def work_through(tasks: Sequence[Task], workers: int, title: str, note: Callable[[str], None]) -> None:
    """Do the tasks in so many processes of one thread each; what is done is noted as ``3 of 18 <title>``."""
    if workers < 2:
        for done, task in enumerate(tasks, 1):
            _work(task)
            note(f"{done} of {len(tasks)} {title}")
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(_work, tasks), 1):
            note(f"{done} of {len(tasks)} {title}")
