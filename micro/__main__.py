"""``python -m micro``: train the models that the micro preset ships, and study the method with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from common.console import command, console, progress, summary

PointsOption = Annotated[
    str, typer.Option(help="of quality against cost: scheduler:steps, joined by commas, the reference first; or none")
]

# V2A-Mapper's preset.
BASELINE = "v2a-mapper-micro"
BaselineOption = Annotated[str, typer.Option(help="preset of V2A-Mapper, on the same clips; or none")]

# Processes and threads: all are begun at once, and more than a machine has cores of only slow each other.
MOST = 1024
WorkersOption = Annotated[int, typer.Option(min=1, max=MOST, help="processes of one thread each")]
ThreadsOption = Annotated[int, typer.Option(min=0, max=MOST, help="CPU threads; 0 leaves it to torch")]


def note(text: str) -> None:
    """A line of progress, at once, however long."""
    console.print(text, soft_wrap=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def main() -> None:
    """Small foundation models for the rendered world of ``micro.world.render``."""


@app.command()
@command
def render(
    out_folder: Annotated[Path, typer.Option("--out", help="folder of the clips")],
    clips: Annotated[int, typer.Option(min=1, help="how many clips")] = 36,
    seed: Annotated[int, typer.Option(min=0, help="another seed is another world")] = 0,
) -> None:
    """Render 10-s H.264/AAC clips in which things visibly hit, flash or move while they sound."""
    from micro.world.render import render_world

    made = 0
    with progress() as bar:
        task = bar.add_task("render clips", total=clips, note="")
        for _, new in render_world(out_folder, clips, seed):
            made += new
            bar.advance(task)
    summary("render", {"clips": f"{made} made, {clips - made} already there", "written to": out_folder})


@app.command()
@command
def train(
    folder: Annotated[Path, typer.Option(help="checkpoints and logs; a stopped training goes on")] = Path(
        "runs/micro-models"
    ),
    export: Annotated[Path | None, typer.Option(help="where the finished weights go; default: nowhere")] = None,
    mapper: Annotated[Path | None, typer.Option(help="a trained mapper to export with them")] = None,
    v2a_mapper: Annotated[Path | None, typer.Option(help="and one of v2a-mapper-micro")] = None,
    stage: Annotated[str, typer.Option(help="all, or names joined by commas")] = "all",
    scale: Annotated[float, typer.Option(help="times the number of steps, for a trial")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16 (of products, where it is fast)")] = "auto",
    threads: ThreadsOption = 0,
    adversarial: Annotated[bool, typer.Option(help="whether the vocoder also has a discriminator to satisfy")] = True,
) -> None:
    """Train every frozen model of the micro presets; hours on 2 cores."""
    import torch

    from common.errors import InputError
    from common.outputs import check_folder
    from common.runtime import choose_device, quiet_libraries
    from micro.fit import Machine, best_precision
    from micro.models import STAGES, MicroModels, Steps
    from presets import load_preset
    from trainer.mapper import read_spec
    from trainer.registry import mapper_folder

    quiet_libraries()
    if threads:
        torch.set_num_threads(threads)
    names = list(STAGES) if stage == "all" else [name.strip() for name in stage.split(",")]
    if not (scale > 0 and math.isfinite(scale)):
        raise InputError(f"--scale is {scale:g}, and must be a number above 0")
    if unknown := [name for name in names if name not in STAGES]:
        raise InputError(f"unknown stage '{unknown[0]}': there are {', '.join(STAGES)}")
    if precision not in (known := ("auto", "float32", "bfloat16")):
        raise InputError(f"unknown precision '{precision}': there are {', '.join(known)}")
    for place in (folder, *([] if export is None else [export])):
        check_folder(place)
    finished = [None if run is None else mapper_folder(run) for run in (mapper, v2a_mapper)]
    for each in finished:  # after hours of training it would be late to find that there is none
        if each is not None:
            read_spec(each)
    device = choose_device(device)
    chosen = best_precision(device) if precision == "auto" else precision
    machine = Machine(device, chosen, where_it_pays=precision == "auto")
    preset = load_preset("micro", ["weights.source=seeded"])
    models = MicroModels(preset, folder, Steps().scaled(scale), machine, adversarial)
    for name in names:
        getattr(models, name)
    if export is not None:
        models.export(export, *finished)
    summary("micro", {"checkpoints": folder, "exported to": export or "nowhere"})


@app.command()
@command
def study(
    folder: Annotated[Path, typer.Option(help="everything the study makes; run again to go on")] = Path("runs/study"),
    clips: Annotated[int, typer.Option(max=1_000_000, help="how many clips to render; at least 139")] = 1440,
    seeds: Annotated[int, typer.Option(help="seeds of each mapper")] = 3,
    per_class: Annotated[int, typer.Option(help="test clips of each class that are made to sound; 2 or more")] = 4,
    parts: Annotated[
        str, typer.Option(help="clips, cache, mappers, sounds, figure3, curve, report, joined by commas")
    ] = "all",
    workers: WorkersOption = 2,
    device: Annotated[str, typer.Option(help="of encoders and sound: auto, cpu, cuda or cuda:N")] = "auto",
    mapper_device: Annotated[
        str, typer.Option(help="auto: those that take longest on --device, the rest on the CPU; or a device")
    ] = "auto",
    device_workers: Annotated[int, typer.Option(min=1, max=MOST, help="processes that share an accelerator")] = 12,
    preset: Annotated[str, typer.Option(help="of MFM-Mapper and its variants")] = "micro",
    baseline: BaselineOption = BASELINE,
    points: PointsOption = "default",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value, of both presets")] = [],  # noqa: B006
) -> None:
    """The paper's Tables 1 to 3 and Figure 3 at micro scale, with ceiling, oracle and controls.

    And the curve of quality against cost of the sampler.
    """
    from common.outputs import check_folder
    from common.runtime import choose_device, quiet_libraries
    from micro.points import points_of
    from micro.study import Study
    from micro.study_run import Machine, parts_of, run

    quiet_libraries()
    compared = "" if baseline == "none" else baseline
    compares = Study(folder, clips, seeds, per_class, preset, tuple(assignments), compared)
    machine = Machine(workers, device, mapper_device, device_workers)
    for name in compares.systems:  # what any of them cannot be trained with is said before clips are rendered
        compares.mapper_preset(name, 0)
    machine.mapper_devices(choose_device(device))
    check_folder(folder)
    results = run(
        compares,
        machine,
        note,
        points_of(points),
        parts_of(parts),
    )
    if not results:
        summary("study", {"made": parts, "in": folder})
        return
    rows = {
        name: ", ".join(f"{k} {v[0]:.3f}" for k, v in values.items()) for name, values in results["figures"].items()
    }
    if results["curve"] and results["curve"]["cheapest"]:
        rows["cheapest as good as " + results["curve"]["points"][0]["name"]] = results["curve"]["cheapest"]
    minutes = f"{results['seconds_of_last_call'] / 60:.0f}"
    missing = {"not made yet": f"{len(results['missing'])} conditions"} if results["missing"] else {}
    summary("study", {**rows, **missing, "minutes of this call": minutes, "written to": folder / "study.md"})


@app.command()
@command
def curve(
    folder: Annotated[Path, typer.Option(help="a study whose MFM-Mappers are trained; read only")] = Path("runs/study"),
    output: Annotated[Path | None, typer.Option("--out", help="sound, page and figure; default: the study's")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many of the study's mappers")] = 3,
    per_class: Annotated[int, typer.Option(min=1, help="test clips of each class")] = 4,
    workers: WorkersOption = 2,
    baseline: BaselineOption = BASELINE,
    points: PointsOption = "default",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Quality against cost: schedulers and steps on the mappers of a study; run again to go on."""
    from common.errors import InputError
    from common.runtime import quiet_libraries
    from micro.curve import run_curve
    from micro.points import points_of
    from micro.study import Study
    from micro.tasks import Workers

    quiet_libraries()
    compared = "" if baseline == "none" else baseline
    study = Study(folder, 0, seeds, per_class, "micro", tuple(assignments), compared)
    chosen = points_of(points)
    if not chosen:
        raise InputError("--points names no point of the curve, such as DDIMScheduler:100")
    with Workers(workers) as processes:
        results = run_curve(study, output or folder, chosen, processes, note)
    rows = {
        point["name"]: f"{point['seconds']:.2f} s a clip, "
        + ", ".join(f"{name} {value[0]:.3f}" for name, value in point["figures"].items())
        for point in results["points"]
    }
    if results["cheapest"]:
        rows["cheapest as good as " + results["points"][0]["name"]] = results["cheapest"]
    summary("curve", {**rows, "written to": (output or folder) / "curve.md"})


