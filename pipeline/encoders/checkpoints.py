"""Reading official checkpoint files and checking them key by key before a weight is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from common.errors import WeightsError
from pipeline.encoders.pickled_values import StandIn
from pipeline.encoders.torch_files import read_torch_file
from presets.official import CheckpointFile

__all__ = ["CheckpointFile", "Rule", "load_checked", "read_state"]

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """How one of our parameters comes from official ones.

    ``shapes`` are the official shapes; ``assemble`` joins or cuts the official tensors (default: take
    the only one as it is).
    """

    target: str
    sources: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    assemble: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None


def read_state(path: str | Path) -> State:
    """Tensors of a ``.safetensors``, ``.pth`` or ``.ckpt`` file, without running any code in it.

    The nesting ``state_dict`` or ``model`` is opened; what a training script saved beside it is not read. Raises
    :class:`WeightsError` naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} does not exist")
    loaded: object
    not_read: frozenset[str] = frozenset()
    if path.suffix == ".safetensors":
        try:
            loaded = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise WeightsError(f"{path} cannot be read as a checkpoint: cut short or not one ({reason})") from error
    else:
        file = read_torch_file(path)
        loaded, not_read = file.content, file.not_read
    for nesting in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(nesting), dict):
            loaded = loaded[nesting]
    beside = f"; it holds objects that are not read: {', '.join(sorted(not_read)[:5])}" if not_read else ""
    if not isinstance(loaded, dict):
        kind = loaded.name if isinstance(loaded, StandIn) else type(loaded).__name__
        raise WeightsError(f"{path} holds a {kind}, not a dict of tensors{beside}")
    state = {
        str(key).removeprefix("module."): value for key, value in loaded.items() if isinstance(value, torch.Tensor)
    }
    if not state:
        raise WeightsError(f"{path} holds no tensors{beside}")
    return state


def _listed(title: str, lines: Sequence[str], most: int = 12) -> list[str]:
    if not lines:
        return []
    shown = [f"    {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"    ... and {len(lines) - most} more")
    return [f"  {title} ({len(lines)}):", *shown]


def load_checked(
    module: torch.nn.Module,
    rules: Iterable[Rule],
    official: Mapping[str, torch.Tensor],
    *,
    files: Sequence[Path],
    owned: Callable[[str], bool],
) -> None:
    """Fill ``module`` from official tensors, every parameter and buffer, or raise.

    ``owned`` says which official keys belong to this module: one of those that no rule uses is
    unexpected. Raises one :class:`WeightsError` that lists everything missing, unexpected and
    mis-shaped, and names the files.
    """
    rules = list(rules)
    missing: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    state: State = {}
    for rule in rules:
        tensors = []
        for source, shape in zip(rule.sources, rule.shapes, strict=True):
            tensor = official.get(source)
            if tensor is None:
                if source not in missing:
                    missing.append(source)
                continue
            if tuple(tensor.shape) != shape and source not in used:
                misshaped.append(f"{source}: {tuple(tensor.shape)} instead of {shape}")
            used.add(source)
            tensors.append(tensor)
        if len(tensors) == len(rule.sources) and not misshaped:
            state[rule.target] = tensors[0] if rule.assemble is None else rule.assemble(tensors)
    unexpected = sorted(key for key in official if key not in used and owned(key))
    if missing or misshaped or unexpected:
        names = ", ".join(str(path) for path in files)
        lines = [f"{names}: not the checkpoint of {type(module).__name__} that is wanted here"]
        lines += _listed("missing", missing) + _listed("unexpected", unexpected) + _listed("wrong shape", misshaped)
        raise WeightsError("\n".join(lines))
    own = module.state_dict()
    unfilled = sorted(set(own) - set(state))
    if unfilled:
        raise AssertionError(f"no rule fills {unfilled[:5]}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, assign=False)
