"""The folder of a run: what the run is, its checkpoints, and what is made of each of them."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object

from common.errors import CacheError, WeightsError
from common.writing import make_folder, remove_leftovers, write_text
from presets.identity import Kind, differences
from trainer.checkpoints import MODEL, Progress, check_sums, refuse_pickles, save_checkpoint, whole_folder
from trainer.curves import draw_curves
from trainer.mapper import Mapper, MapperSpec, read_spec

_DRAWN_EVERY_SECONDS = 10.0

T = TypeVar("T")


def kept_mapper(epoch: int) -> str:
    """The name of the folder of a run in which the mapper as it was after ``epoch`` epochs is."""
    return f"mapper-epoch-{epoch:05d}"


class RunFolder:
    """``train.yaml`` (settings), ``metrics.jsonl``, ``curves.png``, ``worst_clips.json``, ``logs/`` (TensorBoard),
    ``checkpoints/`` (the last two), ``mapper/`` (last), ``mapper-best/`` (lowest free-running validation error) and
    those of ``training.keep_epochs`` (:func:`kept_mapper`).

    All processes read it and must see the same files; the main one alone calls what writes.
    """

    def __init__(self, path: str | Path, accelerator: Accelerator):
        self.path, self.accelerator = Path(path), accelerator
        self._drawn = -math.inf

    def claim(self, settings: dict[str, Any], preset: dict[str, Any], kind: Kind) -> bool:
        """Write ``train.yaml``, or check that the folder's run is this one; whether there was a run.

        For :func:`presets.identity.differences`: ``settings`` make two runs the same run, ``kind`` is the record's.
        Raises :class:`CacheError`.
        """
        path = self.path / "train.yaml"
        known = _same_everywhere(path.is_file(), self.path)  # every process has looked before one of them writes
        if self.accelerator.is_main_process:
            make_folder(self.path)
            remove_leftovers(self.path, self.path / "checkpoints")
        if known:
            self._check_settings(path, settings, kind)
        elif self.accelerator.is_main_process:
            write_text(path, yaml.safe_dump({"run": settings, "preset": preset}))
        return known

    def _check_settings(self, path: Path, settings: dict[str, Any], kind: Kind) -> None:
        for checkpoint in self.checkpoints():
            refuse_pickles(checkpoint)
        try:
            saved = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise CacheError(f"{path} is damaged ({error}): use another RUN folder") from error
        if found := differences(saved, settings, kind):
            raise CacheError(
                f"{self.path} holds a run with other settings or clips ({'; '.join(map(str, found))}): use another "
                f"RUN folder"
            )

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("epoch-*") if re.fullmatch(r"epoch-\d{5,}", p.name))

    def newest(self) -> Path | None:
        """The last complete checkpoint; raises :class:`CacheError` if another process sees another one."""
        found = self.checkpoints()
        _same_everywhere(found[-1].name if found else "", self.path)
        return found[-1] if found else None

    def save(self, model: Mapper, optimizer: Any, progress: Progress) -> None:
        """Write a checkpoint and keep the last two."""
        save_checkpoint(self.path / "checkpoints" / f"epoch-{progress.epoch:05d}", model, optimizer, progress)
        for old in self.checkpoints()[:-2]:
            shutil.rmtree(old)

    def publish(
        self, model: Mapper, spec: MapperSpec, metrics: list[dict[str, Any]], last: bool, kept: bool = False
    ) -> None:
        """All that follows from a checkpoint, unless it is there: a kill between the two loses nothing."""
        lines = "".join(json.dumps(line) + "\n" for line in metrics)
        path = self.path / "metrics.jsonl"
        if not path.is_file() or path.read_text(encoding="utf-8") != lines:
            write_text(path, lines)
        # Drawing takes longer than an epoch of a small run.
        if last or time.monotonic() - self._drawn > _DRAWN_EVERY_SECONDS:
            draw_curves(metrics, self.path / "curves.png")
            self._drawn = time.monotonic()
        provenance = {**spec.provenance, "epochs": len(metrics), "metrics": metrics[-1]}
        model.spec = replace(spec, provenance=provenance)
        self.save_mapper("mapper", model)
        if _best_epoch(metrics) == len(metrics):
            self.save_mapper("mapper-best", model)
        if kept:
            self.save_mapper(kept_mapper(len(metrics)), model)

    def save_mapper(self, name: str, model: Mapper) -> None:
        """The mapper alone, for generation, swapped in as a whole folder unless it is there."""
        final = self.path / name
        try:
            same = read_spec(final).provenance.get("epochs") == model.spec.provenance["epochs"]
            if same and (final / MODEL).is_file() and not check_sums(final, (MODEL,)):
                return
        except WeightsError:
            pass  # none, or a damaged one
        with whole_folder(final) as temporary:
            model.save_pretrained(temporary)


def _same_everywhere(seen: T, path: Path) -> T:
    if any(other != seen for other in gather_object([seen])):
        raise CacheError(f"not all processes see the same files in {path}: they need one file system")
    return seen


def _best_epoch(metrics: list[dict[str, Any]]) -> int | None:
    """The epoch of the lowest free-running validation error that is finite."""
    errors = [(line.get("validation_free_running"), epoch) for epoch, line in enumerate(metrics, start=1)]
    finite = [(error, epoch) for error, epoch in errors if error is not None]
    return min(finite)[1] if finite else None
