"""``python -m evaluation``: the paper's Table 1 for a folder of generated sound; ``filter`` clips by ImageBind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from typer.core import TyperGroup

from common.console import PresetOption, command, out, progress, summary


class _EvaluateUnlessNamed(TyperGroup):
    """``python -m evaluation --out ...`` is ``python -m evaluation evaluate --out ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["evaluate", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_EvaluateUnlessNamed, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
SetOption = Annotated[list[str], typer.Option("--set", help="section.field=value")]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="processes that read files; 0: this one; default: cache.decode_workers")
]
BatchOption = Annotated[int | None, typer.Option(min=1, help="clips at a time; default: the network's own")]


@app.command()
@command
def evaluate(
    output: Annotated[Path, typer.Option("--out", help="what make generate wrote, or a folder of wav by clip id")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="true sound by clip id, or a folder of feature files; default: the videos that OUT/made.parquet names"
        ),
    ] = None,
    preset: PresetOption = "micro",
    networks: Annotated[
        str, typer.Option(help="auto (the preset's, and clap where its weights are), or names joined by commas")
    ] = "auto",
    cache: Annotated[Path | None, typer.Option(help="feature files of OUT; default: OUT/features")] = None,
    reference_cache: Annotated[
        Path | None, typer.Option(help="feature files of the reference; default: REFERENCE if it has some, else in OUT")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="videos by clip id, for networks that look at them; default: as the reference")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Parquet, CSV or TSV of clip_id and caption, for the CLAP-score; default: OUT/made.parquet"),
    ] = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    batch: BatchOption = None,
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """Compute every metric that weights or feature files allow; print it and write JSON, Markdown and a page."""
    from common.errors import InputError
    from common.outputs import check_folder
    from common.runtime import quiet_libraries
    from evaluation.evaluate import Side
    from evaluation.evaluate import evaluate as run
    from evaluation.files import reference_features
    from evaluation.networks import NETWORKS
    from evaluation.networks.clap import CLAP
    from evaluation.report import columns, table, title, write_report
    from evaluation.sources import other_videos
    from evaluation.texts import read_texts
    from generate.clip_files import file_of
    from generate.records import read_made
    from presets import load_preset

    quiet_libraries()
    settings = load_preset(preset, assignments)
    if not output.is_dir():
        raise InputError(f"{output} is not a folder: make generate writes one, or give a folder of wav files")
    check_folder(output)
    generated = next((output / name for name in ("wav_8s", "wav") if (output / name).is_dir()), output)
    made = read_made(output)  # files of clips that are no longer listed are left alone
    clips = sources = media = None
    others: dict[str, str] = {}
    if made is not None:
        there = frozenset(
            c for c in made.clip_ids if not (output / "wav").is_dir() or file_of(output, "wav", c).is_file()
        )
        clips, media = there, made.media
        if made.sources is not None:
            sources = {c: path for c, path in made.sources.items() if c in there}
            others = other_videos(output, sources)
    own, from_sources = reference is None, reference is None and sources is not None
    reference = reference or output / ("sources" if from_sources else "truth")
    if not from_sources and not reference.is_dir():
        raise InputError(f"the reference {reference} is not a folder; give one with --reference (REFERENCE=...)")
    if videos is None and sources is None and (output / "mp4").is_dir():
        videos = output / "mp4"
    if texts is None and (output / "made.parquet").is_file():
        texts = output / "made.parquet"
    if networks == "auto":
        names = list(settings.evaluation.networks)
        if CLAP.name not in names and CLAP.is_there(settings):
            names.append(CLAP.name)
    else:
        names = networks.split(",")
    if unknown := [name for name in names if name not in NETWORKS]:
        raise InputError(f"unknown network '{unknown[0]}': there are {', '.join(NETWORKS)}")
    said = read_texts(texts) if texts is not None and CLAP.name in names else {}
    with progress() as bar:
        result = run(
            settings,
            names,
            Side(generated, cache or output / "features", clips=clips),
            Side(
                reference,
                reference_cache or reference_features(output, reference),
                videos,
                said,
                clips if own else None,
                sources,
                media,
                from_sources,
                others,
            ),
            _work(settings, device, workers, batch, bar),
        )
    if made is not None and clips is not None:  # a part of the job says that it is one
        result.missing = sorted({*result.missing, *made.clip_ids} - (clips - set(result.missing)))
    truth = "the clips' own videos" if from_sources else str(reference)
    about = {"preset": settings.name, "generated": str(output), "reference": truth}
    mapper = made.mapper if made is not None else None
    paths = write_report(result, output, about, mapper)
    header, body = table(result, mapper)
    for name, reason in result.skipped.items():
        out.print(f"not computed: {name}: {reason}")
    out.print(title(result))
    for row in body:
        out.print("  ".join(f"{name}: {value}" for name, value in zip(header, row, strict=True)))
    summary(
        "evaluate",
        {
            "clips": f"{len(result.matched)} matched, {len(result.missing)} missing, {len(result.unmatched)} unmatched",
            **_excluded(result.excluded),
            "metrics": f"{len(columns(result))} computed, {len(result.skipped)} not",
            "written to": ", ".join(str(path) for path in paths.values()),
        },
    )


