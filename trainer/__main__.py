"""``python -m trainer`` (or ``accelerate launch -m trainer``): fit the mapper on a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import CacheOption, command, progress, summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def train(
    cache: CacheOption,
    run: Annotated[Path, typer.Option(help="folder of this run: checkpoints, metrics, the mapper")],
    preset: Annotated[str, typer.Option(help="micro, paper, or the path of a YAML file")] = "micro",
    cache_format: Annotated[str, typer.Option("--format", help="hdf5 or webdataset")] = "hdf5",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Fit the mapper; run again to resume after the last complete epoch."""
    from pipeline.cache import open_store
    from pipeline.runtime import quiet_libraries
    from presets import load_preset
    from trainer.train import Trainer

    quiet_libraries()
    settings = load_preset(preset, assignments)
    trainer = Trainer(settings, open_store(cache, cache_format), run, device)
    with progress() as bar:
        task = bar.add_task("train", total=None, note="")
        outcome = trainer.fit(lambda done, total, note: bar.update(task, completed=done, total=total, note=note))
    if not trainer.accelerator.is_main_process:
        return
    summary(
        "train",
        {
            "clips": f"{trainer.train_clips} train, {trainer.validation_clips} validation, {trainer.data.how}",
            "left out": trainer.data.left_out,
            "mapper": f"{trainer.parameters / 1e6:.2f} M trained parameters, {settings.mapper.fusion} fusion",
            "epochs": f"{outcome.epochs_now} now, {outcome.epochs_before} before, {trainer.epoch} in all",
            **{name: f"{value:.5g}" for name, value in outcome.metrics.items() if name[-1] not in "12345678"},
            "seconds": f"{outcome.seconds:.1f}",
            "written to": run / "mapper",
        },
    )


if __name__ == "__main__":
    app()
