"""``python -m generate VIDEO`` and ``python -m generate FOLDER``, from their options to the summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from common.console import out, progress, shown, summary
from common.errors import IncompleteError, InputError, MFMError
from common.words import counted
from generate.film_plan import plan_folder
from generate.film_record import MADE_FILMS
from generate.film_work import FilmOptions, write_sound
from generate.films import make_films
from generate.mappers import mapper_source, named_mapper, note_other_preset
from generate.mux import check_audio, mux
from generate.outputs import plan_output
from generate.video_to_audio import VideoToAudio, check_candidates, check_part
from pipeline.cluster import array_slice
from pipeline.decoding import killable
from pipeline.media import check_file
from pipeline.media.resampling import check_rate
from presets import Preset

_NAMED = 10  # failed videos in the summary; the record has all of them


def one_video(
    video: Path, run: str | None, asked: Path, label: str, settings: Preset, device: str, options: FilmOptions
) -> None:
    """Make one video's sound, and the video with it. Raises as :meth:`VideoToAudio.write` and :func:`mux`."""
    _check(options, settings)
    check_file(video)
    started = time.monotonic()
    limit = settings.cache.decode_timeout_seconds
    part = {"start": options.start, "duration": options.duration}
    output = plan_output(
        video, asked, options.codec, limit, audio=options.audio, gain=options.gain, rate=options.rate,
        start=options.start, duration=options.duration,
    )  # fmt: skip
    for note in output.notes:
        out.print(f"note: {shown(note)}")
    source = mapper_source(run, settings, split=False)
    model = VideoToAudio.from_pretrained(source, settings, device)
    note_other_preset(model.sampler.mapper.spec.provenance.get("preset"), settings)
    sample_rate = model.sampler.audio_model.sample_rate
    with ExitStack() as stack:
        wav = output.sound
        if wav.suffix.lower() != ".wav" or options.rate is not None:  # the sound alone in another form
            wav = Path(stack.enter_context(TemporaryDirectory())) / "sound.wav"
        with progress() as bar:
            task = bar.add_task("generate", total=None, note="")
            made = model.write(
                video, wav, label, candidates=options.candidates, start=options.start, duration=options.duration,
                on_window=lambda done, total, note: bar.update(task, completed=done, total=total, note=note),
            )  # fmt: skip
        if output.video is not None:
            try:
                # Copying takes a moment; encoding again may be a good deal slower than playing.
                killable(
                    mux, video, wav, sample_rate, output.video, output.picture, seconds=limit + 30 * made.seconds,
                    audio=options.audio, gain=options.gain, **part,
                )  # fmt: skip
            except MFMError:
                print(f"the sound is kept: {shown(wav)}", file=sys.stderr)
                raise
        elif wav != output.sound:
            write_sound(output.sound, wav, sample_rate, options.rate)
    best = f"{options.candidates}: seed {made.seed}, token cosine {made.score:.3f}"
    summary(
        "generate",
        {
            "label": label or "none",
            "mapper": named_mapper(source, settings),
            "sound": f"{made.seconds:.2f} s",
            **({"best of": best} if options.candidates > 1 else {}),
            "seconds": f"{time.monotonic() - started:.1f}",
            **({"sound alone": output.sound} if output.video is not None else {}),
            "written to": output.video or output.sound,
        },
    )


def folder_of_videos(
    folder: Path,
    run: str | None,
    output: Path,
    suffix: str,
    label: str | None,
    labels: Path | None,
    settings: Preset,
    device: str,
    options: FilmOptions,
    task_id: int | None = None,
    num_tasks: int | None = None,
) -> None:
    """Make the sound of every video below a folder. Raises :class:`IncompleteError` if some could not be made."""
    _check(options, settings)
    if options.codec == "h264" and suffix == ".webm":
        raise InputError("a webm file holds no H.264: take --suffix .mp4, .mov or .mkv")
    plan = plan_folder(folder, output, suffix, label, labels)
    for note in plan.notes:
        out.print(f"note: {shown(note)}")
    task, tasks = array_slice(task_id, num_tasks)
    mine = plan.tasks[task::tasks]
    source = mapper_source(run, settings, split=False)
    started = time.monotonic()
    model = VideoToAudio.from_pretrained(source, settings, device)
    note_other_preset(model.sampler.mapper.spec.provenance.get("preset"), settings)
    begun, made_seconds = time.monotonic(), 0.0
    with progress() as bar:
        shown_task = bar.add_task("generate", total=len(mine), note="")

        def on_film(films: int, seconds: float) -> None:
            nonlocal made_seconds
            made_seconds += seconds
            speed = made_seconds / max(time.monotonic() - begun, 1e-9)
            bar.update(shown_task, advance=films, note=f"{speed:.2f} s of sound a second" if made_seconds else "")

        made = make_films(model, mine, output, options, on_film)
    taken = time.monotonic() - begun
    first = next((f"{name}: {note}" for name, note in made.notes.items()), "")
    summary(
        "generate",
        {
            "videos": f"{len(made.done)} made, {len(made.skipped)} already there, {len(made.failed)} failed",
            **({"made again": f"{counted(made.changed)}: of another video, label or settings"} if made.changed else {}),
            **({"failed": _lines(made.failed)} if made.failed else {}),
            **({"left out": _lines(plan.left_out)} if plan.left_out else {}),
            **({"notes": f"{len(made.notes)} videos; {first}"} if first else {}),
            "mapper": named_mapper(source, settings),
            **({"sound": f"{made.seconds:.1f} s, {made.seconds / taken:.2f} s a second"} if made.done else {}),
            "seconds": f"{time.monotonic() - started:.1f}",
            "written to": output,
        },
    )
    if made.failed:
        named = "named above" if len(made.failed) <= _NAMED else f"{_NAMED} are named above"
        raise IncompleteError(
            f"{len(made.failed)} of {len(mine)} videos could not be made ({named}); {output / MADE_FILMS} has every "
            f"video and its reason"
        )


def _check(options: FilmOptions, settings: Preset) -> None:
    """All that can be said before a file is looked at. Raises :class:`InputError`."""
    check_candidates(options.candidates)
    check_part(options.start, options.duration)
    check_audio(options.audio, options.gain)
    check_rate(options.rate)
    settings.audio.check(settings.generation)


def _lines(reasons: Mapping[str, str]) -> str:
    more = len(reasons) - _NAMED
    lines = [f"{name}: {reason}" for name, reason in list(reasons.items())[:_NAMED]]
    return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])
