"""Fit a mapper on a cache (paper section 4.1.2): AdamW, teacher forcing, a checkpoint every epoch."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import Tensor

from pipeline.cache import Joined, Store, join
from pipeline.errors import CacheError, InputError, MFMError
from presets import Preset
from trainer.data import TARGET, TensorData
from trainer.initialise import initialise_gpt2
from trainer.mapper import Mapper, MapperSpec, error_per_clip
from trainer.registry import build_mapper


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


def global_batches(rows: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """The epoch's batches: a permutation that follows from seed and epoch alone, last batch short."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return list(rows[torch.randperm(len(rows), generator=generator)].split(size))


class Trainer:
    """One run in one folder: ``train.yaml``, ``metrics.jsonl``, ``checkpoints/``, ``mapper/``."""

    def __init__(self, preset: Preset, store: Store, run: str | Path, device: str = "auto"):
        self.preset, self.run = preset, Path(run)
        training = preset.training
        self.accelerator = Accelerator(mixed_precision=training.mixed_precision, cpu=device == "cpu")
        self.encoders = list(preset.mapper.encoders)
        joined = join(store, [*self.encoders, TARGET])
        self._check_widths(joined)
        self.data = TensorData.of(joined, self.accelerator.device)
        self.train_rows = self.data.indices("train")
        self.validation_rows = self.data.indices("validation")
        if not len(self.train_rows):
            raise InputError(f"{store.files.root} has no clip of split 'train' with all stages")
        set_seed(training.seed)
        steps, width = joined.arrays[TARGET].shape[1:]
        self.spec = MapperSpec(
            mapper=preset.mapper,
            dimensions={name: joined.arrays[name].shape[2] for name in self.encoders},
            lengths={name: joined.arrays[name].shape[1] for name in self.encoders},
            target=(steps, width),
            loss=training.loss,
            provenance={
                "preset": preset.name,
                "encoders": {name: made["weights"] for name, made in joined.provenance.items()},
                "encoder_configs": {name: made["config"] for name, made in joined.provenance.items()},
                "media": joined.provenance[TARGET]["media"],
                "train_clips": len(self.train_rows),
            },
        )
        model = build_mapper(self.spec)
        initialise_gpt2(model.gpt2, preset.mapper.initialise)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.betas[0], training.betas[1]),
            weight_decay=training.weight_decay,
            fused=True,
        )
        warmup = training.warmup_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # Not prepared: Accelerate would step it once per process, but our batches are global.
        self.scheduler = scheduler
        self.accelerator.register_for_checkpointing(scheduler)
        self.parameters = sum(parameter.numel() for parameter in parameters)
        self.epoch = 0
        self.metrics: list[dict[str, Any]] = []

    def _check_widths(self, joined: Joined) -> None:
        expected = {
            "cavp": self.preset.encoders.cavp.embedding,
            "audiomae": self.preset.encoders.audiomae.width,
        }
        for name, width in expected.items():
            if name in joined.arrays and joined.arrays[name].shape[2] != width:
                raise CacheError(
                    f"the cached '{name}' features have {joined.arrays[name].shape[2]} values, preset "
                    f"'{self.preset.name}' makes {width}: this cache belongs to another preset "
                    f"('{joined.provenance[name].get('preset')}')"
                )

    # --- folder -------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        training = {k: v for k, v in self.preset.to_dict()["training"].items() if k not in ("epochs", "log_every")}
        return {
            "mapper": self.preset.to_dict()["mapper"],
            "training": training,
            "encoders": self.spec.provenance["encoders"],
            "train_clips": len(self.train_rows),
        }

    def prepare_folder(self) -> None:
        """Write ``train.yaml``, or check that the folder's run is this one; then load its last checkpoint."""
        path = self.run / "train.yaml"
        if path.is_file():
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
            self.save_mapper()
        self.accelerator.wait_for_everyone()

    def save_mapper(self) -> None:
        """The mapper alone, for generation, swapped in as a whole folder."""
        final, temporary, old = self.run / "mapper", self.run / "mapper.tmp", self.run / "mapper.old"
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
        while self.epoch < self.preset.training.epochs:
            train_loss = self._train_epoch(on_step)
            self.epoch += 1
            metrics: dict[str, Any] = {"epoch": self.epoch, "train_loss": train_loss}
            if len(self.validation_rows):
                metrics |= self.validate(self.validation_rows)
            self.metrics.append(metrics)
            self.save()
        latest = {key: value for key, value in (self.metrics or [{}])[-1].items() if key != "epoch"}
        return Outcome(before, self.epoch - before, time.monotonic() - started, latest)

    def _train_epoch(self, on_step: Callable[[int, int, str], None]) -> float:
        training = self.preset.training
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = global_batches(self.train_rows, training.global_batch, training.seed, self.epoch)
        self.model.train()
        total = torch.zeros((), device=self.accelerator.device)
        note = ""
        for step, batch in enumerate(batches):
            mine = batch[rank::world]
            rows = mine if len(mine) else batch[:1]  # every process steps; a surplus row weighs nothing
            data = self.data.take(rows, [*self.encoders, TARGET])
            with self.accelerator.autocast():
                losses = self.model({name: data[name] for name in self.encoders}, data[TARGET])
            # The mean over the global batch, whatever the number of processes (DDP averages gradients).
            loss = losses.sum() * (world / len(batch)) if len(mine) else losses.sum() * 0.0
            self.accelerator.backward(loss)
            if training.gradient_clip is not None:
                self.accelerator.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach() * (len(batch) / world)
            if (step + 1) % training.log_every == 0 or step + 1 == len(batches):
                value = float(loss.detach())  # the only place where the host waits for the device
                if not math.isfinite(value):
                    ids = ", ".join(self.data.joined.clip_ids[row] for row in batch.tolist())
                    raise TrainingError(f"the loss is {value} in epoch {self.epoch + 1}, step {step + 1}, clips: {ids}")
                note = f"loss {value:.4f}"
            on_step(self.epoch * len(batches) + step + 1, training.epochs * len(batches), note)
        total = self.accelerator.reduce(total, "sum")
        return float(total) / len(self.train_rows)

    @torch.no_grad()
    def validate(self, rows: Tensor, batch: int = 256) -> dict[str, float]:
        """Teacher-forced and free-running error (the paper's MSE) and cosine per token, over all rows."""
        model: Mapper = self.accelerator.unwrap_model(self.model)
        model.eval()
        forced, free, cosine = [], [], []
        for part in rows.split(batch):
            data = self.data.take(part, [*self.encoders, TARGET])
            visual = {name: data[name] for name in self.encoders}
            with self.accelerator.autocast():
                forced.append(model.losses(visual, data[TARGET]))
                predicted = model.predict(visual)
            free.append(error_per_clip(predicted, data[TARGET]))
            cosine.append(torch.cosine_similarity(predicted, data[TARGET], dim=-1).mean(dim=-1))
        model.train()
        return {
            "validation_loss": float(torch.cat(forced).mean()),
            "validation_free_running": float(torch.cat(free).mean()),
            "validation_cosine": float(torch.cat(cosine).mean()),
        }
