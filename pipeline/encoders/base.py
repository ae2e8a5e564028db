"""What all encoders share: how they take clips, and in which precision they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from pipeline.frozen import Frozen
from pipeline.media import DecodedClip

Precision = Literal["float32", "bfloat16", "float16"]
_CONVOLUTIONS = (
    torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d,
    torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d,
)  # fmt: skip


class Encoder(Frozen):
    """A frozen foundation model, with its settings ``config``.

    Subclasses define ``encode``, which returns float32 on the encoder's device. ``full_precision`` names the
    submodules whose weights stay in float32 whatever the precision.
    """

    full_precision: ClassVar[tuple[str, ...]] = ()
    encode: Callable[..., Any]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.precision: Precision = "float32"

    def encode_clips(self, clips: Sequence[DecodedClip]) -> Tensor:
        """Features (B, T, D) of decoded clips: ``encode`` of what ``config.reads`` names, their frames or waveforms."""
        if self.config.reads == "waveform":
            return self.encode(torch.from_numpy(np.stack([clip.sound(self.config.sample_rate) for clip in clips])))
        return self.encode(stacked_frames(clips))

    def encode_labels(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (N, L, D), the rest of a row zero, and their lengths (N,), where ``config.reads`` is ``label``."""
        raise TypeError(f"{self.name} does not read labels")

    def compile_submodules(self) -> None:
        """``torch.compile`` what has weights inside, in place; keys of the state dict stay as they are."""
        for module in self.children():
            if any(True for _ in module.parameters()):
                module.compile()

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers(), [torch.empty(0)])).device

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


def stacked_frames(clips: Sequence[DecodedClip]) -> Tensor:
    """Their frames as encoders take them, uint8 (B, T, 3, H, W)."""
    return torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3)


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


def override(config: Any, values: Mapping[str, Any] | None) -> Any:
    """A copy of a config dataclass with some fields changed; raises ValueError for unknown ones."""
    if not values:
        return config
    known = {field.name for field in dataclasses.fields(config)}
    if unknown := set(values) - known:
        raise ValueError(f"unknown settings {sorted(unknown)}: there are {sorted(known)}")
    return type(config)(**{**dataclasses.asdict(config), **values})
