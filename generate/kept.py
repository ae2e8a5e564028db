"""Tensors kept between runs in the user's cache folder: negative conditions, which take CLAP and a GPT-2 to make."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import WriteError
from common.writing import replacing


def user_cache() -> Path | None:
    """``$XDG_CACHE_HOME/mfm-mapper``, else ``~/.cache/mfm-mapper``; None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the specification: a relative one is to be ignored
        return Path(given) / "mfm-mapper"
    with suppress(RuntimeError):
        return Path.home() / ".cache" / "mfm-mapper"
    return None


def kept_negative(
    folder: Path | None, prompt: str, made_by: Callable[[], str], make: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """A negative condition as it was kept in ``folder`` under its prompt and what makes it; else made, and kept."""
    if folder is None:
        return make()
    name = hashlib.sha256(f"{prompt}/{made_by()}".encode()).hexdigest()[:16]
    path = folder / f"negative-{name}.safetensors"
    if (kept := read_kept(path)) is not None:
        return kept
    made = make()
    keep(path, made)
    return made


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """Tensors by name as they were kept; None if there are none or a bit of them is wrong: they are made again."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checksum = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return tensors if checksum == _checksum(tensors) else None


def keep(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors for later runs; where nothing can be written, they are made again there."""
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with suppress(WriteError), replacing(path) as temporary:
        save_file(on_cpu, temporary, metadata={"sha256": _checksum(on_cpu)})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
