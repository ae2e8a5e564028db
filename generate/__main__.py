"""``python -m generate``: sound for a split of a cached manifest, for one video, or for a folder of videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from common.console import CACHE, PresetOption, command, out

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
    from common.errors import InputError
    from common.runtime import choose_device, quiet_libraries
    from generate.labels import given_label
    from generate.mux import VIDEO_CODECS
    from generate.usage import check_usage
    from pipeline.cache import open_store
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
    label = None if label is None else given_label(label)
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
    from generate.split_command import one_split

    if cache is None:
        raise InputError("give a VIDEO, or --cache (and --manifest) to generate a split")
    store = open_store(cache, cache_format)
    one_split(
        store, manifest, split, run, output, settings, device, video_codec, videos, task_id=task_id, num_tasks=num_tasks
    )


if __name__ == "__main__":
    app()