@app.command()
@command
def probe(
    folder: Annotated[
        Path | None, typer.Option(help="a study, whose cache and mappers are probed; default: scenes in memory")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="folder of python -m micro train, or what it exported; default: the weights that ship"),
    ] = None,
    mapper: Annotated[
        list[Path],
        typer.Option(help="folder of a trained mapper, may be given again; default: the shipped one or the study's"),
    ] = [],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option("--out", help="where probe.json and probe.md go; default: the study, the training, or runs/probe"),
    ] = None,
    train_scenes: Annotated[int, typer.Option("--train", help="scenes that the probes learn from")] = 240,
    test_scenes: Annotated[int, typer.Option("--test", help="scenes that they are measured on")] = 96,
    names: Annotated[
        str, typer.Option("--features", help="all, none, names joined by commas; default: on a CPU no vocoded ones")
    ] = "default",
    ceiling: Annotated[int, typer.Option(min=0, help="test scenes of each class made to sound; 0: none")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    threads: ThreadsOption = 0,
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """What every feature and every stage of sound knows of class, size, level and instant, by linear probes."""
    import torch

    from common.errors import InputError
    from common.outputs import check_folder
    from common.runtime import choose_device, quiet_libraries
    from micro.probe import default_output, make_bench, run_probe, weights_of
    from micro.probe_report import rows_of

    quiet_libraries()
    if threads:
        torch.set_num_threads(threads)
    where = output or default_output(folder, models)
    if folder is not None and models is not None:
        raise InputError("--folder has features of the weights it was made with: give either it or --models")
    check_folder(where)
    chosen = choose_device(device)
    with weights_of(models, assignments) as settings:
        bench = make_bench(folder, settings, mapper, chosen, train_scenes, test_scenes)
        results = run_probe(bench, names, ceiling, where, note)
    summary("probe", {**rows_of(results), "written to": where / "probe.md"})


@app.command()
@command
def vocoders(
    vocoder: Annotated[
        Path | None, typer.Option(help="HiFi-GAN's folder, such as runs/micro-models/vocoder; default: the preset's")
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="of vocoders.md and vocoders.json")] = Path("runs/vocoders"),
    clips: Annotated[int, typer.Option(min=12, help="held-out scenes, the classes in turn")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="of timing: one clip through each vocoder in turn")] = 9,
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """HiFi-GAN-micro beside Griffin-Lim, on true and on VAE-restored mels of held-out scenes; on the CPU."""
    from common.outputs import check_folder
    from common.runtime import quiet_libraries
    from micro.vocoders import compare, write_comparison
    from presets import load_preset

    quiet_libraries()
    check_folder(output)
    results = compare(load_preset("micro", assignments), vocoder, clips, rounds)
    rows = {
        f"{row['vocoder']}, {row['mels']} mels": f"class {row['class_accuracy']:.3f}, F1 {row['onset_f1']:.3f}, "
        f"spectral distance {row['spectral_distance']:.3f}"
        for row in results["rows"]
    }
    costs = {f"{name}, CPU s a clip": f"{value:.3f}" for name, value in results["cpu_seconds"].items()}
    summary("vocoders", {**rows, **costs, "written to": write_comparison(results, output)})


@app.command()
@command
def report(
    output: Annotated[Path, typer.Option("--out", help="what make generate wrote of rendered clips")],
    beside: Annotated[
        list[str], typer.Option(help="NAME=FOLDER of another system's sound of some of them, for Figure 2; repeat it")
    ] = [],  # noqa: B006
) -> None:
    """A page of generated clips beside their truth, with the events seen and heard, and the scores."""
    from common.runtime import quiet_libraries
    from evaluation.systems import read_systems
    from micro.networks import load_classifier
    from micro.page import write_page
    from presets import load_preset

    quiet_libraries()
    preset = load_preset("micro")
    path, scores = write_page(output, load_classifier(preset), preset.note, read_systems(beside, "--beside"))
    summary("report", {**scores, "page": path})


if __name__ == "__main__":
    app()
