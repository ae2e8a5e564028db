"""sha256 of files and of states: the names of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sha256_file(path: str | Path) -> str:
    """sha256 of a file, remembered while its size and modification time stay the same."""
    stat = Path(path).stat()
    return _sha256(str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns)


def sha256_state(state: Mapping[str, Any]) -> str:
    """sha256 over names, shapes and bytes of a state dict: the fingerprint of seeded weights."""
    import torch  # what only hashes files does without

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
