"""``python -m trainer``, or ``torchrun --nproc_per_node N -m trainer -- ...``: fit the mapper on a cache."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from common.console import CacheOption, PresetOption, command, progress, summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def train(
    cache: CacheOption,
    run: Annotated[Path, typer.Option(help="folder of this run: checkpoints, metrics, the mapper")],
    preset: PresetOption = "micro",
    cache_format: Annotated[str, typer.Option("--format", help="hdf5 or webdataset")] = "hdf5",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Fit the mapper; run again to resume after the last complete epoch."""
    from common.runtime import quiet_libraries
    from pipeline.cache import open_store
    from presets import load_preset
    from trainer.train import Trainer

    quiet_libraries()
    settings = load_preset(preset, assignments)
    trainer = Trainer(settings, open_store(cache, cache_format), run, device)
    main = trainer.accelerator.is_main_process
    with progress() if main else nullcontext() as bar:
        task = bar.add_task("train", total=None, note="") if bar else None

        def on_step(done: int, total: int, note: str) -> None:
            if bar is not None and task is not None:
                bar.update(task, completed=done, total=total, note=note)

        outcome = trainer.fit(on_step)
    trainer.close()
    if not main:
        return
    figures = {name: value for name, value in outcome.metrics.items() if not name[-1].isdigit()}
    summary(
        "train",
        {
            "clips": f"{trainer.train_clips} train, {trainer.validation_clips} validation, {trainer.data.how}",
            "left out": trainer.data.left_out,
            "processes": f"{trainer.world} on {trainer.accelerator.device.type}",
            "mapper": f"{trainer.parameters / 1e6:.2f} M trained parameters, {trainer.mapper_words}",
            "epochs": f"{outcome.epochs_now} now, {outcome.epochs_before} before, {trainer.epoch} in all",
            **{name: "not finite" if value is None else f"{value:.5g}" for name, value in figures.items()},
            **({"note": "\n".join(outcome.notes)} if outcome.notes else {}),
            "seconds": f"{outcome.seconds:.1f}",
            "written to": run / "mapper",
        },
    )


if __name__ == "__main__":
    app()
