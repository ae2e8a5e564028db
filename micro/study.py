"""The paper's comparisons at micro scale: which systems, in which conditions, on which clips.

A folder holds everything, each part made once: ``clips``, ``cache``, ``runs`` (a mapper for each system and seed),
``sound`` and ``figure3`` (wav by condition), ``results.json``, ``study.md`` and the figures, and what
:mod:`micro.curve` makes of the same mappers. :mod:`micro.study_run` makes them, part by part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from manifests.manifest import Manifest, read_manifest
from micro.world.render import KINDS, scene_of
from micro.world.scene import Scene
from pipeline.cache import Joined, Store, index, join, open_store
from presets import Preset, load_preset
from presets.encoders import reads
from trainer.run_folder import kept_mapper

TRUTH, CEILING, ORACLE, LABEL, SHUFFLED = "truth", "ceiling", "oracle", "label only", "shuffled videos"
MFM, DIFFUSION, V2A = "MFM-Mapper", "Diff-Mapper", "V2A-Mapper"
# Of V2A-Mapper's training scale, hours an epoch times epochs: with that much the paper's is the better one (its
# abstract). Of as many epochs it is the share of the clips.
SHARE = 0.16
# Of the epochs of the systems of Figure 3, those whose sound is measured: of 100 the 5th, 10th, ...
FIGURE3_PLACES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
# Its mappers are sampled in 50 steps to be validated, which takes longer than the epoch.
_SELDOM = "training.validate_every=10"


@dataclass(frozen=True)
class System:
    """A mapper that is trained: what it changes of our preset, or of the baseline's, in ``times`` its epochs.

    ``goes_on``: the system of which it is the same training, only longer.
    """

    name: str
    assignments: tuple[str, ...] = ()
    baseline: bool = False
    times: float = 1.0
    goes_on: str = ""


SYSTEMS = {
    system.name: system
    for system in (
        System(MFM),
        System("CAVP", ("mapper.encoders=[cavp]",)),
        System("TimeChat", ("mapper.encoders=[timechat]",)),
        System("add", ("mapper.fusion=add",)),
        System("cat", ("mapper.fusion=cat",)),
        System("MFM-Mapper-M", times=2.5, goes_on=MFM),
        System("MFM-Mapper, 16 % of clips", (f"training.share_of_clips={SHARE}",)),
        System(DIFFUSION, ("mapper.kind=diffusion", _SELDOM)),
        System("Diff-Mapper-M", ("mapper.kind=diffusion", _SELDOM), times=2.5, goes_on=DIFFUSION),
        System(V2A, baseline=True),
        System("V2A-Mapper, regression", ("mapper.options={variant: regression, guidance_scale: 1.0}",), baseline=True),
    )
}
FIGURE3 = {"MFM-Mapper-M": "GPT-2", "Diff-Mapper-M": DIFFUSION}


@dataclass(frozen=True)
class Condition:
    """What is made to sound, for one row of the report: whose tokens, by which mapper, on which video and label.

    ``kind``: ``truth`` is the clips' own sound, ``ceiling`` that through VAE and vocoder, ``oracle`` the true tokens,
    ``label`` the tokens of AudioLDM-2's own GPT-2. ``epoch``: of a mapper that was kept; 0 is the last.
    """

    row: str
    system: str = MFM
    seed: int | None = None
    kind: Literal["mapper", "truth", "ceiling", "oracle", "label"] = "mapper"
    video: Literal["own", "another"] = "own"
    label: Literal["right", "none", "wrong"] = "right"
    epoch: int = 0

    @property
    def place(self) -> Path:
        """Its folder below the study's."""
        seed = [] if self.seed is None else [str(self.seed)]
        if self.epoch:
            return Path("figure3", slug(self.row), *seed, f"{self.epoch:05d}")
        return Path("sound", slug(self.row), *seed)

    @property
    def name(self) -> str:
        words = [self.row]
        if self.seed is not None:
            words.append(f"seed {self.seed}")
        if self.epoch:
            words.append(f"epoch {self.epoch}")
        return ", ".join(words)


