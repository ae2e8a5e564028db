"""Sound for every video of a folder: the models are loaded once, and a batch of the sampler takes windows of several.

Workers look at the next videos and write the last ones while the sampler runs. A video that fails is named.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ClipError, DeviceMemoryError, IncompleteError, InputError, MFMError
from common.writing import remove_leftovers, temporary_beside
from generate.film_plan import sort_out_done
from generate.film_record import FilmRecord, FilmTask, MadeFilm
from generate.film_work import FilmOptions, Seen, Windows, look, write_output
from generate.sampling import NOT_FINITE
from generate.video_to_audio import Film, VideoToAudio
from generate.windows import joined
from pipeline.decoding import Call, DecodePool, prefetch
from pipeline.media import second_backend

OnFilm = Callable[[int, float], None]  # films done, seconds of sound made


@dataclass
class MadeFilms:
    """Films by their names below the folder: made now, there already, made again, failed (and why), and notes."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def settings_digest(model: VideoToAudio, options: FilmOptions) -> str:
    """Of all that decides a film's output besides the video, its label and the suffix."""
    said = [model.sampler.settings(), asdict(model.sampler.preset.media), asdict(options)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def make_films(
    model: VideoToAudio,
    tasks: Sequence[FilmTask],
    out: Path,
    options: FilmOptions,
    on_film: OnFilm = lambda films, seconds: None,
) -> MadeFilms:
    """Make the films that are not there yet; one that cannot be made is named, not fatal.

    What is there counts if the record of ``out`` says that it was made from this video, label and settings. Raises
    :class:`WriteError` where ``out`` cannot be written or holds files of others, :class:`DeviceMemoryError`.
    """
    record, digest, made = FilmRecord(out), settings_digest(model, options), MadeFilms()
    todo, done, changed = sort_out_done(tasks, record, digest)
    made.skipped, made.changed = [film.video for film in done], [task.name for task in changed]
    remove_leftovers(*{out, *(task.out.parent for task in tasks)})
    on_film(len(done), 0.0)
    if todo:
        with _Writing(model, options, record, made, digest, on_film) as writing:
            _Making(model, options, writing).run(todo)
    return made


@dataclass
class _Take:
    """One candidate of a film while it is made: windows that are done, in their order."""

    seed: int
    noises: Iterator[Tensor]
    waves: list[tuple[int, np.ndarray]] = field(default_factory=list)
    cosines: list[Tensor] = field(default_factory=list)

    def score(self) -> float:
        return float(torch.cat(self.cosines).mean()) if self.cosines else 0.0


@dataclass
class _Work:
    """A film under way."""

    task: FilmTask
    seen: Seen
    film: Film
    takes: list[_Take]
    left: int
    error: Exception | None = None


_Window = tuple[_Work, _Take, int]


class _Making:
    """Looks at the videos ahead of the sampler and fills its batches with their windows, in order."""

    def __init__(self, model: VideoToAudio, options: FilmOptions, writing: _Writing):
        self.model, self.options, self.writing = model, options, writing
        self.preset = model.sampler.preset
        self.size = self.preset.generation.batch
        self.waiting: list[_Window] = []

    def run(self, tasks: Sequence[FilmTask]) -> None:
        cache, media = self.preset.cache, self.preset.media
        row = self.model.sampler.audio_model.latent_seconds
        windows = Windows(media, self.preset.generation.overlap_seconds, row, self.size)

        def call(task: FilmTask) -> Call:
            arguments = (str(task.video), task.out.suffix, self.options, windows)
            # Several windows, and the whole file for its digest: more time than one window has.
            limit = 2 * cache.decode_timeout_seconds
            second = second_backend(media)
            other = Call(look, (*arguments, second), path=str(task.video), seconds=limit) if second else None
            return Call(look, arguments, path=str(task.video), seconds=limit, otherwise=other)

        with DecodePool(media, cache.decode_workers, cache.decode_timeout_seconds) as pool:
            looked_at = prefetch(pool.map(map(call, tasks)), self.size)
            try:
                for task, seen in zip(tasks, looked_at, strict=True):
                    try:
                        if isinstance(seen, Exception):
                            raise seen
                        self._add(task, seen)
                    except (ClipError, InputError, IncompleteError) as error:
                        self.writing.failed(task, error)
                while self.waiting:
                    self._make_some()
            except BaseException:
                pool.abandon()  # so that whoever closes it does not wait for a file
                raise
            finally:
                looked_at.close()

    def _add(self, task: FilmTask, seen: Seen) -> None:
        film = Film(task.video, self.options.start, seen.rows, seen.seconds)
        if not seen.decoded:
            self._add_long(task, seen)
            return
        for decoded in seen.decoded:
            self.model.see(film, decoded)
        film.check_picture()
        first = self.preset.generation.seed
        takes = [_Take(first + n, self.model.noises(film, first + n)) for n in range(self.options.candidates)]
        work = _Work(task, seen, film, takes, len(takes) * len(film.rows))
        self.waiting += [(work, take, number) for take in takes for number in range(len(film.rows))]
        while len(self.waiting) >= self.size:
            self._make_some()

    def _add_long(self, task: FilmTask, seen: Seen) -> None:
        """A film of more windows than a batch is made by itself, so that memory does not grow with its length."""
        while self.waiting:
            self._make_some()
        wav = temporary_beside(task.out.with_suffix(".wav"))
        try:
            made = self.model.write(
                task.video, wav, task.label,
                candidates=self.options.candidates, start=self.options.start, duration=self.options.duration,
            )  # fmt: skip
        except BaseException:
            wav.unlink(missing_ok=True)
            raise
        self.writing.give(task, seen, wav, made.seed, made.score)

    def _make_some(self) -> None:
        """Make the next batch; films that are complete with it are written."""
        batch, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        for (work, take, number), wave in zip(batch, self._sound_of(batch), strict=True):
            work.left -= 1
            if isinstance(wave, Exception):
                work.error = work.error or wave
            elif not np.isfinite(wave).all():
                work.error = work.error or IncompleteError(NOT_FINITE)
            else:
                take.waves.append((self.model.place(work.film, number), wave))
                if len(work.takes) > 1:
                    take.cosines.append(self.model.cosines(wave[None], work.film.tokens[number]))
            if work.left == 0:
                self._finish(work)

    def _sound_of(self, batch: Sequence[_Window]) -> Sequence[np.ndarray | Exception]:
        """A waveform for each window, or what went wrong with it: where a batch fails, each is tried alone."""
        noise = torch.stack([next(take.noises) for _, take, _ in batch])
        seeds = [work.film.step_seed(number, take.seed) for work, take, number in batch]
        tokens = torch.cat([work.film.tokens[number] for work, _, number in batch])
        labels = [work.task.label for work, _, _ in batch]

        def made(part: slice) -> Sequence[np.ndarray]:
            return list(self.model.sampler.synthesise(tokens[part], labels[part], noise[part], seeds[part]))

        try:
            return made(slice(None))
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"the device has too little memory for {len(batch)} windows at once: take a smaller --set "
                f"generation.batch, or generation.precision=bfloat16. {str(error).splitlines()[0]}"
            ) from error
        except MFMError:
            raise
        except Exception as error:
            if len(batch) == 1:
                return [error]
        alone: list[np.ndarray | Exception] = []
        for row in range(len(batch)):
            try:
                alone += made(slice(row, row + 1))
            except Exception as error:
                alone.append(error)
        return alone

    def _finish(self, work: _Work) -> None:
        if work.error is not None:
            self.writing.failed(work.task, work.error)
            return
        best = max(work.takes, key=_Take.score)
        samples = round(work.seen.seconds * self.model.sampler.audio_model.sample_rate)
        sound = np.concatenate(list(joined(best.waves, samples)))
        self.writing.give(work.task, work.seen, sound, best.seed, best.score())


