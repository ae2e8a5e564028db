"""Accelerate on the device that was asked for: it chooses one itself, and several processes share the GPUs out."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, patch_environment

from common.errors import InputError
from common.runtime import choose_device
from presets.config import PresetError


def build_accelerator(device: str, mixed_precision: str, run: str | Path) -> Accelerator:
    """An :class:`Accelerator` on ``device``, as :func:`common.runtime.choose_device` understands it.

    With several processes the launcher gives each its own GPU, so ``cuda`` may carry no index there. Raises
    :class:`InputError` for a device that is not there, or that this process cannot train on, and
    :class:`PresetError` for float16 on a CPU, where Accelerate would train in float32 without a word.
    """
    chosen = torch.device(choose_device(device))
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and (chosen.index is not None or chosen.type == "mps"):
        raise InputError(
            f"device '{device}' is one device, but {os.environ['WORLD_SIZE']} processes were launched: "
            f"give cuda or cpu, and the launcher gives each process its own"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if chosen.type == "cuda" and local > torch.cuda.device_count():
        raise InputError(
            f"{local} processes were launched on this machine, but it has {torch.cuda.device_count()} GPUs"
        )
    if chosen.type == "cpu" and mixed_precision == "fp16":
        raise PresetError("training.mixed_precision=fp16 needs a GPU, and this run is on the CPU: take bf16 or no")
    # Accelerate's own way of naming a device; left to itself it takes the first accelerator that it finds.
    named = {} if several or chosen.type == "cpu" else {"ACCELERATE_TORCH_DEVICE": str(chosen)}
    with patch_environment(**named):
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=chosen.type == "cpu",
            log_with="tensorboard",
            project_dir=str(run),
            # A mapper's buffers are constants, and processes may run the model a different number of times a step.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    if accelerator.device.type != chosen.type or (chosen.index not in (None, accelerator.device.index)):
        raise InputError(f"this process already trains on {accelerator.device}: start another one for {chosen}")
    return accelerator
