"""Choosing the device, and keeping third-party chatter off the screen."""

from __future__ import annotations

import logging
import os
import warnings

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from common.errors import InputError


def choose_device(name: str = "auto") -> str:
    """A device of this machine: ``auto`` is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises :class:`InputError` for a device that is not there, or no device at all.
    """
    if name == "auto":
        return next((kind for kind in ("cuda", "mps") if device_count(kind)), "cpu")
    try:
        device = torch.device(name)
        count = device_count(device.type)
    except RuntimeError:
        raise InputError(f"unknown device '{name}': there are auto, cpu, cuda, cuda:N and mps") from None
    if not count:
        raise InputError(f"device '{name}' was asked for, but this torch sees no {device.type.upper()} device")
    if device.index is not None and device.index >= count:
        there = f"{device.type}:0" + (f" to {device.type}:{count - 1}" if count > 1 else "")
        raise InputError(f"device '{name}' was asked for, but there is only {there}")
    return "cpu" if device.type == "cpu" else str(device)


def device_count(kind: str) -> int:
    """How many devices of a kind this torch can use; raises RuntimeError for what is no kind of device."""
    module = torch.get_device_module(kind)
    return int(module.device_count()) if module.is_available() else 0


def quiet_libraries() -> None:
    """Errors of ours must not drown in advice of others; real failures still raise."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "diffusers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # accelerate has no other name yet
