"""Generate for a whole split from cached features; rerunning goes on where it stopped.

OUT/wav/<clip id>.wav (10 s) and OUT/wav_8s (the crop that evaluation reads) of every clip; of those that are shown
OUT/mp4 (mkv where the codec asks for it), OUT/png and OUT/truth; OUT/report.html, OUT/made.parquet (every clip, made
or not, and why) and OUT/settings.json. The wav is written last: a clip that has it is complete, unless its video,
label or features are others by now. Reading and writing are done in workers (:mod:`pipeline.background`), so that
the sampler does not wait for files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from common.console import shown
from common.errors import ClipError, DeviceMemoryError, InputError, MFMError
from common.outputs import check_folder
from common.writing import remove_leftovers
from generate.clip_files import FOLDERS, ClipFiles, adding, file_of, lacking, names_of, remove_clip, writing
from generate.found import Found, found_ahead
from generate.outputs import check_not_inputs
from generate.records import SHOWN, About, Outcome, prepare_folder, write_made, write_records
from generate.sampling import Batch, Sampler
from manifests.manifest import Clip, Manifest
from manifests.names import id_fault
from pipeline.background import Background
from pipeline.cache import Store, index
from pipeline.sources import SourceFile
from trainer.scale import fitted

VIDEOS = ("shown", "all", "none")  # which clips get video, picture and truth
_AHEAD = 4  # batches whose files may be unwritten before the sampler waits


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
    names = names_of(out, [clip.clip_id for clip in clips if id_fault(clip.clip_id) is None])
    check_not_inputs(out, names, [Path(clip.path) for clip in clips])


def generate_split(
    sampler: Sampler,
    store: Store,
    clips: Sequence[Clip],
    out: str | Path,
    on_clip: Callable[[int, str], None] = lambda clips, note: None,
    listed: Sequence[Clip] | None = None,
    video_codec: str = "auto",
    videos: str = "shown",
) -> Outcome:
    """Generate every clip that is not there yet; a clip that cannot be made is named, not fatal.

    ``on_clip`` is told of clips that are done with, and the label of the last. ``listed``: all clips of the job where
    ``clips`` are one task's, for the page and the list of what was made. ``video_codec``: see
    :func:`generate.mux.plan_picture`. ``videos``: which clips get video, picture and truth, too: ``shown`` (the first
    50 of the job, whatever the task), ``all`` or ``none``; clips that are there and lack them get them from their wav.
    Raises :class:`WriteError` where ``out`` cannot be written, :class:`CacheError` where features, mapper and ``out``
    do not belong together.
    """
    out, listed = Path(out), listed or clips
    check_out(out, listed)
    there = index(store, sampler.encoders)
    sampler.check_encoders(there.provenance)
    prepare_folder(out, sampler.settings())
    folders = [out / folder for folder in FOLDERS]
    remove_leftovers(out, *folders)
    take_cached_labels(sampler, store)
    with_video = {clip.clip_id for clip in {"shown": listed[:SHOWN], "all": listed, "none": ()}[videos]}
    outcome, about = Outcome(), About(sampler.preset, sampler.settings(), fitted(sampler.mapper.spec))
    write_made(about, listed, outcome, out)  # a job that is killed has its list, too
    chosen: list[Clip] = []
    for clip in clips:
        if fault := id_fault(clip.clip_id):
            outcome.failed[clip.clip_id] = f"its id cannot be the name of a file: {fault}"
        elif clip.clip_id not in there.shards:
            if file_of(out, "wav", clip.clip_id).is_file():
                outcome.skipped.append(clip.clip_id)
            else:
                outcome.failed[clip.clip_id] = there.left_out.get(clip.clip_id, "no cached visual features")
        elif not all(SourceFile(clip.path).same_as(state) for state in there.files.get(clip.clip_id, ())):
            outcome.failed[clip.clip_id] = (
                f"{clip.path} is another file than when its features were cached: run make extract"
            )
        else:
            chosen.append(clip)
    on_clip(len(clips) - len(chosen), "")
    config, size = sampler.preset.cache, sampler.preset.generation.batch
    with ExitStack() as stack:
        stack.callback(remove_leftovers, *folders)  # of workers that were ended
        background = Background(config.decode_workers, config.decode_timeout_seconds, _AHEAD * size)
        stack.enter_context(background)
        found = found_ahead(background, store, sampler.encoders, there.shards, chosen, out)
        files = _Files(sampler, out, with_video, video_codec, background, outcome, on_clip)
        for batch, made in _sampled(sampler, _batches(found, files, size), outcome):
            for one, waveform in zip(batch, made, strict=True):
                files.write(one, waveform)
            files.settle()
        files.settle(all_of_them=True)
    outcome.in_order(clips)
    write_records(about, listed, outcome, out)
    return outcome


class _Files:
    """Files of clips on their way: what the workers say of each is put down in the outcome."""

    def __init__(
        self, sampler: Sampler, out: Path, with_video: set[str], video_codec: str, background: Background,
        outcome: Outcome, on_clip: Callable[[int, str], None],
    ):  # fmt: skip
        self.sampler, self.out, self.with_video, self.video_codec = sampler, out, with_video, video_codec
        self.background, self.outcome, self.on_clip = background, outcome, on_clip
        self.limit = sampler.preset.cache.decode_timeout_seconds
        self.pending: deque[tuple[Clip, bool, Future[str]]] = deque()

    def _of(self, clip: Clip) -> ClipFiles:
        title = f"{clip.label or 'no label'} ({clip.clip_id})"
        media, rate = self.sampler.preset.media, self.sampler.audio_model.sample_rate
        wanted = clip.clip_id in self.with_video
        return ClipFiles(clip, self.out, media, rate, wanted, shown(title), self.video_codec)

    def there(self, clip: Clip) -> None:
        """A clip whose sound is there: what lacks beside it is added."""
        self.outcome.skipped.append(clip.clip_id)
        self.on_clip(1, "")
        if lacking(files := self._of(clip)):
            self.pending.append((clip, False, self.background.submit(adding(files, self.limit))))
            self.settle()

    def write(self, found: Found, made: np.ndarray | Exception) -> None:
        """All files of a clip, once there is room for it in the queue."""
        if isinstance(made, Exception):
            self.outcome.failed[found.clip.clip_id] = _reason(made)
            self.on_clip(1, found.clip.label)
            return
        call = writing(self._of(found.clip), made, found.conditions, self.limit)
        self.pending.append((found.clip, True, self.background.submit(call)))

    def settle(self, all_of_them: bool = False) -> None:
        """Take what is finished, or wait for all; raises what is no clip's fault, such as :class:`WriteError`."""
        if all_of_them:
            self.background.hurry()
        while self.pending and (all_of_them or self.pending[0][2].done()):
            clip, new, future = self.pending.popleft()
            try:
                self.outcome.notes[clip.clip_id] = future.result()
                if new:
                    self.outcome.done.append(clip.clip_id)
            except ClipError as error:
                if new:
                    self.outcome.failed[clip.clip_id] = str(error)
                else:
                    self.outcome.notes[clip.clip_id] = f"without video, picture and truth: {error}"
            if new:
                self.on_clip(1, clip.label)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"


