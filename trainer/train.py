"""Fit a mapper on a cache (paper section 4.1.2): AdamW, teacher forcing, a checkpoint every epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, set_seed

from common.errors import CacheError, InputError, MFMError
from common.words import some
from common.writing import write_text
from pipeline.cache import Store, cache_manifest
from presets import Preset
from trainer.checkpoints import Progress, load_checkpoint
from trainer.data import Batch, Data, epoch_order, load_data
from trainer.device import build_accelerator
from trainer.initialise import initial_weights, initialise
from trainer.mapper import Mapper, MapperSpec
from trainer.provenance import features_provenance, record_kind
from trainer.registry import build_mapper
from trainer.run_folder import RunFolder
from trainer.scale import seconds_of_sound
from trainer.schedule import build_schedule, set_steps
from trainer.validate import target_statistics, validate


class TrainingError(MFMError):
    """Training cannot go on: a loss that is not finite, with the clips of the batch."""

    exit_code = 8


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
_FREE = ("epochs", "log_every", "data", "compile", "validate_every", "keep_epochs")


class Trainer:
    """One run in one folder, :class:`trainer.run_folder.RunFolder`."""

    def __init__(self, preset: Preset, store: Store, run: str | Path, device: str = "auto"):
        self.preset = preset
        training = preset.training
        self.accelerator = build_accelerator(device, training.mixed_precision, run)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.encoders = list(preset.mapper.encoders)
        self.data: Data = load_data(
            store,
            [*self.encoders, preset.target],
            self.accelerator.device,
            training.data,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            agree=lambda fits: all(gather_object([fits])),
            share=training.share_of_clips,
            seed=training.seed,
        )
        self._check_widths()
        clips = {split: self.data.clip_ids(split) for split in ("train", "validation")}
        self.train_clips, self.validation_clips = len(clips["train"]), len(clips["validation"])
        self.clips_digest = hashlib.sha256(json.dumps(clips).encode()).hexdigest()
        if not self.train_clips:
            raise InputError(f"{store.files.root} has no clip of split 'train' with all stages")
        set_seed(training.seed)
        features = features_provenance(self.data.provenance)
        window = features["media"].get("seconds", preset.media.seconds)
        self.train_seconds = seconds_of_sound(cache_manifest(store), clips["train"], window)
        self.spec = self._spec(target_statistics(self.data, 256))
        model = build_mapper(self.spec)
        went_on_from = initialise(model, initial_weights(preset))
        before = 0.0 if went_on_from is None else went_on_from.hours
        self.spec = replace(self.spec, provenance={**self.spec.provenance, "hours_before": before})
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters, self.mapper_words = model.trained_parameters, model.describe()
        optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.betas[0], training.betas[1]),
            weight_decay=training.weight_decay,
            fused=True,
        )
        # Not prepared: Accelerate would step it once a process, but our batches are global.
        self.steps_per_epoch = -(-self.train_clips // training.global_batch)
        self.schedule = build_schedule(optimizer, training, training.epochs * self.steps_per_epoch)
        if training.compile:
            model.compile()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.folder = RunFolder(run, self.accelerator)
        self.epoch = 0
        self.metrics: list[dict[str, int | float | None]] = []
        self.notes: list[str] = []
        made_with = {values.get("preset", preset.name) for values in self.data.provenance.values()} - {preset.name}
        if made_with:
            self.notes.append(
                f"the features were made with preset {', '.join(map(repr, sorted(map(str, made_with))))}, and this is "
                f"'{preset.name}': generate with a preset that has the same encoders"
            )

    def _spec(self, statistics: dict[str, float]) -> MapperSpec:
        return MapperSpec(
            mapper=self.preset.mapper,
            dimensions={name: self.data.shapes[name][1] for name in self.encoders},
            lengths={name: self.data.shapes[name][0] for name in self.encoders},
            target=self.data.shapes[self.preset.target],
            loss=self.preset.training.loss,
            statistics=statistics,
            provenance={
                "preset": self.preset.name,
                **features_provenance(self.data.provenance),
                "train_clips": self.train_clips,
                "train_seconds": self.train_seconds,
            },
            target_encoder=self.preset.target,
        )

    def _check_widths(self) -> None:
        for name in (*self.encoders, self.preset.target):
            width = self.preset.encoders[name].dimension
            if width not in (None, self.data.shapes[name][1]):
                raise CacheError(
                    f"the cached '{name}' features have {self.data.shapes[name][1]} values, preset "
                    f"'{self.preset.name}' makes {width}: this cache belongs to another preset "
                    f"('{self.data.provenance[name].get('preset')}')"
                )
        count, wanted = self.data.shapes[self.preset.target][0], self.preset.audio.tokens
        if wanted not in (None, count):
            raise CacheError(
                f"the cached '{self.preset.target}' features have {count} vectors a clip, and the audio model "
                f"'{self.preset.audio_model}' takes {wanted}: set target or audio_model"
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
        """Make the folder this run's, or go on from the last checkpoint that it has of it."""
        if self.folder.claim(self._settings(), self.preset.to_dict(), record_kind(self.data.provenance)):
            self._resume()
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one; mend what a kill after it was written left undone."""
        if (newest := self.folder.newest()) is None:
            return
        progress = load_checkpoint(newest, self._mapper, self.optimizer)
        self.epoch, self.metrics = progress.epoch, progress.metrics
        set_steps(self.schedule, self.preset.training, progress.steps)
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)
        if progress.processes != self.world:
            self.notes.append(
                f"went on with {self.world} processes after {progress.processes}: dropout and noise are drawn "
                f"otherwise than without the change"
            )
        self._publish()

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        state = scaler.state_dict() if scaler is not None else None
        if self.accelerator.is_main_process:
            steps = self.epoch * self.steps_per_epoch
            progress = Progress(self.epoch, steps, self.world, self.metrics, state)
            self.folder.save(self._mapper, self.optimizer, progress)
        self._publish()
        self.accelerator.wait_for_everyone()

    def _publish(self) -> None:
        if self.accelerator.is_main_process:
            training = self.preset.training
            last, kept = self.epoch >= training.epochs, self.epoch in training.keep_epochs
            self.folder.publish(self._mapper, self.spec, self.metrics, last, kept)

    @property
    def _mapper(self) -> Mapper:
        mapper: Mapper = self.accelerator.unwrap_model(self.model)
        return mapper

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
            last = self.epoch == self.preset.training.epochs
            if self.validation_clips and (last or self.epoch % self.preset.training.validate_every == 0):
                metrics |= self._validate()
            finite = {k: v for k, v in metrics.items() if k != "epoch" and v is not None}
            self.accelerator.log(finite, step=self.epoch)
            self.metrics.append(metrics)
            self._save()
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
        torch.manual_seed(self.preset.training.seed)  # the same noise of a diffusion mapper's loss at every epoch
        with self.accelerator.autocast():
            result = validate(self._mapper, self.data)
        if self.accelerator.is_main_process:
            write_text(self.folder.path / "worst_clips.json", json.dumps(result.worst(), indent=1))
        if bad := result.not_finite():
            self.notes.append(
                f"epoch {self.epoch}: validation is not finite for {len(bad)} of {len(result.clip_ids)} clips "
                f"({some(bad, 5)}), so it does not count for mapper-best"
            )
        return result.metrics()

    def _train_epoch(self, on_step: Callable[[int, int, str], None]) -> float:
        training, steps = self.preset.training, self.steps_per_epoch
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
            self.schedule.step()
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
