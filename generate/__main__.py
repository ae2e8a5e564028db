"""``python -m generate``: sound for a split of a cached manifest, or for one video."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from common.console import CACHE, PresetOption, command, out, progress, shown, summary
from presets import Preset

NAMED = 10  # failed clips in the summary; made.parquet has all of them

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
@command
def generate(
    video: Annotated[Path | None, typer.Argument(help="one video; leave out to generate a split")] = None,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/micro"),
    output: Annotated[
        Path, typer.Option("--out", "-o", help="folder; for one video a file: mp4, mov, mkv, webm, wav, flac")
    ] = Path("outputs"),
    label: Annotated[str, typer.Option(help="what is heard, for one video, like 'dog barking'")] = "",
    manifest: Annotated[str | None, typer.Option(help="Parquet manifest; default: the cache's own")] = None,
    cache: Annotated[str | None, CACHE] = None,
    split: Annotated[str, typer.Option(help="train, validation, test, all; auto: test if there is one")] = "auto",
    preset: PresetOption = "micro",
    cache_format: Annotated[str, typer.Option("--format", help="hdf5 or webdataset")] = "hdf5",
    seed: Annotated[int | None, typer.Option(help="of the start noise; default: the preset's")] = None,
    candidates: Annotated[int, typer.Option(help="for one video: make so many, keep the best by its score")] = 1,
    video_codec: Annotated[
        str, typer.Option(help="of the picture: copy, h264 (encodes what is not), auto: copy wherever possible")
    ] = "auto",
    task_id: Annotated[int | None, typer.Option(help="this task of an array job, from 0")] = None,
    num_tasks: Annotated[int | None, typer.Option(help="tasks of the array job")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    assignments: Annotated[list[str], typer.Option("--set", help="section.field=value")] = [],  # noqa: B006
) -> None:
    """Generate sound; clips that are already there are left alone."""
    from common.errors import InputError
    from common.runtime import choose_device, quiet_libraries
    from generate.mux import VIDEO_CODECS
    from presets import load_preset

    quiet_libraries()
    device = choose_device(device)
    settings = load_preset(preset, [*assignments, *([f"generation.seed={seed}"] if seed is not None else [])])
    if settings.note:
        out.print(f"note: {settings.note}")
    if video_codec not in VIDEO_CODECS:
        raise InputError(f"unknown video codec '{video_codec}': there are {', '.join(VIDEO_CODECS)}")
    if video is not None:
        one_video(video, run, output, label, settings, device, candidates, video_codec)
        return
    from common.errors import IncompleteError
    from generate.records import video_of
    from generate.sampling import load_sampler
    from generate.split import check_out, choose_clips, generate_split
    from manifests.manifest import read_manifest
    from pipeline.cache import cache_manifest, open_store
    from pipeline.cluster import array_slice

    if cache is None:
        raise InputError("give a VIDEO, or --cache (and --manifest) to generate a split")
    store = open_store(cache, cache_format)
    own = manifest is None or Path(manifest).is_dir()  # a folder of videos: the cache knows them
    listing = cache_manifest(store) if own else read_manifest(str(manifest))
    if listing is None:
        raise InputError(f"{cache} keeps no manifest: give --manifest")
    task, tasks = array_slice(task_id, num_tasks)
    clips = choose_clips(listing, split)
    mine = clips[task::tasks]
    check_out(output, clips)
    sampler = load_sampler(settings, run, device)
    note_other_preset(sampler.mapper.spec.provenance.get("preset"), settings)
    started = time.monotonic()
    with progress() as bar:
        bar_task = bar.add_task("generate", total=len(mine), note="")
        result = generate_split(
            sampler,
            store,
            mine,
            output,
            lambda done, note: bar.update(bar_task, advance=done, note=note),
            listed=clips,
            video_codec=video_codec,
        )
    example = next(iter(result.done or result.skipped), "")
    example_video = video_of(output, example) if example else ""
    first = next((f"{clip_id}: {note}" for clip_id, note in result.notes.items()), "")
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
            "seconds": f"{time.monotonic() - started:.1f}",
            **({"notes": f"{len(result.notes)} clips, in made.parquet; {first}"} if first else {}),
            **({"wav": output / "wav" / f"{example}.wav"} if example else {}),
            **({"video": output / example_video} if example_video else {}),
            "report": output / "report.html",
            "written to": output,
        },
    )
    if result.failed:
        named = "named above" if len(result.failed) <= NAMED else f"{NAMED} are named above"
        raise IncompleteError(
            f"{len(result.failed)} of {len(mine)} clips could not be generated ({named}); "
            f"{output / 'made.parquet'} has every clip and its reason"
        )


def _some(ids: list[str], most: int = 3) -> str:
    return f"{len(ids)} ({', '.join(ids[:most])}{', ...' if ids[most:] else ''})"


def note_other_preset(trained: object, settings: Preset) -> None:
    """Only the visual encoders can be compared with the mapper's: not which AudioMAE this AudioLDM-2 understands."""
    if trained not in (None, settings.name):
        out.print(
            f"note: the mapper was trained with preset '{shown(trained)}', and this is '{settings.name}': its tokens "
            f"mean something to AudioLDM-2 only if both have the same AudioMAE"
        )


def one_video(
    video: Path, run: Path, asked: Path, label: str, settings: Preset, device: str, candidates: int, video_codec: str
) -> None:
    from common.errors import MFMError
    from generate.mux import mux
    from generate.outputs import plan_output
    from generate.video_to_audio import VideoToAudio
    from pipeline.decoding import killable
    from pipeline.media import check_file
    from pipeline.media.writing import read_wav_parts, write_flac

    check_file(video)
    started = time.monotonic()
    limit = settings.cache.decode_timeout_seconds
    output = plan_output(video, asked, video_codec, limit)
    if output.picture is not None and output.picture.note:
        out.print(f"note: {shown(output.picture.note)}")
    model = VideoToAudio.from_pretrained(run, settings, device)
    note_other_preset(model.sampler.mapper.spec.provenance.get("preset"), settings)
    rate = model.sampler.audioldm2.sample_rate
    with ExitStack() as stack:
        wav = output.sound
        if wav.suffix.lower() != ".wav":  # the sound alone in another format
            wav = Path(stack.enter_context(TemporaryDirectory())) / "sound.wav"
        with progress() as bar:
            task = bar.add_task("generate", total=None, note="")
            made = model.write(
                video,
                wav,
                label,
                candidates=candidates,
                on_window=lambda done, total, note: bar.update(task, completed=done, total=total, note=note),
            )
        if output.video is not None:
            try:
                # Copying takes a moment; encoding again may be a good deal slower than playing.
                longest = limit + 30 * made.seconds
                killable(mux, video, wav, rate, output.video, output.picture, seconds=longest)
            except MFMError:
                print(f"the sound is kept: {shown(wav)}", file=sys.stderr)
                raise
        elif wav != output.sound:
            write_flac(output.sound, read_wav_parts(wav), rate)
    summary(
        "generate",
        {
            "label": label or "none",
            "sound": f"{made.seconds:.2f} s",
            **({"best of": f"{candidates}: seed {made.seed}, token cosine {made.score:.3f}"} if candidates > 1 else {}),
            "seconds": f"{time.monotonic() - started:.1f}",
            **({"sound alone": output.sound} if output.video is not None else {}),
            "written to": output.video or output.sound,
        },
    )


if __name__ == "__main__":
    app()
