"""One video of any length in, one waveform out, without a cache."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from common.errors import ClipError, IncompleteError, InputError, WriteError
from common.outputs import check_output
from common.writing import temporary_beside, write_error
from generate.labels import given_label
from generate.sampling import NOT_FINITE, Sampler, load_sampler
from generate.schedulers import step_seeds
from generate.windows import joined, part_seconds, window_name, window_rows
from pipeline.decoding import decode_killable, killable
from pipeline.encoders import load_encoder
from pipeline.media import DecodedClip, probe
from pipeline.media.resampling import resampled
from pipeline.media.writing import write_wav
from presets import Preset, load_preset
from presets.config import preset_from_dict
from trainer.registry import default_mapper

OnWindow = Callable[[float, int, str], None]  # windows done (also parts of one), of how many, and a word on them


def _silently(done: float, total: int, note: str) -> None:
    pass


class Choices(TypedDict, total=False):
    """What a call can choose. What is left out, or None, is as the preset says (section ``generation``).

    ``candidates``: so many are made, with the seeds ``seed``, ``seed + 1``, ..., and the best is kept. ``start``,
    ``duration``: the part of the film to make, in seconds; default: all of it. ``on_window(done, total, note)`` is
    called after each step of the sampler.
    """

    seed: int | None
    candidates: int
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    start: float
    duration: float | None
    on_window: OnWindow


@dataclass(frozen=True)
class Candidate:
    """A waveform (samples,), the seed it was made with, its score (higher is better), and the mapper's ``tokens``.

    ``tokens``: float32 (windows, T_c, D), what the mapper predicted for each window of 10 s; the same for all
    candidates.
    """

    waveform: np.ndarray
    seed: int
    score: float
    tokens: np.ndarray


@dataclass(frozen=True)
class Written:
    """What was written: the seed it was made with, its score (higher is better), and the length in seconds."""

    seed: int
    score: float
    seconds: float


@dataclass
class Film:
    """A part of a video, from ``start`` (seconds) on: its windows, by the latent row where each starts, and the tokens
    (1, T_c, D) of those looked at so far."""

    video: Path
    start: float
    rows: list[int]
    seconds: float
    tokens: list[Tensor] = field(default_factory=list)
    has_picture: bool = False

    def step_seed(self, number: int, seed: int) -> int:
        """Of the noise that the steps of one window draw."""
        return step_seeds([f"{self.video.stem}/{self.rows[number]}"], seed)[0]

    def check_picture(self) -> None:
        """Raise :class:`ClipError` if no window had a picture; to be called when all were looked at."""
        if not self.has_picture:
            raise ClipError("too_short", f"{self.video} shows no picture in any of its {len(self.rows)} windows")


@dataclass
class _Take:
    """One candidate while it is made: its sound, part by part, and the cosines of the windows that are done."""

    sampler: Sampler
    film: Film
    seed: int
    which: str
    before: int
    total: int
    on_window: OnWindow
    parts: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    cosines: list[Tensor] = field(default_factory=list)

    def score(self) -> float:
        return float(torch.cat(self.cosines).mean()) if self.cosines else 0.0

    def steps_of(self, batch: range, steps: int) -> Callable[[], None]:
        """To be called after each step of the sampler: tells how far the windows of a batch are."""
        taken, note = count(1), f"{self.which}window {batch[-1] + 1} of {len(self.film.rows)}"

        def step() -> None:
            part = min(1.0, next(taken) / steps)
            self.on_window(self.before + batch[0] + part * len(batch), self.total, note)

        return step


class VideoToAudio:
    """``VideoToAudio.from_pretrained()(video, label=...) -> waveform, sample_rate``; see :class:`Choices`."""

    def __init__(self, sampler: Sampler, encoders: dict[str, Any], device: str = "cpu"):
        self.sampler, self.encoders, self.device = sampler, encoders, device
        media = sampler.preset.media
        sampler.check_encoders(
            {
                name: {"weights": encoder.fingerprint, "config": asdict(encoder.config), "media": asdict(media)}
                for name, encoder in encoders.items()
            }
        )
        self._judge: Any = None

    @classmethod
    def from_pretrained(
        cls, mapper: str | Path | None = None, preset: Preset | str = "micro", device: str = "cpu"
    ) -> VideoToAudio:
        """Load the encoders, a trained mapper and the audio model of a preset; raises :class:`WeightsError`.

        ``mapper``: a run's folder, a mapper's folder, or a hub id; None: the one that ships with the preset.
        """
        settings = load_preset(preset) if isinstance(preset, str) else preset
        sampler = load_sampler(settings, default_mapper(settings) if mapper is None else mapper, device)
        names = sampler.encoders
        return cls(sampler, {name: load_encoder(name, preset=settings, device=device) for name in names}, device)

    def __call__(self, video: str | Path, label: str = "", **choices: Unpack[Choices]) -> tuple[np.ndarray, int]:
        """Sound as long as the video: float32 (samples,) in [-1, 1], and its rate. Raises as :meth:`best`."""
        return self.best(video, label, **choices).waveform, self.sampler.audio_model.sample_rate

    def best(self, video: str | Path, label: str = "", **choices: Unpack[Choices]) -> Candidate:
        """The best candidate; see :class:`Choices`.

        The score is the mean cosine between the tokens that the mapper predicts and the features of the sound that came
        out (of the preset's target); of one candidate it is not computed. Raises :class:`PresetError` or
        :class:`InputError` for a value that cannot be, :class:`ClipError` if the video cannot be used,
        :class:`IncompleteError` if the sound has NaN or Inf.
        """
        made = []
        for take in self._takes(video, label, **choices):
            waveform = np.concatenate(list(take.parts))
            tokens = torch.cat(take.film.tokens).float().cpu().numpy()
            made.append(Candidate(waveform, take.seed, take.score(), tokens))
        return max(made, key=lambda candidate: candidate.score)

    def write(self, video: str | Path, path: str | Path, label: str = "", **choices: Unpack[Choices]) -> Written:
        """The best candidate as a wav; memory does not grow with the film. Raises as :meth:`best`, and
        :class:`WriteError` where ``path`` is no .wav, or the video itself."""
        path, best, rate = Path(path), None, self.sampler.audio_model.sample_rate
        check_output(path, [Path(video)])
        if path.suffix.lower() != ".wav":
            raise WriteError(f"cannot write {path}: what is written here is a .wav; mux makes a film of it")
        kept = temporary_beside(path)
        try:
            for take in self._takes(video, label, **choices):
                another = temporary_beside(path)
                try:
                    write_wav(another, take.parts, rate)
                    if best is None or take.score() > best.score:
                        best = Written(take.seed, take.score(), take.film.seconds)
                        os.replace(another, kept)
                except WriteError as error:  # what the user named, not our temporary name
                    raise WriteError(str(error).replace(str(another), str(path))) from error
                finally:
                    another.unlink(missing_ok=True)
            assert best is not None
            try:
                os.replace(kept, path)
            except OSError as error:
                raise write_error(path, error) from error
            return best
        finally:
            kept.unlink(missing_ok=True)

    def _takes(
        self,
        video: str | Path,
        label: str,
        *,
        candidates: int = 1,
        start: float = 0.0,
        duration: float | None = None,
        on_window: OnWindow = _silently,
        **settings: Any,
    ) -> Iterator[_Take]:
        label = given_label(label)
        check_candidates(candidates)
        sampler = self._sampler(settings)
        first = sampler.preset.generation.seed
        film = self._film(Path(video), start, duration)
        for n in range(candidates):
            which = f"candidate {n + 1} of {candidates}, " if candidates > 1 else ""
            take = _Take(sampler, film, first + n, which, n * len(film.rows), candidates * len(film.rows), on_window)
            samples = round(film.seconds * self.sampler.audio_model.sample_rate)
            take.parts = joined(self._made_windows(take, label, judged=candidates > 1), samples)
            yield take

    def _sampler(self, settings: dict[str, Any]) -> Sampler:
        """The sampler with other settings of ``generation``; raises :class:`PresetError`, :class:`InputError`."""
        if unknown := settings.keys() - Choices.__annotations__.keys():
            raise TypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(Choices.__annotations__)}")
        chosen = {name: value for name, value in settings.items() if value is not None}
        if not chosen:
            return self.sampler
        values = self.sampler.preset.to_dict()
        preset = preset_from_dict({**values, "generation": {**values["generation"], **chosen}}, "VideoToAudio")
        preset.audio.check(preset.generation)
        return replace(self.sampler, preset=preset)

    def _film(self, video: Path, start: float, duration: float | None) -> Film:
        check_part(start, duration)
        media, generation = self.sampler.preset.media, self.sampler.preset.generation
        limit = self.sampler.preset.cache.decode_timeout_seconds
        whole = killable(probe, video, seconds=limit).duration_s or media.seconds
        seconds = part_seconds(whole, start, duration, video)
        try:
            rows = window_rows(
                seconds, media.seconds, generation.overlap_seconds, self.sampler.audio_model.latent_seconds
            )
        except ValueError as error:
            raise InputError(f"generation.overlap_seconds: {error}") from None
        return Film(video, float(start), rows, seconds)

    def _tokens(self, film: Film, number: int) -> Tensor:
        """The mapper's tokens of a window, (1, T_c, D); each window is looked at once."""
        if number == len(film.tokens):
            media, limit = self.sampler.preset.media, self.sampler.preset.cache.decode_timeout_seconds
            start = self._begins(film, number)
            try:
                decoded = decode_killable(film.video, media, start=start, audio=False, blank=True, seconds=limit)
            except ClipError as error:
                if len(film.rows) == 1:
                    raise
                raise ClipError(error.kind, f"{self._name(film, number)}: {error.message}") from error
            self.see(film, decoded)
        return film.tokens[number]

    def see(self, film: Film, decoded: DecodedClip) -> None:
        """Take in the next window of a film: its tokens, and whether it has a picture."""
        film.has_picture |= bool(decoded.shown.any())
        visual = {name: encoder.encode_clips([decoded]) for name, encoder in self.encoders.items()}
        film.tokens.append(self.sampler.predict(visual, [film.video.stem]))

    def _begins(self, film: Film, number: int) -> float:
        """Where in the video a window begins, in seconds."""
        return film.start + film.rows[number] * self.sampler.audio_model.latent_seconds

    def _name(self, film: Film, number: int) -> str:
        seconds, row = self.sampler.preset.media.seconds, self.sampler.audio_model.latent_seconds
        return window_name(number, film.rows, film.start, film.seconds, seconds, row)

    def noises(self, film: Film, seed: int) -> Iterator[Tensor]:
        """Start noise (C, H, W) of each window in turn; it follows from the video's name and the seed."""
        model, name = self.sampler.audio_model, film.video.stem
        return iter(model.noise([name], seed)) if len(film.rows) == 1 else model.window_noise(name, seed, film.rows)

    def place(self, film: Film, number: int) -> int:
        """The sample of the film's sound where a window begins."""
        model = self.sampler.audio_model
        return round(film.rows[number] * model.latent_seconds * model.sample_rate)

    def _made_windows(self, take: _Take, label: str, judged: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Where each window starts, in samples, and its sound; as many are made at once as a batch has."""
        generation, film = take.sampler.preset.generation, take.film
        noises = self.noises(film, take.seed)
        for first in range(0, len(film.rows), generation.batch):
            batch = range(first, min(first + generation.batch, len(film.rows)))
            tokens = torch.cat([self._tokens(film, number) for number in batch])
            noise = torch.stack(list(islice(noises, len(batch))))
            on_step = take.steps_of(batch, generation.steps)
            seeds = [film.step_seed(number, take.seed) for number in batch]
            waves = take.sampler.synthesise(tokens, [label] * len(batch), noise, seeds, on_step)
            for number, wave in zip(batch, waves, strict=True):
                if not np.isfinite(wave).all():
                    where = f" of {self._name(film, number)}" if len(film.rows) > 1 else ""
                    raise IncompleteError(f"the sound{where} could not be generated: {NOT_FINITE}")
                yield self.place(film, number), wave
            if judged:
                take.cosines.append(self.cosines(waves, tokens))
        film.check_picture()

    def cosines(self, windows: np.ndarray, tokens: Tensor) -> Tensor:
        """Between predicted tokens and those of the sound, (windows, T_c)."""
        if self._judge is None:
            preset = self.sampler.preset
            self._judge = load_encoder(preset.target, preset=preset, device=self.device)
        made = self.sampler.audio_model.sample_rate
        wanted = self._judge.config.sample_rate or self.sampler.preset.media.sample_rate
        if made != wanted:
            windows = np.stack([np.concatenate([*resampled([wave[None]], made, wanted)], 1)[0] for wave in windows])
        heard = self._judge.encode(torch.from_numpy(windows))
        return torch.nn.functional.cosine_similarity(heard, tokens.float(), dim=-1).cpu()


def check_candidates(candidates: int) -> None:
    """Raise :class:`InputError` unless so many can be made."""
    if type(candidates) is not int or candidates < 1:
        raise InputError(f"{candidates!r} candidates: at least one is needed")


def check_part(start: float, duration: float | None) -> None:
    """Raise :class:`InputError` unless these can be a part of a film, in seconds."""
    if not (_is_number(start) and start >= 0):
        raise InputError(f"start is {start!r}, and must be a number of seconds, 0 or more")
    if duration is not None and not (_is_number(duration) and duration > 0):
        raise InputError(f"duration is {duration!r}, and must be a number of seconds, more than 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
