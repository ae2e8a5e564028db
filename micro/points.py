"""Points of the curve of quality against cost (:mod:`micro.curve`), and which of them is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from generate.schedulers import build_scheduler
from micro.study import Study
from presets import Preset, load_preset

_KNOWN_AS = {"DPMSolverMultistep": "DPM-Solver++"}
# What must be as good as at the first point for another to replace it. Loudness is not of them: it follows the
# picture at no point.
DECIDES = ("class_accuracy", "onset_f1", "timing_error", "FD")


@dataclass(frozen=True)
class Point:
    """A scheduler of diffusers and its number of steps."""

    scheduler: str
    steps: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """``DDIMScheduler:100``; raises :class:`InputError` for anything else."""
        scheduler, _, steps = text.strip().partition(":")
        if not (steps.isascii() and steps.isdigit() and int(steps)):
            raise InputError(f"the point '{text}' is not of the form scheduler:steps, such as DDIMScheduler:100")
        return cls(scheduler, int(steps))

    @property
    def method(self) -> str:
        """What the scheduler is called in the literature."""
        name = self.scheduler.removesuffix("Scheduler")
        return _KNOWN_AS.get(name, name)

    @property
    def name(self) -> str:
        return f"{self.method} {self.steps}"

    def preset(self, study: Study) -> Preset:
        own = [f"generation.scheduler={self.scheduler}", f"generation.steps={self.steps}"]
        return load_preset(study.preset_name, [*study.assignments, *own])


# The first is what the others are compared with: the paper's.
POINTS = (
    *(Point("DDIMScheduler", steps) for steps in (100, 50, 25, 12)),
    *(Point("DPMSolverMultistepScheduler", steps) for steps in (25, 15, 10)),
)


def points_of(text: str) -> list[Point]:
    """Points joined by commas, ``default``: :data:`POINTS`, ``none``: none; raises :class:`InputError`."""
    known = {"default": list(POINTS), "none": []}
    return known[text] if text in known else [Point.parse(each) for each in text.split(",")]


def check_points(study: Study, points: Sequence[Point]) -> None:
    """Raise :class:`InputError` for a scheduler that there is not, :class:`PresetError` for too many steps."""
    for point in points:
        build_scheduler(point.scheduler, point.preset(study).audio_models.audioldm2.scheduler)


def cheapest(points: Sequence[dict[str, Any]]) -> str:
    """Name of the point of fewest seconds whose mean is no worse than the first's by more than its spread.

    In each of :data:`DECIDES`; the spread is the standard deviation over seeds.
    """
    return str(min((p for p in points if not worse(p, points[0])), key=lambda point: point["seconds"])["name"])


def worse(point: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """The figures of :data:`DECIDES` in which a point is worse than another by more than the other's spread."""
    from micro.judge import HIGHER

    found = []
    for figure in DECIDES:
        (ours, _), (theirs, spread) = point["figures"][figure], reference["figures"][figure]
        loss = theirs - ours if figure in HIGHER else ours - theirs
        if loss > spread + 1e-9:
            found.append(figure)
    return found