@app.command("filter")
@command
def filter_clips(
    manifest: Annotated[Path, typer.Option(help="Parquet manifest, or a folder of videos")],
    out_path: Annotated[Path, typer.Option("--out", help="Parquet manifest to write, of the clips that pass")],
    threshold: Annotated[float, typer.Option(min=-1.0, max=1.0, help="least cosine of picture and sound")] = 0.3,
    cache: Annotated[Path | None, typer.Option(help="feature files; default: beside the written manifest")] = None,
    preset: PresetOption = "paper",
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    batch: BatchOption = None,
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """Keep the clips whose sound fits their picture, as VisualSound was made; run again to go on where it stopped.

    Needs ImageBind's weights: no small network knows what fits in real videos.
    """
    from common.outputs import check_output
    from common.runtime import quiet_libraries
    from evaluation.similarity import beside, filter_manifest, write_filtered
    from manifests.builders import clips_from_folder
    from manifests.manifest import make_manifest, read_manifest
    from pipeline.probing import probe_clips
    from presets import load_preset

    quiet_libraries()
    settings = load_preset(preset, assignments)
    for path in (out_path, beside(out_path)):
        check_output(path, [manifest])
    if manifest.is_dir():
        made = make_manifest(probe_clips(clips_from_folder(manifest)), settings.cache.clips_per_shard)
    else:
        made = read_manifest(manifest)
    for path in (out_path, beside(out_path)):
        check_output(path, [Path(clip.path) for clip in made.clips if clip.path])
    folder = cache or out_path.with_suffix(".features")
    with progress() as bar:
        work = _work(settings, device, workers, batch, bar)
        found = filter_manifest(made, folder, settings.weights.path, threshold, work)
    others = write_filtered(found, out_path)
    summary(
        "filter",
        {
            "clips": f"{len(found.kept.clips)} kept, {len(found.left_out)} left out",
            **_excluded({clip.clip_id: clip.reason for clip in found.left_out}),
            "written to": f"{out_path}, {others}",
        },
    )


SystemsOption = Annotated[
    list[str], typer.Option("--out", help="NAME=FOLDER of what make generate wrote, or of sound by clip id; repeat it")
]


@app.command("table1")
@command
def table_1(
    outputs: SystemsOption,
    target: Annotated[Path, typer.Option("--to", help="folder of table1.md, table1.html and table1.json")] = Path(
        "outputs"
    ),
) -> None:
    """The paper's Table 1: a row of each folder that make evaluate has measured, above the paper's own, quoted."""
    from common.outputs import check_folder
    from evaluation.systems import read_systems
    from evaluation.table1 import notes, read_row, shares, write_table1

    check_folder(target)
    rows = [read_row(system) for system in read_systems(outputs)]
    paths = write_table1(rows, target)
    for line in [*shares(rows), *(f"note: {note}" for note in notes(rows))]:
        out.print(line)
    summary("table1", {"rows": ", ".join(row.name for row in rows), "written to": ", ".join(map(str, paths.values()))})


@app.command("figure2")
@command
def figure_2(
    outputs: SystemsOption,
    target: Annotated[Path, typer.Option("--to", help="the figure: .png, .pdf or .svg")] = Path("outputs/figure2.png"),
    clips: Annotated[
        list[str], typer.Option("--clip", help="clip id; repeat it; default: the first that all folders have")
    ] = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=1, help="how many clips, where --clip names none")] = 3,
    videos: Annotated[
        Path | None, typer.Option(help="folder of the clips' videos; default: those that OUT/made.parquet names")
    ] = None,
) -> None:
    """The paper's Figure 2: frames, and the spectrograms of the truth and of each folder, clip beside clip."""
    from common.errors import InputError
    from evaluation.figure2 import check_figure, choose_clips, read_column, write_figure2
    from evaluation.systems import read_systems

    systems = read_systems(outputs)
    check_figure(target)
    if videos is not None and not videos.is_dir():
        raise InputError(f"--videos {videos} is not a folder")
    chosen = choose_clips(systems, clips, count)
    write_figure2(target, [read_column(clip_id, systems, videos) for clip_id in chosen])
    summary(
        "figure2", {"clips": ", ".join(chosen), "systems": ", ".join(s.name for s in systems), "written to": target}
    )


def _excluded(reasons: dict[str, str], listed: int = 10) -> dict[str, str]:
    rows = {f"excluded {clip_id}": reason for clip_id, reason in list(reasons.items())[:listed]}
    return rows | ({"excluded": f"and {len(reasons) - listed} more"} if len(reasons) > listed else {})


def _work(settings: Any, device: str, workers: int | None, batch: int | None, bar: Progress) -> Any:
    from common.runtime import choose_device
    from evaluation.evaluate import Work
    from evaluation.reading import Reading

    count = settings.cache.decode_workers if workers is None else workers
    return Work(choose_device(device), Reading(count, settings.cache.decode_timeout_seconds), batch, steps(bar))


def steps(bar: Progress) -> Callable[[str, int, int], None]:
    """A line of progress for each step, with the rate of what was made in it."""
    lines: dict[str, tuple[Any, int, float]] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in lines:  # what was there already is not counted in the rate
            lines[step] = (bar.add_task(step, total=total, note=""), done, time.monotonic())
        line, first, began = lines[step]
        seconds = time.monotonic() - began
        rate = f"{(done - first) / seconds:.3g} clips/s" if done > first and seconds > 0 else ""
        bar.update(line, completed=done, note=rate)

    return show


if __name__ == "__main__":
    app()
