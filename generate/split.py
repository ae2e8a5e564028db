"""Generate for a whole split from cached features; rerunning goes on where it stopped.

OUT/wav/<clip id>.wav (10 s), OUT/wav_8s (the crop that evaluation reads), OUT/mp4 (mkv where the codec asks for it),
OUT/png, OUT/truth, OUT/report.html, OUT/made.parquet (every clip, made or not, and why) and OUT/settings.json.
The wav is written last: a clip that has it is complete, unless its video, label or features are others by now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from common.errors import ClipError, DeviceMemoryError, InputError, MFMError
from common.outputs import check_folder
from common.writing import remove_leftovers, write_error
from generate.mux import Picture, mux, plan_picture
from generate.origins import Origin
from generate.outputs import check_not_inputs
from generate.pictures import draw_clip
from generate.records import VIDEO_SUFFIXES, Outcome, prepare_folder, write_records
from generate.sampling import NOT_FINITE, Sampler
from manifests.manifest import Clip, Manifest
from manifests.names import id_fault
from pipeline.cache import Store, join
from pipeline.decoding import decode_killable, killable
from pipeline.media import DecodedClip, is_silent
from pipeline.media.writing import write_wav
from pipeline.sources import SourceFile

EVALUATION_SECONDS = 8  # paper section 4.2
_FILES = (("wav", (".wav",)), ("wav_8s", (".wav",)), ("mp4", VIDEO_SUFFIXES), ("png", (".png",)), ("truth", (".wav",)))


def choose_clips(manifest: Manifest, split: str) -> list[Clip]:
    """Clips of a split; ``auto`` is test, else whatever is not train, else all.

    Raises :class:`InputError` for a split without clips.
    """
    if split != "auto":
        chosen = [clip for clip in manifest.clips if split in ("all", clip.split)]
        if not chosen:
            counts = ", ".join(f"{name} {n}" for name, n in sorted(manifest.counts()["split"].items()))
            raise InputError(f"the manifest has no clip of split '{split}': it has {counts}")
        return chosen
    for wanted in (("test",), ("validation", "test"), ("train", "validation", "test")):
        chosen = [clip for clip in manifest.clips if clip.split in wanted]
        if chosen:
            return chosen
    raise InputError("the manifest has no clips")


def check_out(out: Path, clips: Sequence[Clip]) -> None:
    """Raise :class:`WriteError` if nothing can be written in ``out``, or a clip's output is itself an input.

    To be called before any work.
    """
    check_folder(out)
    names = {
        out / folder / f"{clip.clip_id}{suffix}"
        for folder, suffixes in _FILES
        for suffix in suffixes
        for clip in clips
        if id_fault(clip.clip_id) is None
    }
    check_not_inputs(out, names, [Path(clip.path) for clip in clips])


def generate_split(
    sampler: Sampler,
    store: Store,
    clips: Sequence[Clip],
    out: str | Path,
    on_clip: Callable[[int, str], None] = lambda clips, note: None,
    listed: Sequence[Clip] | None = None,
    video_codec: str = "auto",
) -> Outcome:
    """Generate every clip that is not there yet; a clip that cannot be made is named, not fatal.

    ``listed``: all clips of the job where ``clips`` are one task's, for the page and the list of what was made.
    ``video_codec``: see :func:`generate.mux.plan_picture`. Raises :class:`WriteError` where ``out`` cannot be
    written, :class:`CacheError` where features, mapper and ``out`` do not belong together.
    """
    out = Path(out)
    check_out(out, listed or clips)
    joined = join(store, sampler.encoders)
    sampler.check_encoders(joined.provenance)
    prepare_folder(out, sampler.settings())
    remove_leftovers(out, *(out / folder for folder, _ in _FILES))
    take_cached_labels(sampler, store)
    outcome = Outcome()
    rows = {clip_id: row for row, clip_id in enumerate(joined.clip_ids)}

    def origin(clip: Clip) -> Origin:
        return Origin.of(clip, {name: joined.arrays[name][rows[clip.clip_id]] for name in sampler.encoders})

    todo: list[Clip] = []
    for clip in clips:
        if fault := id_fault(clip.clip_id):
            outcome.failed[clip.clip_id] = f"its id cannot be the name of a file: {fault}"
        elif clip.clip_id not in rows:
            if _wav(out, clip).is_file():
                outcome.skipped.append(clip.clip_id)
            else:
                outcome.failed[clip.clip_id] = joined.left_out.get(clip.clip_id, "no cached visual features")
        elif not all(SourceFile(clip.path).same_as(state) for state in joined.files.get(clip.clip_id, ())):
            outcome.failed[clip.clip_id] = (
                f"{clip.path} is another file than when its features were cached: run make extract"
            )
        elif not _wav(out, clip).is_file():
            todo.append(clip)
        elif origin(clip).made(_wav(out, clip)):
            outcome.skipped.append(clip.clip_id)
        else:
            remove_clip(out, clip)
            outcome.changed.append(clip.clip_id)
            todo.append(clip)
    on_clip(len(clips) - len(todo), "")
    size = sampler.preset.generation.batch
    for first in range(0, len(todo), size):
        batch = todo[first : first + size]
        features = {name: joined.arrays[name][[rows[clip.clip_id] for clip in batch]] for name in sampler.encoders}
        for clip, made in zip(batch, _generate(sampler, batch, features), strict=True):
            try:
                if isinstance(made, Exception):
                    raise made
                if note := write_clip(sampler, clip, made, out, video_codec, origin(clip).to_text()):
                    outcome.notes[clip.clip_id] = note
                outcome.done.append(clip.clip_id)
            except ClipError as error:
                outcome.failed[clip.clip_id] = str(error)
            except MFMError:
                raise
            except Exception as error:  # one clip must not end the job: whatever it broke is named
                outcome.failed[clip.clip_id] = f"{type(error).__name__}: {error}"
        on_clip(len(batch), batch[-1].label)
    write_records(sampler.preset.name, sampler.preset.note, sampler.settings(), listed or clips, outcome, out)
    return outcome


def _generate(
    sampler: Sampler, clips: Sequence[Clip], features: dict[str, np.ndarray]
) -> Sequence[np.ndarray | Exception]:
    """A waveform for each clip, or what went wrong with it: where a batch fails, each is tried alone."""
    visual = {name: torch.from_numpy(array).float() for name, array in features.items()}
    try:
        return list(sampler.generate(visual, [clip.label for clip in clips], [clip.clip_id for clip in clips]))
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"the device has too little memory for {len(clips)} clips at once: take a smaller --set generation.batch, "
            f"or generation.precision=bfloat16. {str(error).splitlines()[0]}"
        ) from error
    except MFMError:
        raise
    except Exception as error:
        if len(clips) == 1:
            return [error]
        parts = ({name: array[row : row + 1] for name, array in features.items()} for row in range(len(clips)))
        return [_generate(sampler, [clip], part)[0] for clip, part in zip(clips, parts, strict=True)]


def take_cached_labels(sampler: Sampler, store: Store) -> None:
    """Label embeddings of the stage flan_t5, if the same weights made them; what lacks is computed."""
    if not store.exists("flan_t5", 0):
        return
    content = store.read("flan_t5", 0)
    if content.fingerprint["weights"] == sampler.audioldm2.flan_t5.fingerprint:
        sampler.audioldm2.remember_labels(content.clip_ids, content.features, content.arrays["lengths"])


def _wav(out: Path, clip: Clip) -> Path:
    return out / "wav" / f"{clip.clip_id}.wav"


def remove_clip(out: Path, clip: Clip) -> None:
    """Remove all files of one clip, the wav first: without it, the others are not taken for complete."""
    for folder, suffixes in _FILES:
        for suffix in suffixes:
            _remove(out / folder / f"{clip.clip_id}{suffix}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_clip(
    sampler: Sampler, clip: Clip, waveform: np.ndarray, out: Path, video_codec: str = "auto", origin: str = ""
) -> str:
    """All files of one clip, the wav last; returns what is to be said of its video, if anything.

    ``origin``: what it was made from (:class:`Origin`), kept in the wav.

    A picture that gets into no container costs the clip its video, not its sound. Raises :class:`ClipError` for a
    video that cannot be decoded and for sound that is none, :class:`WriteError` if ``out`` cannot be written.
    """
    media, rate = sampler.preset.media, sampler.audioldm2.sample_rate
    if not np.isfinite(waveform).all():
        raise ClipError("non_finite", NOT_FINITE)
    if is_silent(waveform, media):
        raise ClipError("silent", f"the generated waveform stays under {media.silence_threshold_db:g} dB")
    limit = sampler.preset.cache.decode_timeout_seconds
    decoded: DecodedClip = decode_killable(clip.path, media, seconds=limit)
    truth = decoded.waveform
    note = _write_video(clip, waveform, rate, out / "mp4", video_codec, limit)
    title = f"{clip.label or 'no label'} ({clip.clip_id})"
    draw_clip(out / "png" / f"{clip.clip_id}.png", title, decoded.frames, waveform, truth, media.seconds)
    if truth is not None:
        write_wav(out / "truth" / f"{clip.clip_id}.wav", truth, media.sample_rate)
    else:  # a killed run may have left that of another file
        _remove(out / "truth" / f"{clip.clip_id}.wav")
    write_wav(out / "wav_8s" / f"{clip.clip_id}.wav", waveform[: EVALUATION_SECONDS * rate], rate)
    write_wav(_wav(out, clip), waveform, rate, origin)
    return note


def _write_video(clip: Clip, waveform: np.ndarray, rate: int, folder: Path, codec: str, limit: float) -> str:
    try:
        picture: Picture = killable(plan_picture, clip.path, VIDEO_SUFFIXES[0], codec, seconds=limit)
        path = folder / f"{clip.clip_id}{picture.suffix}"
        killable(mux, clip.path, waveform, rate, path, picture, seconds=limit)
    except ClipError as error:
        return f"without its video: {error.message}"
    return picture.note
