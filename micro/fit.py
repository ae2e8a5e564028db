"""One training loop for all small models: AdamW, warm-up and cosine, checkpoints, a log of JSON lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

Step = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Fit:
    """Where a stage keeps its checkpoint and log, and how long it trains."""

    name: str
    folder: Path
    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    average: float = 0.0  # decay of the averaged weights that the stage ends with; 0: none

    def run(self, module: nn.Module, step: Step, every: int = 50) -> None:
        """Train ``module`` by the ``loss`` that ``step(number)`` returns; goes on from a checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint, log = self.folder / f"{self.name}.pt", self.folder / f"{self.name}.jsonl"
        optimizer = torch.optim.AdamW(module.parameters(), self.learning_rate, weight_decay=0.01)
        averaged = {k: v.detach().clone() for k, v in module.state_dict().items()}
        first, spent = 0, 0.0
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            averaged, first, spent = state["averaged"], state["step"], state["seconds"]
        module.train()
        sums: dict[str, float] = {}
        started = time.monotonic()
        for number in range(first, self.steps):
            rate = min((number + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * number / self.steps)))
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rate
            torch.manual_seed(number)  # what a step draws follows from its number, resumed or not
            values = step(number)
            optimizer.zero_grad(set_to_none=True)
            values["loss"].backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            if self.average:
                decay = min(self.average, (number + 1) / (number + 10))
                for name, value in module.state_dict().items():
                    if value.is_floating_point():
                        averaged[name].lerp_(value, 1 - decay)
                    else:
                        averaged[name].copy_(value)
            for key, value in values.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            if (number + 1) % every == 0 or number + 1 == self.steps:
                count = (number % every) + 1
                seconds = spent + time.monotonic() - started
                line = {"step": number + 1, **{k: round(v / count, 5) for k, v in sums.items()}}
                line["seconds"] = round(seconds, 1)
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(self.name, line, flush=True)
                sums = {}
                state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "averaged": averaged}
                temporary = checkpoint.with_suffix(".tmp")
                torch.save({**state, "step": number + 1, "seconds": seconds}, temporary)
                temporary.rename(checkpoint)
        if self.average:
            module.load_state_dict(averaged)
        module.eval()