def _batches(found: Iterator[Found], files: _Files, size: int) -> Iterator[list[Found]]:
    """Those that are to be made; the others are put down as they pass."""
    batch: list[Found] = []
    for one in found:
        if one.state == "made":
            files.there(one.clip)
            continue
        if one.state == "changed":
            remove_clip(files.out, one.clip.clip_id)
            files.outcome.changed.append(one.clip.clip_id)
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _sampled(
    sampler: Sampler, batches: Iterator[list[Found]], outcome: Outcome
) -> Iterator[tuple[list[Found], Sequence[np.ndarray | Exception]]]:
    """Each batch with a waveform for each clip, or what went wrong with it; the sampler's own time is counted."""
    begun: deque[list[Found]] = deque()
    waited = 0.0

    def inputs() -> Iterator[Batch]:
        nonlocal waited
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            waited += time.monotonic() - began
            if batch is None:
                return
            begun.append(batch)
            yield _inputs(batch)

    stream = sampler.stream(inputs())
    while True:
        began, before = time.monotonic(), waited
        made = next(stream, None)
        if made is not None:
            batch = begun.popleft()
            waveforms = _one_by_one(sampler, batch, made) if isinstance(made, Exception) else list(made)
        outcome.sampler_seconds += time.monotonic() - began - (waited - before)
        if made is None:
            return
        yield batch, waveforms


def _inputs(batch: Sequence[Found]) -> Batch:
    stages = batch[0].features
    visual = {s: torch.from_numpy(np.stack([one.features[s] for one in batch])).float() for s in stages}
    return Batch(visual, [one.clip.label for one in batch], [one.clip.clip_id for one in batch])


def _one_by_one(sampler: Sampler, batch: Sequence[Found], error: Exception) -> list[np.ndarray | Exception]:
    """Of a batch that failed each clip alone; raises what is no clip's fault."""
    if isinstance(error, torch.OutOfMemoryError):
        raise DeviceMemoryError(
            f"the device has too little memory for {len(batch)} clips at once: take a smaller --set generation.batch, "
            f"or generation.precision=bfloat16. {str(error).splitlines()[0]}"
        ) from error
    if isinstance(error, MFMError):
        raise error
    if len(batch) == 1:
        return [error]
    made: list[np.ndarray | Exception] = []
    for one in batch:
        for alone in sampler.stream([_inputs([one])]):
            made += _one_by_one(sampler, [one], alone) if isinstance(alone, Exception) else list(alone)
    return made


def take_cached_labels(sampler: Sampler, store: Store) -> None:
    """Label embeddings that are cached, if the same weights made them; what lacks is computed."""
    stage, model = sampler.preset.audio.labels, sampler.audio_model
    if stage is None or not store.exists(stage, 0):
        return
    content = store.read(stage, 0)
    if content.fingerprint["weights"] == model.label_encoder.fingerprint:
        model.remember_labels(content.clip_ids, content.features, content.arrays["lengths"])
