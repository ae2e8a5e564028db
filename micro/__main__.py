"""``python -m micro``: train the models that the micro preset ships, and study the method with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import command, summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def main() -> None:
    """Small foundation models for the rendered world of ``manifests.world``."""


@app.command()
@command
def train(
    folder: Annotated[Path, typer.Option(help="checkpoints and logs; a stopped training goes on")] = Path(
        "runs/micro-models"
    ),
    export: Annotated[Path | None, typer.Option(help="where the finished weights go; default: nowhere")] = None,
    stage: Annotated[str, typer.Option(help="one stage, or all")] = "all",
    scale: Annotated[float, typer.Option(help="times the number of steps, for a trial")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch")] = 0,
) -> None:
    """Train every frozen model of the micro preset; hours on 2 cores."""
    import torch

    from micro.models import STAGES, MicroModels, Steps
    from pipeline.errors import InputError
    from pipeline.runtime import quiet_libraries
    from presets import load_preset

    quiet_libraries()
    if threads:
        torch.set_num_threads(threads)
    if stage not in ("all", *STAGES):
        raise InputError(f"unknown stage '{stage}': there are {', '.join(STAGES)}")
    models = MicroModels(load_preset(str(Path(__file__).parent / "world.yaml")), folder, Steps().scaled(scale))
    for name in STAGES if stage == "all" else (stage,):
        getattr(models, name)
    if export is not None:
        models.export(export)
    summary("micro", {"checkpoints": folder, "exported to": export or "nowhere"})


if __name__ == "__main__":
    app()
