"""One request of the page: checked against the limits, made, and written as files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from app.pictures import draw_sound
from app.place import Place
from common.errors import InputError
from generate.mux import mux
from generate.outputs import Output, plan_output
from generate.video_to_audio import Candidate, VideoToAudio
from generate.windows import window_rows
from pipeline.decoding import killable
from pipeline.media import check_file, probe
from pipeline.media.writing import write_wav

MOST_STEPS, MOST_CANDIDATES, MOST_LETTERS = 200, 4, 200
MEGABYTE = 2**20  # as gradio counts

OnProgress = Callable[[float, str], None]  # the share that is done, and a word on it


class StoppedError(Exception):
    """Whoever asked wants it no more."""


@dataclass(frozen=True)
class Limits:
    """Of a film: its size in 2^20 bytes, and how long it plays."""

    megabytes: float = 200.0
    seconds: float = 60.0


@dataclass(frozen=True)
class Request:
    """What somebody asks for; what is None is as the preset says."""

    video: Path
    label: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    candidates: int = 1
    scheduler: str | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True)
class Result:
    """Files, and what the sound was made with. ``score``: of the best candidate, None where there was one alone."""

    film: Path
    sound: Path
    picture: Path
    seed: int
    score: float | None
    length: float
    took: float


class Maker:
    """Makes what is asked for, one thing at a time, in files of ``place``; inputs are read only."""

    def __init__(self, model: VideoToAudio, place: Place, limits: Limits):
        self.model, self.place, self.limits = model, place, limits
        self.preset = model.sampler.preset
        self._one, self._closed = Lock(), Event()
        self._patience = self.preset.cache.decode_timeout_seconds

    def length_of(self, video: Path) -> float:
        """How long a film plays, in seconds. Raises :class:`InputError` for one that is larger or longer than the
        limits, :class:`common.errors.ClipError` for one that is no film."""
        check_file(video)
        if (size := video.stat().st_size / MEGABYTE) > self.limits.megabytes:
            raise InputError(f"{video} has {size:.0f} MB; this page takes films of up to {self.limits.megabytes:g} MB")
        seconds = killable(probe, video, seconds=self._patience).duration_s
        if seconds > self.limits.seconds:
            raise InputError(f"{video} plays {seconds:.0f} s; this page takes films of up to {self.limits.seconds:g} s")
        return float(seconds)

    def close(self) -> None:
        """End what is being made, and make nothing more."""
        self._closed.set()

    def make(self, request: Request, on_progress: OnProgress = lambda share, note: None) -> Result:
        """Raises as :meth:`length_of` and :meth:`generate.video_to_audio.VideoToAudio.best`, all before any of the
        sound is made where that can be known; what ``on_progress`` raises ends the work."""
        with self._one:
            return self._make(request, on_progress)

    def _make(self, request: Request, on_asked: OnProgress) -> Result:
        def on_progress(share: float, note: str) -> None:
            if self._closed.is_set():
                raise StoppedError
            on_asked(share, note)

        started, video = time.monotonic(), request.video
        _check_numbers(request)
        on_progress(0.0, "looking at the film")
        seconds = self.length_of(video)
        folder = self.place.new_folder()
        try:
            with self.place.using(video, folder):
                best, output = self._into(folder, request, seconds, on_progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        assert output.video is not None
        return Result(
            film=output.video,
            sound=output.sound,
            picture=output.sound.with_suffix(".png"),
            seed=best.seed,
            score=best.score if request.candidates > 1 else None,
            length=len(best.waveform) / self.model.sampler.audio_model.sample_rate,
            took=time.monotonic() - started,
        )

    def _into(
        self, folder: Path, request: Request, seconds: float, on_progress: OnProgress
    ) -> tuple[Candidate, Output]:
        """The film with its sound, the sound alone, and its picture, as files of ``folder``."""
        video, rate = request.video, self.model.sampler.audio_model.sample_rate
        # H.264 in mp4 is what every browser plays.
        output = plan_output(video, folder / f"{video.stem}.mp4", "h264", self._patience)
        best = self.model.best(
            video,
            request.label,
            seed=request.seed,
            candidates=request.candidates,
            negative_prompt=request.negative_prompt,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            scheduler=request.scheduler,
            on_window=lambda done, total, note: on_progress(done / total, note),
        )
        on_progress(1.0, "putting the sound to the film")
        write_wav(output.sound, [best.waveform], rate)
        longest = self._patience + 30 * seconds
        killable(mux, video, output.sound, rate, output.video, output.picture, seconds=longest)
        starts = self._starts(seconds)[: len(best.tokens)]
        picture = output.sound.with_suffix(".png")
        draw_sound(picture, best.waveform, best.tokens, starts, self.preset.media.seconds, seconds)
        return best, output

    def _starts(self, seconds: float) -> list[float]:
        media, row = self.preset.media, self.model.sampler.audio_model.latent_seconds
        rows = window_rows(seconds, media.seconds, self.preset.generation.overlap_seconds, row)
        return [start * row for start in rows]


def _check_numbers(request: Request) -> None:
    """The page offers no others, but a program can ask for anything."""
    for name, value, most in (
        ("steps", request.steps, MOST_STEPS),
        ("candidates", request.candidates, MOST_CANDIDATES),
        ("letters of the label", len(request.label), MOST_LETTERS),
        ("letters of the negative prompt", len(request.negative_prompt or ""), MOST_LETTERS),
    ):
        if value is not None and value > most:
            raise InputError(f"{value} {name} are asked for; this page takes up to {most}")
