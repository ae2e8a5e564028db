"""av-benchmark's feature files: ``torch.save`` of a dict by clip id (its stem), read and written as they are.

A file that we write has a JSON of the same name beside it that says what made it; files made elsewhere have
none and are taken as they come.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CacheError
from pipeline.media_writing import replacing

Entry = Tensor | dict[str, Tensor]


def read_cache(path: str | Path) -> dict[str, Entry]:
    """Clip id -> tensor, or dict of tensors; raises :class:`CacheError` for a file that is something else."""
    path = Path(path)
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, BadZipFile) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CacheError(f"{path} cannot be read as a feature cache: cut short or not one ({reason})") from error
    if not isinstance(loaded, dict):
        raise CacheError(f"{path} holds a {type(loaded).__name__}, not a dict of features by clip id")
    for clip_id, entry in loaded.items():
        whole = isinstance(entry, Tensor)
        if not whole and not (isinstance(entry, dict) and all(isinstance(part, Tensor) for part in entry.values())):
            raise CacheError(f"{path}: '{clip_id}' is a {type(entry).__name__}, not a tensor or a dict of tensors")
    return {str(clip_id): entry for clip_id, entry in loaded.items()}


def write_cache(path: str | Path, entries: Mapping[str, Entry], made_by: Mapping[str, str] | None = None) -> None:
    """Write the dict, and who made it beside it; whole or not at all."""
    path = Path(path)
    if made_by is not None:
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(dict(made_by), indent=1))
    with replacing(path) as temporary:
        torch.save(dict(entries), temporary)


def maker(path: str | Path) -> dict[str, str] | None:
    """What the JSON beside a feature file says, or None if it was made elsewhere."""
    sidecar = Path(path).with_suffix(".json")
    return json.loads(sidecar.read_text()) if sidecar.is_file() else None


def rows(entries: Mapping[str, Entry], clip_ids: Sequence[str], part: str, where: str) -> np.ndarray:
    """Entries of some clips as one array (N, ...), float32.

    ``part`` names a value of entries that are dicts, as ``2048`` and ``logits`` of PANNs. Raises
    :class:`CacheError` if a clip, the part or a common shape is missing.
    """
    values = []
    for clip_id in clip_ids:
        entry = entries[clip_id]
        if isinstance(entry, dict):
            if part not in entry:
                raise CacheError(f"{where}: '{clip_id}' has no '{part}', only {', '.join(entry)}")
            entry = entry[part]
        values.append(entry.detach().float().numpy())
    shapes = {value.shape[1:] if part == "frames" else value.shape for value in values}
    if len(shapes) > 1:
        raise CacheError(f"{where}: clips have features of different shapes, {sorted(shapes)[:3]}")
    return np.concatenate(values) if part == "frames" else np.stack(values)


def finite(entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
    """Entries without NaN and Inf, and the ids of those that have them."""
    bad = []
    for clip_id, entry in entries.items():
        parts = entry.values() if isinstance(entry, dict) else (entry,)
        if not all(bool(torch.isfinite(part.float()).all()) for part in parts):
            bad.append(clip_id)
    return {clip_id: entry for clip_id, entry in entries.items() if clip_id not in set(bad)}, bad
