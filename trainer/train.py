"""Fit a mapper on a cache (paper section 4.1.2): AdamW, teacher forcing, a checkpoint every epoch."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import set_seed
from safetensors import SafetensorError

from pipeline.cache import Store
from pipeline.errors import CacheError, InputError, MFMError
from presets import Preset
from trainer.curves import draw_curves
from trainer.data import TARGET, Data, epoch_order, load_data
from trainer.device import build_accelerator
from trainer.initialise import initial_weights, initialise
from trainer.mapper import Mapper, MapperSpec
from trainer.registry import build_mapper
from trainer.validate import Validation, target_statistics, validate


class TrainingError(MFMError):
    """Training cannot go on: a loss that is not finite, with the clips of the batch."""

    exit_code = 8


@dataclass
class Outcome:
    """What a call of :meth:`Trainer.fit` did."""

    epochs_before: int
    epochs_now: int
    seconds: float
    metrics: dict[str, float]


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
        self.encoders = list(preset.mapper.encoders)
        self.data: Data = load_data(store, [*self.encoders, TARGET], self.accelerator.device, training.data)
        self._check_widths()
        self.train_clips, self.validation_clips = self.data.count("train"), self.data.count("validation")
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
        self.accelerator.register_for_checkpointing(self.scheduler)
        self.epoch = 0
        self.metrics: list[dict[str, Any]] = []

    def _learning_rate(self, step: int) -> float:
        """Factor on the learning rate: a linear warm-up, then constant or a cosine to zero."""
        training = self.preset.training
        factor = min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
        if training.schedule == "cosine":
            total = training.epochs * -(-self.train_clips // training.global_batch)
            factor *= 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
        return factor

    def _spec(self, statistics: dict[str, float]) -> MapperSpec:
        made = self.data.provenance
        return MapperSpec(
            mapper=self.preset.mapper,
            dimensions={name: self.data.shapes[name][1] for name in self.encoders},
            lengths={name: self.data.shapes[name][0] for name in self.encoders},
            target=self.data.shapes[TARGET],
            loss=self.preset.training.loss,
            statistics=statistics,
            provenance={
                "preset": self.preset.name,
                "encoders": {name: values["weights"] for name, values in made.items()},
                "encoder_configs": {name: values["config"] for name, values in made.items()},
                "media": made[TARGET]["media"],
                "train_clips": self.train_clips,
            },
        )

    def _check_widths(self) -> None:
        expected = {
            "cavp": self.preset.encoders.cavp.embedding,
            "audiomae": self.preset.encoders.audiomae.width,
        }
        for name, width in expected.items():
            if name in self.data.shapes and self.data.shapes[name][1] != width:
                raise CacheError(
                    f"the cached '{name}' features have {self.data.shapes[name][1]} values, preset "
                    f"'{self.preset.name}' makes {width}: this cache belongs to another preset "
                    f"('{self.data.provenance[name].get('preset')}')"
                )

    # --- folder -------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        # With a schedule that ends at the last epoch, the number of epochs changes every step.
        free = _FREE if self.preset.training.schedule == "constant" else _FREE[1:]
        training = {k: v for k, v in self.preset.to_dict()["training"].items() if k not in free}
        return {
            "mapper": self.preset.to_dict()["mapper"],
            "training": training,
            "encoders": self.spec.provenance["encoders"],
            "train_clips": self.train_clips,
        }

    def prepare_folder(self) -> None:
        """Write ``train.yaml``, or check that the folder's run is this one; then load its last checkpoint."""
        path = self.run / "train.yaml"
        known = path.is_file()
        self.accelerator.wait_for_everyone()  # every process has looked before one of them writes
        if known:
            saved = yaml.safe_load(path.read_text())["run"]
            different = [name for name, value in self._settings().items() if saved.get(name) != value]
            if different:
                raise CacheError(
                    f"{self.run} holds a run with other settings ({', '.join(different)}): use another RUN folder"
                )
            self.resume()
        elif self.accelerator.is_main_process:
            self.run.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump({"run": self._settings(), "preset": self.preset.to_dict()}))
        self.accelerator.wait_for_everyone()

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in (self.run / "checkpoints").glob("epoch-*") if path.suffix != ".tmp")

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one: weights, optimizer and random states."""
        found = self.checkpoints()
        if not found:
            return
        try:
            self.accelerator.load_state(str(found[-1]))
            state = json.loads((found[-1] / "run.json").read_text())
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise CacheError(
                f"checkpoint {found[-1]} cannot be read ({error}): delete it to go on from the one before"
            ) from error
        self.epoch, self.metrics = state["epoch"], state["metrics"]

    def save(self) -> None:
        """Write a checkpoint under a temporary name, rename it, keep the last two."""
        final = self.run / "checkpoints" / f"epoch-{self.epoch:05d}"
        temporary = final.with_suffix(".tmp")
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary), safe_serialization=True)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (temporary / "run.json").write_text(json.dumps({"epoch": self.epoch, "metrics": self.metrics}))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            for old in self.checkpoints()[:-2]:
                shutil.rmtree(old)
            lines = "".join(json.dumps(line) + "\n" for line in self.metrics)
            (self.run / "metrics.jsonl").write_text(lines)
            draw_curves(self.metrics, self.run / "curves.png")
            self.save_mapper("mapper")
            best = min(self.metrics, key=lambda line: line.get("validation_free_running", float("inf")))
            if best is self.metrics[-1] and "validation_free_running" in best:
                self.save_mapper("mapper-best")
        self.accelerator.wait_for_everyone()

    def save_mapper(self, name: str) -> None:
        """The mapper alone, for generation, swapped in as a whole folder."""
        final, temporary, old = (self.run / f"{name}{suffix}" for suffix in ("", ".tmp", ".old"))
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        model: Mapper = self.accelerator.unwrap_model(self.model)
        provenance = {**self.spec.provenance, "epochs": self.epoch, "metrics": self.metrics[-1]}
        model.spec = replace(self.spec, provenance=provenance)
        model.save_pretrained(temporary)
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old, ignore_errors=True)

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
            metrics: dict[str, Any] = {"epoch": self.epoch, "train_loss": train_loss}
            if self.validation_clips:
                metrics |= self._validate().metrics()
            self.accelerator.log({k: v for k, v in metrics.items() if k != "epoch"}, step=self.epoch)
            self.metrics.append(metrics)
            self.save()
        if self.epoch > before:
            self.accelerator.end_training()
        latest = {key: value for key, value in (self.metrics or [{}])[-1].items() if key != "epoch"}
        return Outcome(before, self.epoch - before, time.monotonic() - started, latest)

    def _validate(self) -> Validation:
        """Every process computes the same figures on all validation clips: no collective to get wrong."""
        model: Mapper = self.accelerator.unwrap_model(self.model)
        state = torch.get_rng_state()  # validation must not change what training draws next
        with self.accelerator.autocast():
            result = validate(model, self.data)
        torch.set_rng_state(state)
        if self.accelerator.is_main_process:
            (self.run / "worst_clips.json").write_text(json.dumps(result.worst(), indent=1))
        return result

    def _train_epoch(self, on_step: Callable[[int, int, str], None]) -> float:
        training = self.preset.training
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        steps = -(-self.train_clips // training.global_batch)
        order = epoch_order(training.seed, self.epoch)
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        recent: list[tuple[torch.Tensor, Any]] = []  # losses still on the device, with their clips
        batches = self.data.batches("train", training.global_batch, order, rank, world)
        for step, batch in enumerate(batches):
            loss = self._backward(batch, world)
            if training.gradient_clip is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss * (len(batch.clip_ids) / world)
            recent.append((loss, batch.clip_ids))
            note = ""
            if (step + 1) % training.log_every == 0 or step + 1 == steps:
                note = f"loss {self._check_losses(recent, step):.4f}"
                recent = []
            on_step(self.epoch * steps + step + 1, training.epochs * steps, note)
        total = self.accelerator.reduce(total, "sum")
        return float(total) / self.train_clips

    def _backward(self, batch: Any, world: int) -> torch.Tensor:
        """Gradients of the mean loss over the global batch, whatever the number of processes and parts."""
        rows = len(batch.target)
        parts = min(self.preset.training.accumulate, rows)
        total = torch.zeros((), device=self.accelerator.device)
        for index, part in enumerate(torch.arange(rows).chunk(parts)):
            first, last = int(part[0]), int(part[-1]) + 1
            # Data parallel processes exchange gradients with the last part only.
            last_part = index == parts - 1
            with nullcontext() if last_part else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    visual = {name: array[first:last] for name, array in batch.visual.items()}
                    losses = self.model(visual, batch.target[first:last])
                # DDP averages over processes, hence the factor: the sum over processes is the mean over clips.
                loss = losses.sum() * (batch.weight * world / len(batch.clip_ids))
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _check_losses(self, recent: list[tuple[torch.Tensor, Any]], step: int) -> float:
        """The only place where the host waits for the device. Raises :class:`TrainingError` on NaN or Inf."""
        losses = torch.stack([loss for loss, _ in recent]).tolist()
        for offset, (value, (_, clip_ids)) in enumerate(zip(losses, recent, strict=True)):
            if not abs(value) < float("inf"):
                at = step - len(losses) + offset + 2
                raise TrainingError(
                    f"the loss is {value} in epoch {self.epoch + 1}, step {at}, clips: {', '.join(clip_ids)}"
                )
        return float(losses[-1])
