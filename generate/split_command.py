"""What ``python -m generate`` does for a split of a cached manifest; its flags are :mod:`generate.__main__`'s."""

from __future__ import annotations

import time
from pathlib import Path

from common.console import progress, summary
from common.errors import IncompleteError, InputError
from common.words import counted
from generate.clip_files import video_of
from generate.mappers import mapper_source, named_mapper, note_other_preset
from generate.sampling import load_sampler
from generate.split import VIDEOS, check_out, choose_clips, generate_split
from manifests.manifest import read_manifest
from pipeline.cache import Store, cache_manifest
from pipeline.cluster import array_slice
from presets import Preset

_NAMED = 10  # failed clips in the summary; made.parquet has all of them


def one_split(
    store: Store,
    manifest: str | None,
    split: str,
    run: str | None,
    output: Path,
    settings: Preset,
    device: str,
    video_codec: str,
    videos: str,
    *,
    task_id: int | None,
    num_tasks: int | None,
) -> None:
    """Generate the clips of this task, and say what came of it.

    Raises :class:`InputError` for what cannot be, and :class:`IncompleteError` if clips failed.
    """
    if videos not in VIDEOS:
        raise InputError(f"unknown --mp4 '{videos}': there are {', '.join(VIDEOS)}")
    own = manifest is None or Path(manifest).is_dir()  # a folder of videos: the cache knows them
    listing = cache_manifest(store) if own else read_manifest(str(manifest))
    if listing is None:
        raise InputError(f"{store.files.root} keeps no manifest: give --manifest")
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
                {"made again": f"{counted(result.changed)}: of another video, label or features"}
                if result.changed
                else {}
            ),
            **{f"failed {clip_id}": reason for clip_id, reason in list(result.failed.items())[:_NAMED]},
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
        which = "named above" if len(result.failed) <= _NAMED else f"{_NAMED} are named above"
        raise IncompleteError(
            f"{len(result.failed)} of {len(mine)} clips could not be generated ({which}); "
            f"{output / 'made.parquet'} has every clip and its reason"
        )
