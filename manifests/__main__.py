"""``python -m manifests``: render the small world that stands in for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import command, progress, summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def render(
    out_folder: Annotated[Path, typer.Option("--out", help="folder of the clips")],
    clips: Annotated[int, typer.Option(help="how many clips")] = 36,
    seed: Annotated[int, typer.Option(help="another seed is another world")] = 0,
) -> None:
    """Render 10-s H.264/AAC clips in which things visibly hit, flash or move while they sound."""
    from manifests.world import render_world

    made = 0
    with progress() as bar:
        task = bar.add_task("render clips", total=clips, note="")
        for _, new in render_world(out_folder, clips, seed):
            made += new
            bar.advance(task)
    summary("render", {"clips": f"{made} made, {clips - made} already there", "written to": out_folder})


if __name__ == "__main__":
    app()
