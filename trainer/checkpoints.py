"""Folders that are whole or absent and say the checksums of their files; and what a run needs to go on.

A checkpoint holds safetensors and JSON and nothing else, so that reading one, whoever made it, runs no code.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import CacheError
from common.hashing import sha256_file
from common.writing import make_folder, replacing, sync_folder, temporary_beside, write_error, write_text

SUMS = "SHA256SUMS"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


# --- folders that are whole or absent -----------------------------------------------------------------------


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``final``; on success it takes that name, and one that stood there goes.

    Raises :class:`WriteError` for a full disk and the like; then what stood at ``final`` stays.
    """
    temporary, old = temporary_beside(final), temporary_beside(final)
    make_folder(temporary)
    try:
        yield temporary
        try:
            if final.exists():
                final.rename(old)
            temporary.rename(final)
            sync_folder(final.parent)
        except OSError as error:
            raise write_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors whole; raises :class:`WriteError`."""
    with replacing(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, {"format": "pt"})


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """``SHA256SUMS``, as ``sha256sum --check`` reads it."""
    write_text(folder / SUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names)))


def check_sums(folder: Path, names: Iterable[str]) -> str:
    """What is wrong with these files by the folder's ``SHA256SUMS``, in a sentence; empty if nothing is.

    A folder without sums was not written by this version; nothing is known of its files.
    """
    path = folder / SUMS
    if not path.is_file():
        return ""
    sums = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    for name in names:
        if not (folder / name).is_file():
            return f"{folder / name} does not exist"
        if sums.get(name) != sha256_file(folder / name):
            return f"{folder / name} is damaged: its content does not match its checksum in {SUMS}"
    return ""


# --- checkpoints --------------------------------------------------------------------------------------------


@dataclass(config=ConfigDict(extra="forbid", strict=True), frozen=True)
class Progress:
    """Where a run stands: epochs and optimizer steps done, by how many processes, metrics of each epoch.

    ``scaler``: the state of the gradient scaler, for float16 alone. A value that was not finite is None.
    """

    epoch: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    processes: Annotated[int, Field(ge=1)]
    metrics: list[dict[str, int | float | None]]
    scaler: dict[str, float | int] | None = None


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Any, progress: Progress) -> None:
    """Write the weights of the model, the state of its optimizer and the progress, whole or not at all."""
    names = _trained(model)
    state = optimizer.state_dict()["state"]
    flat = {f"{key}/{names[index]}": value for index, values in state.items() for key, value in values.items()}
    with whole_folder(folder) as temporary:
        save_tensors(model.state_dict(), temporary / MODEL)
        save_tensors(flat, temporary / OPTIMIZER)
        write_text(temporary / STATE, TypeAdapter(Progress).dump_json(progress, indent=1).decode())
        write_sums(temporary, (MODEL, OPTIMIZER, STATE))


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Any) -> Progress:
    """Fill a model and its optimizer, and say where the run stood.

    Raises :class:`CacheError` for a damaged or foreign checkpoint, and for one with pickles of an earlier version.
    """
    refuse_pickles(folder)
    if not (folder / SUMS).is_file():
        raise _unusable(folder, f"{folder / SUMS} does not exist")
    if fault := check_sums(folder, (MODEL, OPTIMIZER, STATE)):
        raise _unusable(folder, fault)
    try:
        progress = TypeAdapter(Progress).validate_json((folder / STATE).read_bytes())
        weights, flat = load_file(folder / MODEL), load_file(folder / OPTIMIZER)
        _fill(model, optimizer, weights, flat)
    except ValidationError as error:
        raise _unusable(
            folder, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from None
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise _unusable(folder, str(error)) from error
    return progress


def _fill(model: nn.Module, optimizer: Any, weights: dict[str, Tensor], flat: dict[str, Tensor]) -> None:
    names, parameters = _trained(model), dict(model.named_parameters())
    states: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(names))} if flat else {}
    places = {name: index for index, name in enumerate(names)}
    for key, value in flat.items():
        kind, _, name = key.partition("/")
        if name not in places or value.shape not in (torch.Size(()), parameters[name].shape):
            raise ValueError(f"{OPTIMIZER} does not fit the model: {key} {tuple(value.shape)}")
        states[places[name]][kind] = value
    if len({frozenset(values) for values in states.values()}) > 1:
        raise ValueError(f"{OPTIMIZER} lacks some of the model's parameters")
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _trained(model: nn.Module) -> list[str]:
    """Names of the trained parameters, in the optimizer's order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def refuse_pickles(folder: Path) -> None:
    """Raise :class:`CacheError` for a checkpoint as earlier versions wrote it, through Accelerate."""
    found = sorted(path.name for path in folder.glob("*") if path.suffix in (".pkl", ".bin", ".pt"))
    if found:
        raise CacheError(
            f"{folder} is a checkpoint of an earlier version: {', '.join(found)} are pickles, which can run code when "
            f"they are read, so they are not. The saved mapper is not affected: generate from it, or go on from it in "
            f"a new RUN folder with --set mapper.initialise={folder.parents[1] / 'mapper'}"
        )


def _unusable(folder: Path, fault: str) -> CacheError:
    return CacheError(f"checkpoint {folder} cannot be used ({fault}): delete it to go on from the one before")
