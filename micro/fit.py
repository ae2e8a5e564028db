"""One training loop for all small models: AdamW, warm-up and cosine, bfloat16, checkpoints, a log of JSON lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trainer.train import TrainingError

Step = Callable[[int], dict[str, Tensor]]
_Weights = tuple[Tensor, ...] | list[Tensor]


def best_precision(device: str) -> str:
    """``bfloat16`` where the device multiplies in it (GPUs since Ampere; CPUs with AMX or AVX512-BF16)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX"):
        flags = Path("/proc/cpuinfo")
        fast = flags.is_file() and any(name in flags.read_text() for name in ("amx_bf16", "avx512_bf16"))
        return "bfloat16" if fast else "float32"
    return "float32"


@dataclass(frozen=True)
class Goal:
    """Where a stage may stop before its last step: its metric on held-out scenes is this good."""

    metric: str
    value: float
    higher: bool = False

    def reached(self, figures: dict[str, float]) -> bool:
        figure = figures[self.metric]
        return figure >= self.value if self.higher else figure <= self.value


# Stages of convolutions: on a CPU the products of the others are too small for bfloat16 to pay
# (python -m benchmarks.micro_training: 1.1 to 1.5 times as fast against 0.6 to 1.0).
_OF_CONVOLUTIONS = ("vae", "vocoder", "cavp", "classifier", "clap")


@dataclass
class _Average:
    """Exponential moving average of all weights at once, whose decay grows with the steps that are done."""

    decay: float
    done: int = 0

    def __call__(self, averaged: _Weights, current: _Weights, updates: Tensor | int) -> None:
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(self.decay, self.done / (self.done + 9)))


@dataclass(frozen=True)
class Machine:
    """What stages are trained on: device, and precision of products (:func:`best_precision` of it).

    ``where_it_pays``: on a CPU only those stages have bfloat16 that are faster in it.
    """

    device: str = "cpu"
    precision: str = "float32"
    where_it_pays: bool = False

    @property
    def name(self) -> str:
        """As the model card says it."""
        if torch.device(self.device).type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"{self.device}, {torch.get_num_threads()} threads, {self.precision}"


