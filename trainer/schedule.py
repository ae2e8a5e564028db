"""The learning rate of each step: a linear warm-up, then constant or a cosine to zero."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from presets.config import TrainingConfig


def build_schedule(optimizer: Optimizer, training: TrainingConfig, steps: int) -> LambdaLR:
    """transformers' schedule for a run of ``steps`` steps, at its first one; see :func:`set_steps`."""
    name = "cosine" if training.schedule == "cosine" else "constant_with_warmup"
    ahead = _ahead(training)
    schedule: LambdaLR = get_scheduler(name, optimizer, training.warmup_steps, steps + ahead)
    set_steps(schedule, training, 0)
    return schedule


def set_steps(schedule: LambdaLR, training: TrainingConfig, steps: int) -> None:
    """Put it, and the rates of its optimizer, where they are after ``steps`` steps."""
    at = steps + _ahead(training)
    rates = [base * factor(at) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    state = {"last_epoch": at, "_step_count": at + 1, "_last_lr": rates, "lr_lambdas": [None] * len(rates)}
    schedule.load_state_dict(state)
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _ahead(training: TrainingConfig) -> int:
    """transformers warms up from a rate of zero, at which a step would be wasted: the first step is its second."""
    return min(1, training.warmup_steps)
