"""Fit a mapper on a cache (paper section 4.1.2): AdamW, teacher forcing, a checkpoint every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate.utils import gather_object, set_seed

from common.errors import CacheError, InputError, MFMError, WeightsError
from common.writing import make_folder, remove_leftovers, write_text
from pipeline.cache import Store
from presets import Preset
from presets.identity import differences
from trainer.checkpoints import (
    MODEL,
    Progress,
    check_sums,
    load_checkpoint,
    refuse_pickles,
    save_checkpoint,
    whole_folder,
)
from trainer.curves import draw_curves
from trainer.data import TARGET, Batch, Data, epoch_order, load_data
from trainer.device import build_accelerator
from trainer.initialise import initial_weights, initialise
from trainer.mapper import Mapper, MapperSpec, read_spec
from trainer.provenance import features_provenance, record_kind
from trainer.registry import build_mapper
from trainer.validate import target_statistics, validate


class TrainingError(MFMError):
    """Training cannot go on: a loss that is not finite, with the clips of the batch."""

    exit_code = 8


_DRAWN_EVERY_SECONDS = 10.0

T = TypeVar("T")


@dataclass
class Outcome:
    """What a call of :meth:`Trainer.fit` did.

    ``notes``: what a user should know besides the figures. A metric that was not finite is None.
    """

    epochs_before: int
    epochs_now: int
    seconds: float
    metrics: dict[str, float | None]
    notes: list[str]


# What may change between two parts of one run: nothing of it changes the numbers.
_FREE = ("epochs", "log_every", "data", "compile")


class Trainer:
    """One run in one folder.

    ``train.yaml`` (settings), ``metrics.jsonl``, ``curves.png``, ``worst_clips.json``, ``logs/``
    (TensorBoard), ``checkpoints/`` (the last two), ``mapper/`` (last) and ``mapper-best/`` (lowest
    free-running validation error).
    """

    def __init__(self, preset: Preset, store: Store, run: str | Path, device: str = "auto"):
        self.preset, self.run = preset, Path(run)
        training = preset.training
        self.accelerator = build_accelerator(device, training.mixed_precision, run)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.encoders = list(preset.mapper.encoders)
        self.data: Data = load_data(
            store,
            [*self.encoders, TARGET],
            self.accelerator.device,
            training.data,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            agree=lambda fits: all(gather_object([fits])),
        )
        self._check_widths()
        clips = {split: self.data.clip_ids(split) for split in ("train", "validation")}
        self.train_clips, self.validation_clips = len(clips["train"]), len(clips["validation"])
        self.clips_digest = hashlib.sha256(json.dumps(clips).encode()).hexdigest()
        if not self.train_clips:
            raise InputError(f"{store.files.root} has no clip of split 'train' with all stages")
        set_seed(training.seed)
        self.spec = self._spec(target_statistics(self.data, 256))
        model = build_mapper(self.spec)
        initialise(model, initial_weights(preset))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters = sum(parameter.numel() for parameter in parameters)
        optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.betas[0], training.betas[1]),
            weight_decay=training.weight_decay,
            fused=True,
        )
        # Not prepared: Accelerate would step it once a process, but our batches are global.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate)
        if training.compile:
            model.compile()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.epoch = 0
        self.metrics: list[dict[str, int | float | None]] = []
        self.notes: list[str] = []
        made_with = {values.get("preset", preset.name) for values in self.data.provenance.values()} - {preset.name}
        if made_with:
            self.notes.append(
                f"the features were made with preset {', '.join(map(repr, sorted(map(str, made_with))))}, and this is "
                f"'{preset.name}': generate with a preset that has the same encoders"
            )
        self._drawn = -math.inf

    def _learning_rate(self, step: int) -> float:
        """Factor on the learning rate: a linear warm-up, then constant or a cosine to zero."""
        training = self.preset.training
        factor = min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
        if training.schedule == "cosine":
            total = training.epochs * -(-self.train_clips // training.global_batch)
            factor *= 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
        return factor

    def _spec(self, statistics: dict[str, float]) -> MapperSpec:
        return MapperSpec(
            mapper=self.preset.mapper,
            dimensions={name: self.data.shapes[name][1] for name in self.encoders},
            lengths={name: self.data.shapes[name][0] for name in self.encoders},
            target=self.data.shapes[TARGET],
            loss=self.preset.training.loss,
            statistics=statistics,
            provenance={
                "preset": self.preset.name,
                **features_provenance(self.data.provenance),
                "train_clips": self.train_clips,
            },
        )

    def _check_widths(self) -> None:
        for name in (*self.encoders, TARGET):
            width = self.preset.encoders[name].dimension
            if width not in (None, self.data.shapes[name][1]):
                raise CacheError(
                    f"the cached '{name}' features have {self.data.shapes[name][1]} values, preset "
                    f"'{self.preset.name}' makes {width}: this cache belongs to another preset "
                    f"('{self.data.provenance[name].get('preset')}')"
                )

    # --- folder -------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """What makes two runs the same run: clips, their features, the mapper, and how it is fitted."""
        # With a schedule that ends at the last epoch, the number of epochs changes every step.
        free = _FREE if self.preset.training.schedule == "constant" else _FREE[1:]
        training = {k: v for k, v in self.preset.to_dict()["training"].items() if k not in free}
        features = features_provenance(self.data.provenance)
        return {
            "mapper": self.preset.to_dict()["mapper"],
            "training": training,
            **features,
            "train_clips": self.train_clips,
            "clips": self.clips_digest,
        }

    def prepare_folder(self) -> None:
        """Write ``train.yaml``, or check that the folder's run is this one; then load its last checkpoint."""
        path = self.run / "train.yaml"
        known = self._same_everywhere(path.is_file())  # every process has looked before one of them writes
        if self.accelerator.is_main_process:
            make_folder(self.run)
            remove_leftovers(self.run, self.run / "checkpoints")
        if known:
            self._check_settings(path)
            self.resume()
        elif self.accelerator.is_main_process:
            write_text(path, yaml.safe_dump({"run": self._settings(), "preset": self.preset.to_dict()}))
        self.accelerator.wait_for_everyone()

    def _check_settings(self, path: Path) -> None:
        for checkpoint in self.checkpoints():
            refuse_pickles(checkpoint)
        try:
            saved = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise CacheError(f"{path} is damaged ({error}): use another RUN folder") from error
        if found := differences(saved, self._settings(), record_kind(self.data.provenance)):
            raise CacheError(
                f"{self.run} holds a run with other settings or clips ({'; '.join(map(str, found))}): use another "
                f"RUN folder"
            )

    def _same_everywhere(self, seen: T) -> T:
        if any(other != seen for other in gather_object([seen])):
            raise CacheError(f"not all processes see the same files in {self.run}: they need one file system")
        return seen

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.run / "checkpoints").glob("epoch-*") if re.fullmatch(r"epoch-\d{5,}", p.name))

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one; mend what a kill after it was written left undone."""
        found = self.checkpoints()
        self._same_everywhere(found[-1].name if found else "")
        if not found:
            return
        model: Mapper = self.accelerator.unwrap_model(self.model)
        progress = load_checkpoint(found[-1], model, self.optimizer)
        self.epoch, self.metrics = progress.epoch, progress.metrics
        self._set_steps(progress.steps)
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        if progress.processes != self.world:
            self.notes.append(
                f"went on with {self.world} processes after {progress.processes}: dropout and noise are drawn "
                f"otherwise than without the change"
            )
        if self.accelerator.is_main_process:
            self._publish()

    def _set_steps(self, steps: int) -> None:
        rates = [base * self._learning_rate(steps) for base in self.scheduler.base_lrs]
        self.scheduler.load_state_dict(
            {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates, "lr_lambdas": [None]}
        )
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def save(self) -> None:
        """Write a checkpoint, keep the last two, and what follows from it: metrics, curves, the mapper."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            progress = Progress(
                self.epoch,
                self.scheduler.last_epoch,
                self.world,
                self.metrics,
                scaler.state_dict() if scaler is not None else None,
            )
            model: Mapper = self.accelerator.unwrap_model(self.model)
            save_checkpoint(self.run / "checkpoints" / f"epoch-{self.epoch:05d}", model, self.optimizer, progress)
            for old in self.checkpoints()[:-2]:
                shutil.rmtree(old)
            self._publish()
        self.accelerator.wait_for_everyone()

    def _publish(self) -> None:
        """All that follows from a checkpoint, unless it is there: a kill between the two loses nothing."""
        lines = "".join(json.dumps(line) + "\n" for line in self.metrics)
        path = self.run / "metrics.jsonl"
        if not path.is_file() or path.read_text(encoding="utf-8") != lines:
            write_text(path, lines)
        # Drawing takes longer than an epoch of a small run.
        last = self.epoch >= self.preset.training.epochs
        if last or time.monotonic() - self._drawn > _DRAWN_EVERY_SECONDS:
            draw_curves(self.metrics, self.run / "curves.png")
            self._drawn = time.monotonic()
        self._save_mapper("mapper")
        if self._best_epoch() == self.epoch:
            self._save_mapper("mapper-best")

    def _best_epoch(self) -> int | None:
        """The epoch of the lowest free-running validation error that is finite."""
        errors = [(line.get("validation_free_running"), epoch) for epoch, line in enumerate(self.metrics, start=1)]
        finite = [(error, epoch) for error, epoch in errors if error is not None]
        return min(finite)[1] if finite else None

    def _save_mapper(self, name: str) -> None:
        """The mapper alone, for generation, swapped in as a whole folder unless it is there."""
        final = self.run / name
        try:
            same = read_spec(final).provenance.get("epochs") == self.epoch
            if same and (final / MODEL).is_file() and not check_sums(final, (MODEL,)):
                return
        except WeightsError:
            pass  # none, or a damaged one
        model: Mapper = self.accelerator.unwrap_model(self.model)
        provenance = {**self.spec.provenance, "epochs": self.epoch, "metrics": self.metrics[-1]}
        model.spec = replace(self.spec, provenance=provenance)
        with whole_folder(final) as temporary:
            model.save_pretrained(temporary)

    # --- fitting ------------------------------------------------------------------------------

    def fit(self, on_step: Callable[[int, int, str], None] = lambda done, total, note: None) -> Outcome:
        """Train up to ``training.epochs`` epochs; a run that has them is left as it is."""
        started = time.monotonic()
        self.prepare_folder()
        before = self.epoch
        if self.epoch < self.preset.training.epochs:
            self.accelerator.init_trackers("logs")
        while self.epoch < self.preset.training.epochs:
            train_loss = self._train_epoch(on_step)
            self.epoch += 1
            metrics: dict[str, int | float | None] = {"epoch": self.epoch, "train_loss": train_loss}
            if self.validation_clips:
                metrics |= self._validate()
            finite = {k: v for k, v in metrics.items() if k != "epoch" and v is not None}
            self.accelerator.log(finite, step=self.epoch)
            self.metrics.append(metrics)
            self.save()
        if self.epoch > before:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        latest = {key: value for key, value in (self.metrics or [{}])[-1].items() if key != "epoch"}
        return Outcome(before, self.epoch - before, time.monotonic() - started, latest, self.notes)

    def close(self) -> None:
        """Leave the group of processes: no trainer of this process works after it."""
        self.accelerator.end_training()

    def _validate(self) -> dict[str, float | None]:
        """Every process computes the same figures on all validation clips: no collective to get wrong."""
        model: Mapper = self.accelerator.unwrap_model(self.model)
        torch.manual_seed(self.preset.training.seed)  # the same noise of a diffusion mapper's loss at every epoch
        with self.accelerator.autocast():
            result = validate(model, self.data)
        if self.accelerator.is_main_process:
            write_text(self.run / "worst_clips.json", json.dumps(result.worst(), indent=1))
        if bad := result.not_finite():
            self.notes.append(
                f"epoch {self.epoch}: validation is not finite for {len(bad)} of {len(result.clip_ids)} clips "
                f"({', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}), so it does not count for mapper-best"
            )
        return result.metrics()

    def _train_epoch(self, on_step: Callable[[int, int, str], None]) -> float:
        training = self.preset.training
        steps = -(-self.train_clips // training.global_batch)
        # Dropout and noise of an epoch follow from seed, epoch and process: a resumed run needs no state of theirs.
        torch.manual_seed(epoch_order(training.seed, self.epoch) * 1009 + self.rank)
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        recent: list[tuple[torch.Tensor, Sequence[str]]] = []  # losses still on the device, with their clips
        order = epoch_order(training.seed, self.epoch)
        batches = self.data.batches("train", training.global_batch, order, self.rank, self.world)
        for step, batch in enumerate(batches):
            loss = self._backward(batch)
            if training.gradient_clip is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss * len(batch.clip_ids)
            recent.append((loss, batch.clip_ids))
            note = ""
            if (step + 1) % training.log_every == 0 or step + 1 == steps:
                note = f"loss {self._check_losses(recent, step):.4f}"
                recent = []
            on_step(self.epoch * steps + step + 1, training.epochs * steps, note)
        return float(self.accelerator.reduce(total, "mean")) / self.train_clips

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Gradients of the mean loss over the global batch, whatever the number of processes and parts.

        Returns this process's share of that loss, of which the mean over processes is the loss.
        """
        rows = len(batch.target)
        parts = torch.arange(rows).tensor_split(min(self.preset.training.accumulate, rows))
        total = torch.zeros((), device=self.accelerator.device)
        for index, part in enumerate(parts):
            first, last = int(part[0]), int(part[-1]) + 1
            # Processes exchange gradients once a step, with the last part, however many each of them has.
            with nullcontext() if index == len(parts) - 1 else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    visual = {name: array[first:last] for name, array in batch.visual.items()}
                    losses = self.model(visual, batch.target[first:last])
                # DDP averages over processes, hence the factor: the sum over processes is the mean over clips.
                loss = losses.sum() * (batch.weight * self.world / len(batch.clip_ids))
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _check_losses(self, recent: list[tuple[torch.Tensor, Sequence[str]]], step: int) -> float:
        """The only place where the host waits for the device. Raises :class:`TrainingError` on NaN or Inf.

        The losses are those of all processes, so that all of them stop, and name the same clips.
        """
        losses = self.accelerator.reduce(torch.stack([loss for loss, _ in recent]), "mean").tolist()
        for offset, (value, (_, clip_ids)) in enumerate(zip(losses, recent, strict=True)):
            if not math.isfinite(value):
                at = step - len(losses) + offset + 2
                raise TrainingError(
                    f"the loss is {value} in epoch {self.epoch + 1}, step {at}, clips: {', '.join(clip_ids)}"
                )
        return float(losses[-1])