@dataclass(frozen=True)
class Fit:
    """Where a stage keeps its checkpoint and log, and how long it trains."""

    name: str
    folder: Path
    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    average: float = 0.0  # decay of the averaged weights that the stage ends with; 0: none
    machine: Machine = Machine()
    goal: Goal | None = None
    until: ClassVar[int | None] = None  # every stage stops here, on its way: to compare logs

    def run(
        self,
        module: nn.Module,
        step: Step,
        held_out: Callable[[], dict[str, Tensor]] | None = None,
        every: int = 50,
        graph: Callable[[], dict[str, Tensor]] | None = None,
    ) -> None:
        """Train ``module`` by the ``loss`` that ``step(number)`` returns; goes on from a checkpoint.

        ``graph``: the step on tensors that stay where they are, which ``step(number)`` then fills (what it returns
        is not read); on CUDA it is recorded once and played back, as launching what so small models do takes longer
        than doing it.

        ``held_out`` measures the stage on scenes it does not train on, every ``5 * every`` steps and at the
        end; its figures go into the log, and ``goal`` may end the stage on them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint, log = self.folder / f"{self.name}.pt", self.folder / f"{self.name}.jsonl"
        module.to(self.machine.device)
        optimizer = torch.optim.AdamW(module.parameters(), self.learning_rate, weight_decay=0.01, fused=True)
        average = _Average(self.average)
        averaged = AveragedModel(module, multi_avg_fn=average)
        averaged.update_parameters(module)  # begins with the drawn weights
        first, spent, done = 0, 0.0, False
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True, map_location=self.machine.device)
            module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            averaged.load_state_dict(state["averaged"])
            first, spent, done = state["step"], state["seconds"], state["done"]
        module.train()
        on_cuda = torch.device(self.machine.device).type == "cuda"
        replay: Callable[[], dict[str, Tensor]] | None = None
        sums: dict[str, Tensor] = {}
        started = time.monotonic()
        for number in range(first, min(self.steps, self.until or self.steps)):
            if done:
                break
            rate = min((number + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * number / self.steps)))
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rate
            torch.manual_seed(number)  # what a step draws follows from its number, resumed or not
            if graph is not None and on_cuda:
                step(number)
                if replay is None:
                    replay = self._recorded(module, graph)
                values = replay()
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            else:
                values = self._clipped(module, step, number, graph)
            optimizer.step()
            if self.average:
                average.done = number + 1
                averaged.update_parameters(module)
            for key, value in values.items():
                sums[key] = sums.get(key, 0.0) + value.detach().float()
            last = number + 1 == self.steps
            if (number + 1) % every == 0 or last:
                count = (number % every) + 1
                line: dict[str, Any] = {"step": number + 1}
                line |= {k: round(float(v) / count, 5) for k, v in sums.items()}
                if not math.isfinite(line["loss"]):
                    raise TrainingError(
                        f"{self.name}: the loss is not finite at step {number + 1}; what is there stays"
                    )
                sums = {}
                if held_out is not None and ((number + 1) % (5 * every) == 0 or last):
                    figures = self._measure(module, averaged, held_out)
                    line |= {f"held_out_{name}": round(value, 5) for name, value in figures.items()}
                    done = self.goal is not None and self.goal.reached(figures)
                seconds = spent + time.monotonic() - started
                line |= {"seconds": round(seconds, 1), **({"on": self.machine.name} if last or done else {})}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(self.name, line, flush=True)
                state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"averaged": averaged.state_dict(), "step": number + 1, "seconds": seconds, "done": done}
                temporary = checkpoint.with_suffix(".tmp")
                torch.save(state, temporary)
                temporary.rename(checkpoint)
        if self.average:
            module.load_state_dict(averaged.module.state_dict())
        module.eval()

    def autocast(self) -> torch.autocast:
        """What the forward pass of a step runs under."""
        kind = torch.device(self.machine.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16")

    @property
    def precision(self) -> str:
        """Of this stage's products."""
        on_cpu = torch.device(self.machine.device).type == "cpu"
        pays = not on_cpu or not self.machine.where_it_pays or self.name in _OF_CONVOLUTIONS
        return self.machine.precision if pays else "float32"

    def _gradients(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        with self.autocast():
            values = step()
        values["loss"].backward()
        return values

    def _clipped(
        self, module: nn.Module, step: Step, number: int, graph: Callable[[], dict[str, Tensor]] | None
    ) -> dict[str, Tensor]:
        """Values of a step, whose gradients are then there, of norm 1 at most.

        In bfloat16 torch's convolutions with strides give NaN of finite numbers on some CPUs (2.13, AMX, seldom): such
        a step is done again in float32.
        """

        def compute() -> dict[str, Tensor]:
            made = step(number)
            return made if graph is None else graph()

        careful = torch.device(self.machine.device).type == "cpu" and self.precision != "float32"
        kept = [buffer.clone() for buffer in module.buffers()] if careful else []
        module.zero_grad(set_to_none=True)
        values = self._gradients(compute)
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if careful and not norm.isfinite():
            for buffer, before in zip(module.buffers(), kept, strict=True):
                buffer.copy_(before)
            torch.manual_seed(number)
            module.zero_grad(set_to_none=True)
            values = compute()
            values["loss"].backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        return values

    def _recorded(self, module: nn.Module, step: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
        """Forward and backward pass as a CUDA graph."""
        drawn = torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels before the recording
            for _ in range(3):
                module.zero_grad(set_to_none=True)
                self._gradients(step)
        torch.cuda.current_stream().wait_stream(stream)
        module.zero_grad(set_to_none=True)
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording):
            values = self._gradients(step)
        values = {name: value.detach() for name, value in values.items()}
        torch.cuda.set_rng_state(drawn)

        def replayed() -> dict[str, Tensor]:
            recording.replay()
            return values

        return replayed

    def _measure(
        self, module: nn.Module, averaged: AveragedModel, held_out: Callable[[], dict[str, Tensor]]
    ) -> dict[str, float]:
        """Figures of the weights that the stage would end with; training goes on as if nothing had been asked."""
        current = {k: v.detach().clone() for k, v in module.state_dict().items()}
        if self.average:
            module.load_state_dict(averaged.module.state_dict())
        module.eval()
        devices = [torch.device(self.machine.device)] if torch.device(self.machine.device).type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), self.autocast():
            torch.manual_seed(0)
            figures = {name: float(value) for name, value in held_out().items()}
        module.load_state_dict(current)
        module.train()
        return figures