def slug(name: str) -> str:
    """``MFM-Mapper, 16 %`` -> ``mfm-mapper-16``: a name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Study:
    """What is compared: how many clips are rendered, seeds of the mapper, test clips a class.

    ``baseline``: the preset of V2A-Mapper; empty: without it.
    """

    folder: Path
    clips: int = 1440
    seeds: int = 3
    per_class: int = 4
    preset_name: str = "micro"
    assignments: tuple[str, ...] = ()
    baseline: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # to a worker without what is loaded

    # --- settings ---------------------------------------------------------------------------------

    @property
    def preset(self) -> Preset:
        return load_preset(self.preset_name, self.assignments)

    @property
    def presets(self) -> list[Preset]:
        """Ours, and that of the baseline."""
        return [self.preset, *([load_preset(self.baseline, self.assignments)] if self.baseline else [])]

    @property
    def systems(self) -> dict[str, System]:
        return {name: system for name, system in SYSTEMS.items() if self.baseline or not system.baseline}

    def preset_of(self, system: str, *more: str, options: str = "") -> Preset:
        """The preset of a system; ``options``: of presets, as ``fast``."""
        chosen = SYSTEMS[system]
        name = self.baseline if chosen.baseline else self.preset_name
        return load_preset(f"{name},{options}" if options else name, [*self.assignments, *chosen.assignments, *more])

    def mapper_preset(self, system: str, seed: int) -> Preset:
        chosen = SYSTEMS[system]
        epochs = max(1, round(self.preset_of(system).training.epochs * chosen.times))
        keep = [epoch for name in FIGURE3 if system in (name, SYSTEMS[name].goes_on) for epoch in self.epochs(name)]
        kept = f"training.keep_epochs=[{','.join(map(str, keep))}]"
        return self.preset_of(system, f"training.epochs={epochs}", kept, f"training.seed={seed}")

    def epochs(self, system: str) -> list[int]:
        """Those of Figure 3."""
        last = max(1, round(self.preset_of(system).training.epochs * SYSTEMS[system].times))
        return sorted({max(1, round(place * last)) for place in FIGURE3_PLACES})

    # --- places -----------------------------------------------------------------------------------

    def run_folder(self, system: str, seed: int) -> Path:
        return self.folder / "runs" / f"{slug(system)}-{seed}"

    def mapper_folder(self, condition: Condition) -> Path:
        assert condition.seed is not None
        name = kept_mapper(condition.epoch) if condition.epoch else "mapper"
        return self.run_folder(condition.system, condition.seed) / name

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder / "cache" / "manifest.parquet")

    @property
    def store(self) -> Store:
        return open_store(self.folder / "cache", "hdf5")

    # --- clips ------------------------------------------------------------------------------------

    @cached_property
    def test_clips(self) -> list[str]:
        """Ids of the first test clips of each class that have every feature that is cached."""
        wanted = [stage for preset in self.presets for stage in (*preset.mapper.encoders, preset.target)]
        stages = [stage for stage in self.store.stages() if stage in wanted and reads(stage) != "label"]
        there = index(self.store, stages).shards
        test = sorted(clip.clip_id for clip in self.manifest.clips if clip.split == "test" and clip.clip_id in there)
        return [i for label in KINDS for i in [i for i in test if scene(i).label == label][: self.per_class]]

    @property
    def joined(self) -> Joined:
        """What our mappers read, and what they predict, of every clip."""
        return features(self, (*self.preset.mapper.encoders, self.preset.target))

    def some_test_clips(self, per_class: int) -> list[str]:
        return replace(self, per_class=per_class).test_clips

    # --- conditions -------------------------------------------------------------------------------

    def conditions(self) -> list[Condition]:
        """Everything that is made to sound for the table, row by row."""
        fixed = [
            Condition(TRUTH, kind="truth"),
            Condition(CEILING, kind="ceiling"),
            Condition(ORACLE, kind="oracle"),
            Condition("oracle, no label", kind="oracle", label="none"),
        ]
        if self.baseline:
            fixed.append(Condition("oracle of V2A-Mapper", V2A, kind="oracle"))
        rows = [Condition(name, name) for name in self.systems]
        rows += [
            Condition("MFM-Mapper, no label", label="none"),
            Condition("MFM-Mapper, 16 % of clips, no label", "MFM-Mapper, 16 % of clips", label="none"),
            Condition("MFM-Mapper, wrong label", label="wrong"),
            Condition(SHUFFLED, video="another"),
        ]
        seeded = [replace(row, seed=seed) for row in rows for seed in range(self.seeds)]
        return [*fixed, *seeded, Condition(LABEL, kind="label")]

    def figure3_conditions(self) -> list[Condition]:
        return [
            Condition(name, name, seed, epoch=epoch)
            for name in FIGURE3
            for seed in range(self.seeds)
            for epoch in self.epochs(name)
        ]


def scene(clip_id: str) -> Scene:
    """The scene behind a rendered clip: ``world000012_000000`` is number 12."""
    return scene_of(int(clip_id.removeprefix("world").split("_")[0]))


def another_of_its_class(clip_ids: Sequence[str]) -> list[str]:
    """For each clip the next one of its class: its class is right and its timing somebody else's."""
    out = []
    for clip_id in clip_ids:
        same = [other for other in clip_ids if scene(other).label == scene(clip_id).label]
        out.append(same[(same.index(clip_id) + 1) % len(same)])
    return out


def label_given(condition: Condition, clip_id: str) -> str:
    """The label that the audio model is told: the clip's, none, or one of a class half the list away."""
    classes, label = list(KINDS), scene(clip_id).label
    wrong = classes[(classes.index(label) + len(classes) // 2) % len(classes)]
    return {"right": label, "none": "", "wrong": wrong}[condition.label]


@lru_cache(maxsize=4)
def features(study: Study, stages: tuple[str, ...]) -> Joined:
    """The cached stages, joined once a process."""
    return join(study.store, stages)


def rows(joined: Joined, clip_ids: Sequence[str]) -> list[int]:
    place = {clip_id: row for row, clip_id in enumerate(joined.clip_ids)}
    return [place[clip_id] for clip_id in clip_ids]
