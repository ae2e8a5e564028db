"""``python -m evaluation``: the paper's Table 1 for a folder of generated sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import command, out, progress, summary

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def evaluate(
    output: Annotated[Path, typer.Option("--out", help="what make generate wrote, or a folder of wav by clip id")],
    reference: Annotated[
        Path | None, typer.Option(help="true sound by clip id, or a folder of feature files; default: OUT/truth")
    ] = None,
    preset: Annotated[str, typer.Option(help="micro, paper, or the path of a YAML file")] = "micro",
    networks: Annotated[str, typer.Option(help="auto, or names joined by commas")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="feature files of OUT; default: OUT/features")] = None,
    reference_cache: Annotated[
        Path | None, typer.Option(help="feature files of the reference; default: REFERENCE if it has some, else in OUT")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="videos by clip id, for networks that look at them; default: OUT/mp4")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Compute every metric that weights or feature files allow; print it and write JSON, Markdown and a page."""
    from evaluation.evaluate import Side
    from evaluation.evaluate import evaluate as run
    from evaluation.networks import NETWORKS
    from evaluation.report import columns, table, title, write_report
    from pipeline.errors import InputError
    from pipeline.runtime import choose_device, quiet_libraries
    from presets import load_preset

    quiet_libraries()
    settings = load_preset(preset, assignments)
    if not output.is_dir():
        raise InputError(f"{output} is not a folder: make generate writes one, or give a folder of wav files")
    generated = next((output / name for name in ("wav_8s", "wav") if (output / name).is_dir()), output)
    reference = reference or output / "truth"
    if not reference.is_dir():
        raise InputError(f"the reference {reference} is not a folder; give one with --reference (REFERENCE=...)")
    if reference_cache is None:
        reference_cache = (
            reference if list(reference.glob("*.pth")) else output / f"features-{reference.resolve().name}"
        )
    if videos is None and (output / "mp4").is_dir():
        videos = output / "mp4"
    names = list(settings.evaluation.networks) if networks == "auto" else networks.split(",")
    if unknown := [name for name in names if name not in NETWORKS]:
        raise InputError(f"unknown network '{unknown[0]}': there are {', '.join(NETWORKS)}")
    with progress() as bar:
        task = bar.add_task("evaluate", total=None, note="")
        result = run(
            settings,
            names,
            Side(generated, cache or output / "features"),
            Side(reference, reference_cache, videos),
            choose_device(device),
            lambda clips, note: bar.update(task, advance=clips, note=note),
        )
    about = {"preset": settings.name, "generated": str(output), "reference": str(reference)}
    paths = write_report(result, output, about)
    header, body = table(result)
    for name, reason in result.skipped.items():
        out.print(f"not computed: {name}: {reason}")
    out.print(title(result))
    for row in body:
        out.print("  ".join(f"{name}: {value}" for name, value in zip(header, row, strict=True)))
    summary(
        "evaluate",
        {
            "clips": f"{len(result.matched)} matched, {len(result.missing)} missing, {len(result.unmatched)} unmatched",
            **{f"excluded {clip_id}": reason for clip_id, reason in list(result.excluded.items())[:10]},
            "metrics": f"{len(columns(result))} computed, {len(result.skipped)} not",
            "written to": ", ".join(str(path) for path in paths.values()),
        },
    )


if __name__ == "__main__":
    app()
