"""What all encoders share: where their weights come from, and what is known about them."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from common.errors import InputError, WeightsError
from common.hashing import sha256_file, sha256_state
from pipeline.encoders.checkpoints import CheckpointFile, Rule, load_checked, read_state

Precision = Literal["float32", "bfloat16", "float16"]
_CONVOLUTIONS = (
    torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d,
    torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d,
)  # fmt: skip


class Encoder(torch.nn.Module, ABC):
    """A frozen foundation model.

    ``fingerprint`` identifies the weights (sha256 of the files, or of the seeded state).
    Subclasses define ``encode``, which returns float32 on the encoder's device. ``full_precision`` names the
    submodules whose weights stay in float32 whatever the precision.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[CheckpointFile, ...]]
    full_precision: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.fingerprint = ""
        self.precision: Precision = "float32"

    @abstractmethod
    def load_official(self, paths: Mapping[str, Path]) -> None:
        """Fill all weights from the official files, by role; raises :class:`WeightsError`."""

    def compile_submodules(self) -> None:
        """``torch.compile`` what has weights inside, in place; keys of the state dict stay as they are."""
        for module in self.children():
            if any(True for _ in module.parameters()):
                module.compile()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def set_precision(self, precision: Precision) -> None:
        """Cast the matrices of the weights, once; raises :class:`InputError` for an unknown precision.

        To be called when the weights are in, for their fingerprint is that of the official numbers.
        """
        check_precision(precision)
        self.precision = precision
        cast_matrices(self, precision, [self.get_submodule(name) for name in self.full_precision])

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the matrix products; normalisations stay in float32 under autocast."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))


def check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision '{precision}': there are {', '.join(get_args(Precision))}")


def cast_matrices(network: torch.nn.Module, precision: Precision, but: Sequence[torch.nn.Module] = ()) -> None:
    """Keep the weights that autocast casts at every call in that precision, so that it finds nothing to cast.

    Those of linear layers, convolutions and embeddings, which are nearly all; normalisations and single parameters stay
    in float32, and so do the sums of residual paths. ``but``: submodules to leave as they are.
    """
    if precision == "float32":
        return
    kept = {id(part) for module in but for part in module.modules()}
    for part in network.modules():
        if id(part) in kept:
            continue
        if isinstance(part, torch.nn.Embedding):
            part.to(getattr(torch, precision))
            part.register_forward_hook(lambda _module, _inputs, rows: rows.float())
        elif isinstance(part, (torch.nn.Linear, *_CONVOLUTIONS)):
            part.to(getattr(torch, precision))


def check_files(encoder: type[Encoder], paths: Mapping[str, str | Path]) -> dict[str, Path]:
    """Raise one :class:`WeightsError` for the roles that ``paths`` misses or that are not on disk."""
    wanted = {file.role for file in encoder.files}
    if unknown := set(paths) - wanted:
        raise WeightsError(f"{encoder.name} has no checkpoint called {sorted(unknown)}: it needs {sorted(wanted)}")
    lines = [
        f"  {paths.get(file.role, file.filename)}  from {file.source}  ({file.licence})"
        for file in encoder.files
        if file.role not in paths or not Path(paths[file.role]).exists()
    ]
    if lines:
        hint = "\n  make weights PRESET=paper fetches what a script can fetch"
        raise WeightsError(f"{encoder.name}: official weights are missing:\n" + "\n".join(lines) + hint)
    return {role: Path(path) for role, path in paths.items()}


def fill_official(encoder: Encoder, paths: Mapping[str, str | Path]) -> None:
    found = check_files(type(encoder), paths)
    encoder.load_official(found)
    digest = hashlib.sha256()
    for role in sorted(found):
        for path in sorted(found[role].rglob("*")) if found[role].is_dir() else [found[role]]:
            if path.is_file():
                digest.update(f"{role}/{path.name}={sha256_file(path)};".encode())
    encoder.fingerprint = f"official-{digest.hexdigest()[:32]}"


def fill_shipped(encoder: Encoder, path: Path) -> None:
    """Our own small weights, under our own parameter names; raises :class:`WeightsError`."""
    rules = [Rule(name, (name,), (tuple(tensor.shape),)) for name, tensor in encoder.state_dict().items()]
    load_checked(encoder, rules, read_state(path), files=[path], owned=lambda key: True)
    encoder.fingerprint = f"shipped-{sha256_file(path)[:32]}"


def fill_seeded(encoder: Encoder) -> None:
    """The weights are the ones the constructor drew; record what they are."""
    encoder.fingerprint = f"seeded-{sha256_state(encoder.state_dict())[:32]}"


def override(config: Any, values: Mapping[str, Any] | None) -> Any:
    """A copy of a config dataclass with some fields changed; raises ValueError for unknown ones."""
    if not values:
        return config
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := set(values) - known:
        raise ValueError(f"unknown settings {sorted(unknown)}: there are {sorted(known)}")
    return type(config)(**{**dataclasses.asdict(config), **values})