class _Writing:
    """Writes outputs in a worker beside the sampler, a few at most waiting, and records them when they are there."""

    def __init__(
        self, model: VideoToAudio, options: FilmOptions, record: FilmRecord, made: MadeFilms, digest: str,
        on_film: OnFilm,
    ):  # fmt: skip
        self.options, self.record, self.made, self.digest, self.on_film = options, record, made, digest, on_film
        self.rate, self.limit = model.sampler.audio_model.sample_rate, model.sampler.preset.cache.decode_timeout_seconds
        self.most = 2 * model.sampler.preset.generation.batch
        self.pool = DecodePool(model.sampler.preset.media, 1, self.limit)
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[tuple[Future[Any], MadeFilm, FilmTask, Path | None]] = deque()

    def __enter__(self) -> _Writing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._settle(0)
        finally:
            self.pool.abandon()
            self.thread.shutdown(cancel_futures=True)
            self.pool.__exit__()
            for _, _, _, wav in self.waiting:
                if wav is not None:
                    wav.unlink(missing_ok=True)

    def give(self, task: FilmTask, seen: Seen, sound: np.ndarray | Path, seed: int, score: float) -> None:
        """``sound``: the waveform, or a wav that is removed afterwards. Waits where too many are waiting."""
        path = task.out if seen.picture is None else task.out.with_name(task.out.stem + seen.picture.suffix)
        film = MadeFilm(
            task.asked, task.name, path.relative_to(self.record.out).as_posix(), task.label, self.digest, seen.state,
            seed=seed, score=score, seconds=seen.seconds,
        )  # fmt: skip
        if seen.note:
            self.made.notes[task.name] = seen.note
        call = Call(
            write_output, (str(task.video), sound, self.rate, path, seen.picture, self.options), path=str(task.video),
            seconds=self.limit + 30 * seen.seconds,  # encoding a picture may be a good deal slower than playing it
        )  # fmt: skip
        wav = sound if isinstance(sound, Path) else None
        self.waiting.append((self.thread.submit(self.pool.call, call), film, task, wav))
        self._settle(self.most)

    def failed(self, task: FilmTask, error: Exception) -> None:
        reason = str(error) if isinstance(error, MFMError) else f"{type(error).__name__}: {error}"
        self.made.failed[task.name] = reason
        self.record.remove(task)  # what is there is of another video, label or settings
        self.record.add(MadeFilm(task.asked, task.name, "", task.label, self.digest, reason=reason))
        self.on_film(1, 0.0)

    def _settle(self, most: int) -> None:
        """Take what is written; wait until at most so many are left."""
        while self.waiting and (len(self.waiting) > most or self.waiting[0][0].done()):
            future, film, task, wav = self.waiting[0]
            try:
                film = MadeFilm(**{**asdict(film), "made": future.result()})
            except ClipError as error:
                self.failed(task, error)
            else:
                self.record.remove(task, but=film.output)
                self.record.add(film)
                self.made.done.append(task.name)
                self.made.seconds += film.seconds
                self.on_film(1, film.seconds)
            finally:
                if wav is not None:
                    wav.unlink(missing_ok=True)
            self.waiting.popleft()
