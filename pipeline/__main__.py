"""``python -m pipeline``: build manifests, extract features, look at caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.console import command, out, progress, summary

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

PresetOption = Annotated[str, typer.Option(help="micro, paper, or the path of a YAML file")]
SetOption = Annotated[list[str], typer.Option("--set", help="section.field=value, wins over the preset")]


@app.command()
@command
def manifest(
    out_path: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    videos: Annotated[Path | None, typer.Option(help="folder of videos")] = None,
    vggsound: Annotated[Path | None, typer.Option(help="vggsound.csv")] = None,
    visualsound: Annotated[Path | None, typer.Option(help="visualsound.csv")] = None,
    validation: Annotated[Path | None, typer.Option(help="VisualSound's list of validation clips")] = None,
    preset: PresetOption = "micro",
    clips_per_shard: Annotated[int | None, typer.Option(help="default: the preset's")] = None,
) -> None:
    """Build a manifest from a folder of videos, or from a published list and the folder of its videos."""
    from pipeline import manifest as manifests
    from pipeline.errors import InputError
    from presets import load_preset

    if vggsound and visualsound:
        raise InputError("give one of --vggsound and --visualsound, not both")
    if vggsound:
        clips = manifests.clips_from_vggsound(vggsound, videos)
    elif visualsound:
        clips = manifests.clips_from_visualsound(visualsound, videos, validation)
    elif videos:
        clips = manifests.clips_from_folder(videos)
    else:
        raise InputError("give --videos FOLDER, --vggsound FILE or --visualsound FILE")
    found = [clip for clip in clips if clip.path]
    probed = {clip.clip_id: clip for clip in manifests.probe_clips(found)}
    shard = clips_per_shard or load_preset(preset).cache.clips_per_shard
    made = manifests.make_manifest([probed.get(clip.clip_id, clip) for clip in clips], shard)
    manifests.write_manifest(made, out_path)
    _show_manifest(made, out_path)


def _show_manifest(made, path: Path) -> None:  # type: ignore[no-untyped-def]
    counts = made.counts()
    summary(
        "manifest",
        {
            "clips": len(made.clips),
            "splits": ", ".join(f"{name} {n}" for name, n in sorted(counts["split"].items())),
            "labels": len({clip.label for clip in made.clips}),
            "files": ", ".join(f"{name} {n}" for name, n in sorted(counts["status"].items())),
            "without sound": sum(clip.status == "ok" and not clip.has_audio for clip in made.clips),
            "shards": f"{made.shard_count} of {made.clips_per_shard} clips",
            "written to": path,
        },
    )


@app.command()
@command
def extract(
    manifest: Annotated[Path, typer.Option(help="Parquet manifest, or a folder of videos")],
    cache: Annotated[Path, typer.Option(help="folder of the feature cache")],
    preset: PresetOption = "micro",
    stage: Annotated[str, typer.Option(help="all, or names joined by commas")] = "all",
    shards: Annotated[str, typer.Option(help="all, 7, 0-99 or 0-3,8")] = "all",
    cache_format: Annotated[str, typer.Option("--format", help="hdf5")] = "hdf5",
    executor: Annotated[str, typer.Option(help="local: this process")] = "local",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (autocast)")] = "float32",
    compile_models: Annotated[bool, typer.Option("--compile", help="torch.compile the encoders")] = False,
    rebuild: Annotated[bool, typer.Option(help="make shards again that other weights or settings made")] = False,
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """Cache the features of every clip, shard by shard; run again to go on where it stopped."""
    from pipeline.cache import open_store
    from pipeline.errors import InputError
    from pipeline.extract import Extractor, parse_shards
    from pipeline.manifest import read_manifest
    from pipeline.runtime import choose_device, quiet_libraries
    from pipeline.stages import STAGES, check_weights
    from presets import load_preset

    quiet_libraries()
    if executor != "local":
        raise InputError(f"unknown executor '{executor}': there is local")
    settings = load_preset(preset, assignments)
    names = list(STAGES) if stage == "all" else stage.split(",")
    check_weights(settings, [name for name in names if name in STAGES])
    if manifest.is_dir() or not manifest.exists():
        made = manifest_of_folder(manifest, cache, settings.cache.clips_per_shard)
    else:
        made = read_manifest(manifest)
    chosen = parse_shards(shards, made.shard_count)
    store = open_store(cache, cache_format)
    total = sum(len(made.shard(index)) for index in chosen)
    with progress() as bar:
        task = bar.add_task(f"extract {'+'.join(names)}", total=total, note="")
        with Extractor(
            made,
            store,
            settings,
            names,
            device=choose_device(device),
            precision=precision,  # type: ignore[arg-type]
            compile_models=compile_models,
            rebuild=rebuild,
            on_clip=lambda clips: bar.advance(task, clips),
        ) as extractor:
            try:
                for index in chosen:
                    bar.update(task, note=f"shard {index}")
                    extractor.run_shard(index)
            finally:
                if extractor.report.shards_done or extractor.report.clips_seen:
                    extractor.save_report()
    if settings.note:
        out.print(f"note: {settings.note}")
    summary("extract", extractor.report.rows(store))


@app.command()
@command
def weights(
    preset: PresetOption = "paper",
    assignments: SetOption = [],  # noqa: B006
) -> None:
    """List every official file that a preset needs: found or not, size, sha256, source, licence."""
    from pipeline.encoders import weight_files
    from pipeline.errors import WeightsError
    from presets import load_preset

    settings = load_preset(preset, assignments)
    if settings.weights.source == "seeded":
        out.print(f"preset '{settings.name}' needs no files: its weights are drawn from seed {settings.weights.seed}")
        return
    missing = 0
    for row in weight_files(settings):
        missing += not row.found
        state = f"found    {row.bytes / 1e9:.2f} GB  sha256 {row.sha256}" if row.found else "MISSING"
        out.print(
            f"{state}  {row.path}\n         about {row.file.size_gb:g} GB from {row.file.source}; {row.file.licence}"
        )
    if missing:
        raise WeightsError(f"{missing} official files are missing in '{settings.weights.folder}'")


def manifest_of_folder(folder: Path, cache: Path, clips_per_shard: int):  # type: ignore[no-untyped-def]
    """The manifest of a folder of videos, kept in the cache so that its shards stay the same."""
    from pipeline import manifest as manifests

    kept = cache / "manifest.parquet"
    clips = manifests.clips_from_folder(folder)
    made = manifests.make_manifest(manifests.probe_clips(clips), clips_per_shard)
    manifests.write_manifest(made, kept)
    return made


if __name__ == "__main__":
    app()
