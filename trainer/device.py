"""Accelerate on the device that was asked for: it chooses one itself, and several processes share the GPUs out."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import patch_environment

from pipeline.errors import InputError
from pipeline.runtime import choose_device


def build_accelerator(device: str, mixed_precision: str, run: str | Path) -> Accelerator:
    """An :class:`Accelerator` on ``device``, as :func:`pipeline.runtime.choose_device` understands it.

    With several processes the launcher gives each its own GPU, so ``cuda`` may carry no index there. Raises
    :class:`InputError` for a device that is not there, or that this process cannot train on.
    """
    chosen = torch.device(choose_device(device))
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and (chosen.index is not None or chosen.type == "mps"):
        raise InputError(
            f"device '{device}' is one device, but {os.environ['WORLD_SIZE']} processes were launched: "
            f"give cuda or cpu, and the launcher gives each process its own"
        )
    # Accelerate's own way of naming a device; left to itself it takes the first accelerator that it finds.
    named = {} if several or chosen.type == "cpu" else {"ACCELERATE_TORCH_DEVICE": str(chosen)}
    with patch_environment(**named):
        accelerator = Accelerator(
            mixed_precision=mixed_precision, cpu=chosen.type == "cpu", log_with="tensorboard", project_dir=str(run)
        )
    if accelerator.device.type != chosen.type or (chosen.index not in (None, accelerator.device.index)):
        raise InputError(f"this process already trains on {accelerator.device}: start another one for {chosen}")
    return accelerator
