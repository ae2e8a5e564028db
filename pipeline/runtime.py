"""Choosing the device, and keeping third-party chatter off the screen."""

from __future__ import annotations

import logging
import os
import warnings

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from pipeline.errors import InputError


def choose_device(name: str = "auto") -> str:
    """``auto`` is CUDA where there is one; raises :class:`InputError` for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device '{name}' was asked for, but this torch sees no CUDA device")
    try:
        return str(torch.device(name))
    except RuntimeError:
        raise InputError(f"unknown device '{name}'") from None


def quiet_libraries() -> None:
    """Errors of ours must not drown in advice of others; real failures still raise."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("transformers", "diffusers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
