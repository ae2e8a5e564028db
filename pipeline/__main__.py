"""``python -m pipeline``: build manifests, extract features, look at caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common.console import CacheOption, PresetOption, command, out, progress, summary, transfers

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

FormatOption = Annotated[str, typer.Option("--format", help="hdf5 or webdataset")]
SetOption = Annotated[list[str], typer.Option("--set", help="section.field=value, wins over the preset")]


@app.command()
@command
def manifest(
    out_path: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    videos: Annotated[Path | None, typer.Option(help="folder of videos")] = None,
    dataset: Annotated[str | None, typer.Option(help="vggsound, visualsound, or what you added; with --list")] = None,
    listing: Annotated[Path | None, typer.Option("--list", help="the data set's own list")] = None,
    vggsound: Annotated[Path | None, typer.Option(help="vggsound.csv")] = None,
    visualsound: Annotated[str | None, typer.Option(help="visualsound.csv, or 'published': the list we have")] = None,
    validation: Annotated[Path | None, typer.Option(help="VisualSound's list of validation clips")] = None,
    preset: PresetOption = "micro",
    clips_per_shard: Annotated[int | None, typer.Option(help="default: the preset's")] = None,
) -> None:
    """Build a manifest from a folder of videos, or from a published list and the folder of its videos."""
    from common.errors import InputError
    from pipeline.manifest_command import build

    lists = {"--dataset": dataset, "--vggsound": vggsound, "--visualsound": visualsound}
    if len(given := [name for name, value in lists.items() if value]) > 1:
        raise InputError(f"give one of {' and '.join(given)}, not both")
    if vggsound:
        dataset, listing = "vggsound", vggsound
    build(out_path, videos, dataset, listing, visualsound, validation, preset, clips_per_shard)


@app.command()
@command
def extract(
    manifest: Annotated[str, typer.Option(help="Parquet manifest, or a folder of videos")],
    cache: CacheOption,
    preset: PresetOption = "micro",
    stage: Annotated[str, typer.Option(help="all (of the preset), or names joined by commas")] = "all",
    shards: Annotated[str, typer.Option(help="all, 7, 0-99 or 0-3,8")] = "all",
    cache_format: FormatOption = "hdf5",
    executor: Annotated[str, typer.Option(help="local: this process; ray: the cluster of RAY_ADDRESS")] = "local",
    task_id: Annotated[int | None, typer.Option(help="of an array job; default SLURM_ARRAY_TASK_ID")] = None,
    num_tasks: Annotated[int | None, typer.Option(help="of an array job; default SLURM_ARRAY_TASK_COUNT")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    compile_models: Annotated[bool, typer.Option("--compile", help="torch.compile the encoders")] = False,
    rebuild: Annotated[
        bool, typer.Option(help="make shards again that other weights, settings or another manifest made")
    ] = False,
    retry_failed: Annotated[bool, typer.Option(help="try the quarantined clips again, and only those")] = False,
    compare_content: Annotated[
        bool, typer.Option(help="look for replaced videos by content; default: by size and time")
    ] = False,
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """Cache the features of every clip, shard by shard; run again to go on where it stopped."""
    from common.errors import InputError
    from common.runtime import choose_device, quiet_libraries
    from pipeline.cache import open_store
    from pipeline.cluster import ExtractJob, array_slice, run_on_ray
    from pipeline.encoders import check_weights
    from pipeline.encoders.base import check_precision
    from pipeline.extract import parse_shards
    from pipeline.manifest_command import read_or_build
    from presets import load_preset

    quiet_libraries()
    device = choose_device(device)
    check_precision(precision)
    if executor not in ("local", "ray"):
        raise InputError(f"unknown executor '{executor}': there are local and ray")
    settings = load_preset(preset, assignments)
    names = settings.stages if stage == "all" else stage.split(",")
    check_weights(settings, names)
    task, tasks = array_slice(task_id, num_tasks)
    made = read_or_build(manifest, settings.cache.clips_per_shard)
    chosen = parse_shards(shards, made.shard_count)[task::tasks]
    options = {
        "device": device,
        "precision": precision,
        "compile_models": compile_models,
        "rebuild": rebuild,
        "retry_failed": retry_failed,
        "compare_content": compare_content,
    }
    job = ExtractJob(made, cache, cache_format, settings, tuple(names), options)
    sizes = {index: len(made.shard(index)) for index in chosen}
    where = f" (task {task} of {tasks})" if tasks > 1 else ""
    with progress() as bar:
        bar_task = bar.add_task(f"extract {'+'.join(names)}{where}", total=sum(sizes.values()), note="")
        if executor == "ray":
            report = run_on_ray(job, chosen, lambda index: bar.advance(bar_task, sizes[index]))
        else:
            report = job.run(chosen, lambda clips: bar.advance(bar_task, clips))
    if settings.note:
        out.print(f"note: {settings.note}")
    summary(f"extract{where}", report.rows(open_store(cache, cache_format)))


@app.command()
@command
def verify(
    cache: Annotated[str, typer.Argument(help="folder of the feature cache, or an fsspec URL")],
    cache_format: FormatOption = "hdf5",
) -> None:
    """Read every shard and check it against its checksum; print what is wrong."""
    from common.errors import CacheError
    from pipeline.cache import open_store
    from pipeline.cache.store import other_format
    from pipeline.report import ignored_shards
    from pipeline.report import verify as check

    store = open_store(cache, cache_format)
    counts = {stage: len(store.shards(stage)) for stage in store.stages()}
    if not counts:
        raise CacheError(other_format(store) or f"{cache} holds no {cache_format} shards")
    problems = check(store)
    for problem in problems:
        out.print(f"WRONG  {problem}")
    rows = {stage: f"{count} shards" for stage, count in counts.items()}
    summary("verify", {**rows, "wrong": len(problems), **ignored_shards(store, store.stages()), "cache": cache})
    if problems:
        raise CacheError(f"{len(problems)} shards are wrong; make extract makes them again")


@app.command()
@command
def status(
    cache: Annotated[str, typer.Argument(help="folder of the feature cache, or an fsspec URL")],
    manifest: Annotated[str | None, typer.Option(help="Parquet manifest; default: the cache's own")] = None,
    preset: PresetOption = "micro",
    cache_format: FormatOption = "hdf5",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """Stage by shard, those of the preset and whatever else is there: done, running, failed, missing; time left."""
    import json

    from common.errors import CacheError, InputError
    from manifests.manifest import read_manifest
    from pipeline.cache import cache_manifest, open_store
    from pipeline.cache.store import other_format
    from pipeline.report import ignored_shards, status_rows
    from pipeline.report import status as look
    from presets import load_preset

    store = open_store(cache, cache_format)
    if said := other_format(store):
        raise CacheError(said)
    made = read_manifest(manifest) if manifest is not None else cache_manifest(store)
    if made is None and not store.stages():
        raise InputError(f"{cache} holds no shards; give --manifest to see what is missing")
    stages = list(dict.fromkeys([*load_preset(preset, assignments).stages, *store.stages()]))
    values = look(store, made, stages)
    if as_json:
        print(json.dumps(values, indent=1))
        return
    summary("status", {**status_rows(values), **ignored_shards(store, stages), "cache": cache})


@app.command()
@command
def inspect(shard: Annotated[Path, typer.Argument(help="one .h5 or .tar shard")]) -> None:
    """Show what a shard holds and what made it."""
    import json

    from common.errors import CacheError, InputError
    from pipeline.cache.store import FORMATS

    if not shard.is_file():
        raise InputError(f"{shard} does not exist")
    kind = next((kind() for kind in FORMATS.values() if shard.name.endswith(kind.suffix)), None)
    if kind is None:
        raise InputError(f"{shard} is no shard: its name ends in none of the known suffixes")
    try:
        content, header = kind.decode(shard), kind.decode_header(shard)
    except Exception as error:
        raise CacheError(f"{shard} is damaged or is no shard of ours ({type(error).__name__}: {error})") from error
    out.print_json(json.dumps(dict(header.fingerprint)))
    arrays = {name: f"{array.dtype} {array.shape}" for name, array in content.arrays.items()}
    left_out = {f"left out {record.clip_id}": f"{record.kind}: {record.message}" for record in header.left_out}
    whole = "matches" if content.checksum == header.checksum else "DOES NOT MATCH: the shard is damaged"
    summary("shard", {"clips": len(header.clip_ids), **arrays, **left_out, "checksum": f"{header.checksum} {whole}"})
    if content.checksum != header.checksum:
        raise CacheError(f"{shard} is damaged")


@app.command()
@command
def convert(
    source: Annotated[str, typer.Argument(help="cache to read")],
    target: Annotated[str, typer.Argument(help="cache to write")],
    source_format: Annotated[str, typer.Option("--from")] = "hdf5",
    target_format: Annotated[str, typer.Option("--to")] = "webdataset",
) -> None:
    """Copy a cache into the other format, or to another place, bit for bit."""
    from common.errors import CacheError
    from pipeline.cache import convert as copy
    from pipeline.cache import open_store

    store = open_store(source, source_format)
    if not store.stages():
        raise CacheError(f"{source} holds no {source_format} shards (--from)")
    written = copy(store, open_store(target, target_format))
    summary("convert", {"shards": f"{written} written", "written to": target})


@app.command("join")
@command
def join_stages(
    cache: Annotated[str, typer.Argument(help="folder of the feature cache, or an fsspec URL")],
    stages: Annotated[str, typer.Option(help="stages that a clip must have")] = "cavp,timechat,audiomae",
    cache_format: FormatOption = "hdf5",
) -> None:
    """Join the stages by clip id, as the trainer does, and say what is left out and why."""
    from collections import Counter

    from pipeline.cache import join, open_store
    from pipeline.report import ignored_shards

    store = open_store(cache, cache_format)
    joined = join(store, stages.split(","))
    splits = Counter(joined.splits)
    summary(
        "join",
        {
            "clips": len(joined),
            "splits": ", ".join(f"{name} {count}" for name, count in sorted(splits.items())),
            "left out": joined.left_out_reasons(),
            **ignored_shards(store, stages.split(",")),
            **{stage: f"{array.dtype} {array.shape}" for stage, array in joined.arrays.items()},
        },
    )


@app.command()
@command
def weights(
    preset: PresetOption = "paper",
    fetch_missing: Annotated[bool, typer.Option("--download", help="fetch what is missing")] = False,
    accept: Annotated[bool, typer.Option("--accept-licences", help="of the files that are fetched")] = False,
    only: Annotated[str, typer.Option(help="names of encoders and networks joined by commas; default: all")] = "",
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """List every official file that a preset needs: found or not, size, sha256, source, licence; or fetch them."""
    from common.errors import WeightsError
    from common.hashing import sha256_file
    from pipeline.weights import fetch, licences_to_fetch, weight_files
    from presets import load_preset

    settings = load_preset(preset, assignments)
    if settings.weights.source == "seeded":
        out.print(f"preset '{settings.name}' needs no files: its weights are drawn from seed {settings.weights.seed}")
        return
    if settings.weights.source == "shipped":
        for path in sorted(settings.weights.path.rglob("*.safetensors")):
            out.print(f"{path.stat().st_size / 1e6:6.2f} MB  sha256 {sha256_file(path)}  {path}")
        out.print(f"preset '{settings.name}' needs no other files: these come with the package, Apache-2.0")
        return
    chosen = only.split(",") if only else []
    rows = weight_files(settings, chosen)
    if fetch_missing and any(not row.found for row in rows):
        licences = licences_to_fetch(rows)
        for licence, names in licences.items():
            out.print(f"licence {licence}: {', '.join(names)}")
        if not accept:
            raise WeightsError(
                f"about {sum(row.file.size_gb for row in rows if not row.found):.1f} GB would be fetched under these "
                f"{len(licences)} licences of their authors: read them, then add --accept-licences "
                f'(make weights PRESET={preset} ARGS="--accept-licences")'
            )
        with transfers() as bar:
            tasks: dict[str, Any] = {}

            def show(name: str, done: int, total: int | None) -> None:
                tasks[name] = tasks.get(name) or bar.add_task(name, total=None)
                bar.update(tasks[name], completed=done, total=total)

            fetch(rows, settings, show)
        rows = weight_files(settings, chosen)
    missing = 0
    for row in rows:
        missing += not row.found
        state = f"found    {row.bytes / 1e9:.2f} GB  sha256 {row.sha256}" if row.found else "MISSING"
        out.print(
            f"{state}  {row.path}\n         about {row.file.size_gb:g} GB from {row.file.source}; {row.file.licence}"
        )
    if missing:
        raise WeightsError(
            f"{missing} official files are missing in '{settings.weights.folder}'; "
            f"make weights PRESET={preset} fetches what a script can fetch"
        )


if __name__ == "__main__":
    app()
