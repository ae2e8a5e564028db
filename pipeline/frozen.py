"""Networks that others have trained: their files, checked and read key by key, and what identifies their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from common.errors import WeightsError
from common.hashing import sha256_file, sha256_state
from pipeline.encoders.checkpoints import Rule, load_checked, read_state
from presets.official import CheckpointFile

N = TypeVar("N", bound="Frozen")


class Frozen(torch.nn.Module):
    """A network that is used as its authors trained it. ``fingerprint`` identifies its weights."""

    name: ClassVar[str]
    fingerprint: str = ""

    def load(self, paths: Mapping[str, Path]) -> None:
        """Fill all weights from the official files, by role; raises :class:`WeightsError`."""
        raise NotImplementedError(f"{self.name} has official files, and does not say how to load them")

    @staticmethod
    def fingerprint_of(paths: Mapping[str, Path]) -> str:
        """Of the official files (or folders), by role."""
        digest = hashlib.sha256()
        for role in sorted(paths):
            for path in sorted(paths[role].rglob("*")) if paths[role].is_dir() else [paths[role]]:
                if path.is_file():
                    digest.update(f"{role}/{path.name}={sha256_file(path)};".encode())
        return f"official-{digest.hexdigest()[:32]}"

    def ready(self: N, device: str | torch.device) -> N:
        """On the device, in evaluation mode, without gradients."""
        return self.to(device).eval().requires_grad_(False)


def check_files(
    name: str, files: Sequence[CheckpointFile], paths: Mapping[str, str | Path], or_else: str = ""
) -> dict[str, Path]:
    """Raise one :class:`WeightsError` for the roles that ``paths`` misses or that are not on disk."""
    wanted = {file.role for file in files}
    if unknown := set(paths) - wanted:
        raise WeightsError(f"{name} has no checkpoint called {sorted(unknown)}: it needs {sorted(wanted)}")
    missing = [file for file in files if file.role not in paths or not Path(paths[file.role]).exists()]
    if missing:
        lines = [
            f"  {paths.get(file.role, file.filename)} from {file.source}, licence {file.licence}, {file.size_gb:g} GB"
            for file in missing
        ]
        if any(file.url for file in missing):
            lines.append("  make weights PRESET=paper fetches what a script can fetch into weights/")
        raise WeightsError(f"{name} needs weights that are not here{or_else}:\n" + "\n".join(lines))
    return {role: Path(path) for role, path in paths.items()}


def drawn(make: Callable[[], N], seed: int) -> N:
    """What ``make`` builds, with weights that follow from ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def fill_official(network: Frozen, paths: Mapping[str, Path]) -> None:
    """From official files that :func:`check_files` has seen; raises :class:`WeightsError`."""
    network.load(paths)
    network.fingerprint = network.fingerprint_of(paths)


def fill_shipped(network: Frozen, path: Path) -> None:
    """Our own small weights, under our own parameter names; raises :class:`WeightsError`."""
    load_own_keys(network, path)
    network.fingerprint = f"shipped-{sha256_file(path)[:32]}"


def fill_seeded(network: Frozen) -> None:
    """The weights are the ones the constructor drew; record what they are."""
    network.fingerprint = f"seeded-{sha256_state(network.state_dict())[:32]}"


def load_own_keys(
    network: torch.nn.Module,
    path: Path,
    ignored: tuple[str, ...] = (),
    only: tuple[str, ...] = ("",),
) -> None:
    """Fill a network whose parameters are named as the file names them.

    Keys of the file count that begin with one of ``only`` and with none of ``ignored``: of these any that is not
    ours, and any of ours that is not there, raises :class:`WeightsError`.
    """
    rules = [Rule(name, (name,), (tuple(tensor.shape),)) for name, tensor in network.state_dict().items()]
    owned = lambda key: key.startswith(only) and not key.startswith(ignored)  # noqa: E731
    load_checked(network, rules, read_state(path), files=[path], owned=owned)
