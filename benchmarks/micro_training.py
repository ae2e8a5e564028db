"""How long the micro preset's models take to train here: seconds a step of each stage, float32 against bfloat16.

    python -m benchmarks.micro_training [--steps 6] [--out DIR]

A step costs the same however many scenes there are to choose from, so few are rendered. The two precisions take turns;
the time of the whole training is that of the steps of all stages, each at the better of the two. What is prepared once
(scenes, tokens, latents) is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from common.runtime import quiet_libraries
from micro import audio, clap, classifier, clip, hifigan, models, vision
from micro.fit import Fit, Machine
from micro.models import STAGES, MicroModels, Steps
from presets import load_preset

PRECISIONS = ("float32", "bfloat16")


def few_scenes(count: int) -> None:
    for module in (audio, vision, classifier, clip, clap, hifigan):
        module._CLIPS = count  # type: ignore[attr-defined]
    models.CLIPS = 2 * count


def recorded(times: list[float]) -> Callable[..., Any]:
    """:meth:`Fit._clipped`, that notes when each step's gradients are there."""
    original = Fit._clipped

    def clipped(self: Fit, *arguments: Any) -> Any:
        values = original(self, *arguments)
        times.append(time.perf_counter())
        return values

    return clipped


def seconds_a_step(stage: str, precision: str, folder: Path, steps: int) -> float:
    """Median over the steps of a stage but the first two; what it rests on is there already."""
    times: list[float] = []
    original, Fit.until = Fit._clipped, steps  # type: ignore[misc]
    Fit._clipped = recorded(times)  # type: ignore[method-assign]
    try:
        for path in folder.glob(f"{stage}.*"):
            path.unlink()
        machine = Machine("cpu", precision)
        getattr(MicroModels(load_preset("micro", ["weights.source=seeded"]), folder, Steps(), machine), stage)
    finally:
        Fit._clipped, Fit.until = original, None  # type: ignore[method-assign, misc]
    times = times[-steps:]
    return statistics.median(after - before for before, after in pairwise(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    quiet_libraries()
    few_scenes(144)
    table, hours = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for stage in given.stages.split(","):
            measured = {each: round(seconds_a_step(stage, each, Path(folder), given.steps), 4) for each in PRECISIONS}
            best = min(measured.values())
            hours += best * getattr(Steps(), stage) / 3600
            table[stage] = {**measured, "times faster": round(measured["float32"] / measured["bfloat16"], 2)}
            print(stage, table[stage], flush=True)
    write_result("micro_training_cpu", {"seconds a step": table, "hours of all steps": round(hours, 2)}, given.out)


if __name__ == "__main__":
    main()
