"""``python -m generate``: sound for a split of a cached manifest, for one video, or for a folder of videos."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from common.console import CACHE, PresetOption, command, out, progress, summary

NAMED = 10  # failed clips in the summary; made.parquet has all of them

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def generate(
    context: typer.Context,
    video: Annotated[
        Path | None, typer.Argument(help="one video, or a folder of videos; leave out to generate a split of --cache")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="a training run, the folder of a mapper, or its hub id; default: the mapper that ships with the "
            "preset, for a split the run runs/PRESET where that is there"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--out", "-o", help="folder; for one video a file: mp4, mov, mkv, webm, wav, flac")
    ] = Path("outputs"),
    label: Annotated[str | None, typer.Option(help="what is heard, like 'dog barking'")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="for a folder: CSV or TSV of file and label; default: the folders' names")
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="for a folder: of its outputs, .mp4 .mov .mkv .webm .wav .flac (default .mp4)")
    ] = None,
    start: Annotated[float, typer.Option(help="seconds: make the sound, and the video, from there on")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="seconds: make so much; default: to the end")] = None,
    audio: Annotated[
        str, typer.Option(help="of the video's own sound: replace, mix, or add-track (ours first, its own second)")
    ] = "replace",
    gain: Annotated[float, typer.Option(help="dB: of the video's own sound, with --audio mix or add-track")] = 0.0,
    rate: Annotated[int | None, typer.Option(help="Hz: of wav and flac; default: the model's, 16000")] = None,
    manifest: Annotated[str | None, typer.Option(help="Parquet manifest; default: the cache's own")] = None,
    cache: Annotated[str | None, CACHE] = None,
    split: Annotated[str, typer.Option(help="train, validation, test, all; auto: test if there is one")] = "auto",
    preset: PresetOption = "micro",
    cache_format: Annotated[str, typer.Option("--format", help="hdf5 or webdataset")] = "hdf5",
    seed: Annotated[int | None, typer.Option(help="of the start noise; default: the preset's")] = None,
    steps: Annotated[int | None, typer.Option(help="of the sampler; default: the preset's")] = None,
    guidance: Annotated[float | None, typer.Option(help="scale of the guidance; default: the preset's")] = None,
    scheduler: Annotated[str | None, typer.Option(help="a scheduler class of diffusers; default: the preset's")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="what is not heard; default: the preset's")] = None,
    candidates: Annotated[int, typer.Option(help="of a video: make so many, keep the best by its score")] = 1,
    video_codec: Annotated[
        str, typer.Option(help="of the picture: copy, h264 (encodes what is not), auto: copy wherever possible")
    ] = "auto",
    videos: Annotated[
        str, typer.Option("--mp4", help="clips of a split that get video, picture and truth: shown (50), all, none")
    ] = "shown",
    task_id: Annotated[int | None, typer.Option(help="this task of an array job, from 0")] = None,
    num_tasks: Annotated[int | None, typer.Option(help="tasks of the array job")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[
        list[str], typer.Option("--set", help="section.field=value; --steps and the like win over it")
    ] = [],  # noqa: B006
) -> None:
    """Generate sound; what is already there is left alone."""
    from common.errors import IncompleteError, InputError
    from common.runtime import choose_device, quiet_libraries
    from generate.mux import VIDEO_CODECS
    from generate.usage import check_usage
    from presets import load_preset

    # os.path: a name that is too long is no folder.
    mode = "split" if video is None else "folder" if os.path.isdir(video) else "video"
    check_usage(context, mode)
    quiet_libraries()
    device = choose_device(device)
    chosen = {
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "negative_prompt": negative_prompt,
    }
    flags = [f"generation.{name}={value}" for name, value in chosen.items() if value is not None]
    settings = load_preset(preset, [*assignments, *flags])
    if settings.note:
        out.print(f"note: {settings.note}")
    if video_codec not in VIDEO_CODECS:
        raise InputError(f"unknown video codec '{video_codec}': there are {', '.join(VIDEO_CODECS)}")
    if video is not None:
        from generate.film_commands import folder_of_videos, one_video
        from generate.film_work import FilmOptions

        named = mode == "video" or suffix is not None
        options = FilmOptions(
            candidates, start, duration, audio, gain, rate, video_codec, fallback=video_codec != "copy" or not named
        )
        if mode == "video":
            one_video(video, run, output, label or "", settings, device, options)
        else:
            kind = ".mp4" if suffix is None else f".{suffix.lower().removeprefix('.')}"
            folder_of_videos(
                video, run, output, kind, label, labels, settings, device, options, task_id=task_id, num_tasks=num_tasks
            )
        return
    from generate.clip_files import video_of
    from generate.mappers import mapper_source, named_mapper, note_other_preset
    from generate.sampling import load_sampler
    from generate.split import VIDEOS, check_out, choose_clips, generate_split
    from manifests.manifest import read_manifest
    from pipeline.cache import cache_manifest, open_store
    from pipeline.cluster import array_slice

    if cache is None:
        raise InputError("give a VIDEO, or --cache (and --manifest) to generate a split")
    if videos not in VIDEOS:
        raise InputError(f"unknown --mp4 '{videos}': there are {', '.join(VIDEOS)}")
    store = open_store(cache, cache_format)
    own = manifest is None or Path(manifest).is_dir()  # a folder of videos: the cache knows them
    listing = cache_manifest(store) if own else read_manifest(str(manifest))
    if listing is None:
        raise InputError(f"{cache} keeps no manifest: give --manifest")
    task, tasks = array_slice(task_id, num_tasks)
    clips = choose_clips(listing, split)
    mine = clips[task::tasks]
    check_out(output, clips)
    source = mapper_source(run, settings, split=True)
    sampler = load_sampler(settings, source, device)
    note_other_preset(sampler.mapper.spec.provenance.get("preset"), settings)
    started = time.monotonic()
    with progress() as bar:
        bar_task, made = bar.add_task("generate", total=len(mine), note=""), 0

        def show(done: int, label: str) -> None:
            nonlocal made
            made += done if label else 0
            rate = f"{made / (time.monotonic() - started):.3g} clips/s" if made else ""
            bar.update(bar_task, advance=done, note=", ".join(filter(None, (rate, label))))

        result = generate_split(
            sampler, store, mine, output, show, listed=clips, video_codec=video_codec, videos=videos
        )
    seconds = time.monotonic() - started
    example = next(iter(result.done or result.skipped), "")
    example_video = video_of(output, example) if example else ""
    first = next((f"{clip_id}: {note}" for clip_id, note in result.notes.items() if note), "")
    summary(
        "generate",
        {
            "clips": f"{len(result.done)} made, {len(result.skipped)} already there, {len(result.failed)} failed",
            **(
                {"made again": f"{_some(result.changed)}: of another video, label or features"}
                if result.changed
                else {}
            ),
            **{f"failed {clip_id}": reason for clip_id, reason in list(result.failed.items())[:NAMED]},
            "seconds": f"{seconds:.1f}, of which sampler {result.sampler_seconds:.1f}",
            **({"rate": f"{len(result.done) / seconds:.3g} clips/s"} if result.done else {}),
            **({"notes": f"{sum(map(bool, result.notes.values()))} clips, in made.parquet; {first}"} if first else {}),
            **({"wav": output / "wav" / f"{example}.wav"} if example else {}),
            **({"video": output / example_video} if example_video else {}),
            "mapper": named_mapper(source, settings),
            "report": output / "report.html",
            "written to": output,
        },
    )
    if result.failed:
        which = "named above" if len(result.failed) <= NAMED else f"{NAMED} are named above"
        raise IncompleteError(
            f"{len(result.failed)} of {len(mine)} clips could not be generated ({which}); "
            f"{output / 'made.parquet'} has every clip and its reason"
        )


def _some(ids: list[str], most: int = 3) -> str:
    return f"{len(ids)} ({', '.join(ids[:most])}{', ...' if ids[most:] else ''})"


if __name__ == "__main__":
    app()
