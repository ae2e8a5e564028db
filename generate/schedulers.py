"""diffusers' schedulers, driven so that a GPU is never waited for and a clip's noise is its own."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from common.errors import InputError

_OF_NOISE = ("beta_start", "beta_end", "beta_schedule")  # what a scheduler must follow of the model's config


def build_scheduler(name: str, config: Any) -> Any:
    """A diffusers scheduler by class name, on another one's noise schedule; raises :class:`InputError`."""
    kind: Any = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    try:
        if not hasattr(kind, "set_timesteps"):
            raise InputError(
                f"generation.scheduler: diffusers has no scheduler '{name}'; for example DDIMScheduler, "
                f"DPMSolverMultistepScheduler, EulerDiscreteScheduler"
            )
        scheduler = kind.from_config(config)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"generation.scheduler: {str(error).strip()}") from None
    except Exception as error:
        raise InputError(f"generation.scheduler: {name} cannot be made: {type(error).__name__}: {error}") from error
    taken = inspect.signature(kind.__init__).parameters
    if lacking := [key for key in _OF_NOISE if key in config and key not in taken]:
        raise InputError(
            f"generation.scheduler: {name} has a noise schedule of its own (no {', '.join(lacking)}), and the model "
            f"was trained on another; for example DDIMScheduler, DPMSolverMultistepScheduler"
        )
    needed = [
        parameter.name
        for parameter in list(inspect.signature(scheduler.step).parameters.values())[3:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needed:
        raise InputError(f"generation.scheduler: a step of {name} needs {', '.join(needed)}, which there is not here")
    if hasattr(scheduler, "noise_sampler"):
        raise InputError(
            f"generation.scheduler: {name} draws its noise for the whole batch at once, so that a clip's sound would "
            f"depend on its batch; DPMSolverMultistepScheduler and EulerAncestralDiscreteScheduler do not"
        )
    return scheduler


def check_scheduler(name: str, config: Any, steps: int) -> None:
    """Raise :class:`InputError` for a scheduler that cannot be used here, or not with so many steps."""
    Steps(build_scheduler(name, config), steps, torch.device("cpu"))


def name_seed(name: str, seed: int) -> int:
    """A seed for :meth:`torch.Generator.manual_seed` that follows from a name and a seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def step_seeds(names: Sequence[str], seed: int) -> list[int]:
    """Seeds of the noise that the steps draw, one a clip (or window), apart from that of the start noise."""
    return [name_seed(f"steps/{name}", seed) for name in names]


def mapper_seeds(names: Sequence[str]) -> list[int]:
    """Seeds of the noise that a mapper may draw, one a clip, from its name alone.

    A preset's seed and candidates vary the sound of what is predicted, not that. All windows of a film share one seed,
    or its sound would change its character with each.
    """
    return [name_seed(f"mapper/{name}", 0) for name in names]


class Steps:
    """The steps of one sampling run: iterate for (time, the same on the device), then call :meth:`step`.

    The scheduler stays on the CPU with its times and coefficients, which are single numbers: a GPU takes them with the
    operation, while a time on the GPU would be asked back for at every step. ``seeds`` (B,) give each clip a random
    stream of its own, which only schedulers that add noise read (``eta`` > 0, ancestral, SDE).
    """

    def __init__(
        self, scheduler: Any, steps: int, device: torch.device, eta: float = 0.0, seeds: Sequence[int] | None = None
    ):
        self.scheduler = scheduler
        try:
            scheduler.set_timesteps(steps)
        except Exception as error:  # PNDM with fewer than four
            name = type(scheduler).__name__
            raise InputError(
                f"generation.steps: {name} cannot make {steps} steps ({error}): take more, or another scheduler"
            ) from error
        accepted = inspect.signature(scheduler.step).parameters
        self.options: dict[str, Any] = {"eta": eta} if "eta" in accepted else {}
        if seeds is not None and "generator" in accepted:
            self.options["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
        times = scheduler.timesteps
        if times[0] < times[-1]:
            raise InputError(f"generation.scheduler: {type(scheduler).__name__} goes from sound to noise")
        self._times = times, (times.float() if times.is_floating_point() else times).to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*self._times, strict=True)

    def step(self, noise: Tensor, time: Tensor, latents: Tensor) -> Tensor:
        """Predicted noise and latents (B, C, H, W) at ``time`` (the CPU's) -> latents of the next step."""
        return self.scheduler.step(noise, time, latents, **self.options).prev_sample
