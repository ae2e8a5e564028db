"""One video of any length in, one waveform out, without a cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generate.sampling import Sampler, load_sampler
from generate.schedulers import step_seeds
from generate.windows import join_windows, window_rows
from pipeline.decoding import decode_killable, killable
from pipeline.encoders import load_encoder
from pipeline.errors import ClipError, InputError
from pipeline.media import probe
from presets import Preset, load_preset


@dataclass(frozen=True)
class Candidate:
    """A waveform (samples,), the seed it was made with, and its score (higher is better)."""

    waveform: np.ndarray
    seed: int
    score: float


class VideoToAudio:
    """``VideoToAudio.from_pretrained(run / "mapper")(video, label=...) -> waveform, sample_rate``."""

    def __init__(self, sampler: Sampler, encoders: dict[str, Any], device: str = "cpu"):
        self.sampler, self.encoders, self.device = sampler, encoders, device
        sampler.check_encoders({name: encoder.fingerprint for name, encoder in encoders.items()})
        self._judge: Any = None

    @classmethod
    def from_pretrained(
        cls, mapper_folder: str | Path, preset: Preset | str = "micro", device: str = "cpu"
    ) -> VideoToAudio:
        """Load the encoders, a trained mapper and AudioLDM-2 of a preset; raises WeightsError."""
        settings = load_preset(preset) if isinstance(preset, str) else preset
        sampler = load_sampler(settings, mapper_folder, device)
        names = sampler.encoders
        return cls(sampler, {name: load_encoder(name, preset=settings, device=device) for name in names}, device)

    def __call__(
        self, video: str | Path, label: str = "", seed: int | None = None, candidates: int = 1
    ) -> tuple[np.ndarray, int]:
        """Sound as long as the video: float32 (samples,) in [-1, 1], and its rate. Raises ClipError."""
        return self.best(video, label, seed, candidates).waveform, self.sampler.audioldm2.sample_rate

    def best(self, video: str | Path, label: str = "", seed: int | None = None, candidates: int = 1) -> Candidate:
        """The best of ``candidates`` seeds, counted from ``seed`` (default: the preset's).

        The score is the mean cosine between the tokens that the mapper predicts and AudioMAE's of the sound
        that came out; of one candidate it is not computed.
        """
        if candidates < 1:
            raise InputError(f"{candidates} candidates: at least one is needed")
        first = self.sampler.preset.generation.seed if seed is None else seed
        starts, seconds = self._windows(video)
        tokens = self._tokens(video, starts)
        made = [self._make(video, label, first + n, starts, seconds, tokens, candidates > 1) for n in range(candidates)]
        return max(made, key=lambda candidate: candidate.score)

    def _windows(self, video: str | Path) -> tuple[list[int], float]:
        media, generation = self.sampler.preset.media, self.sampler.preset.generation
        limit = self.sampler.preset.cache.decode_timeout_seconds
        seconds = killable(probe, video, seconds=limit).duration_s or media.seconds
        try:
            rows = window_rows(
                seconds, media.seconds, generation.overlap_seconds, self.sampler.audioldm2.latent_seconds
            )
        except ValueError as error:
            raise InputError(f"generation.overlap_seconds: {error}") from None
        return rows, seconds

    def _tokens(self, video: str | Path, starts: list[int]) -> Tensor:
        """The mapper's tokens of every window, (windows, 8, D). Raises ClipError if none has a picture."""
        media, limit = self.sampler.preset.media, self.sampler.preset.cache.decode_timeout_seconds
        tokens, has_picture = [], False
        for row in starts:
            start = row * self.sampler.audioldm2.latent_seconds
            decoded = decode_killable(video, media, start=start, audio=False, blank=True, seconds=limit)
            has_picture |= bool(decoded.shown.any())
            frames = torch.from_numpy(decoded.frames).permute(0, 3, 1, 2)[None]
            visual = {}
            for name, encoder in self.encoders.items():
                times = (decoded.times,) if name == "timechat" else ()
                visual[name] = encoder.encode(frames, *times)
            tokens.append(self.sampler.predict(visual))
        if not has_picture:
            raise ClipError("too_short", f"{video} shows no picture in any of its {len(starts)} windows")
        return torch.cat(tokens)

    def _make(
        self, video: str | Path, label: str, seed: int, starts: list[int], seconds: float, tokens: Tensor, judged: bool
    ) -> Candidate:
        model, size = self.sampler.audioldm2, self.sampler.preset.generation.batch
        if len(starts) == 1:
            noise = model.noise([Path(video).stem], seed)
        else:
            noise = model.window_noise(Path(video).stem, seed, starts)
        seeds = step_seeds([f"{Path(video).stem}/{row}" for row in starts], seed)
        parts = [
            self.sampler.synthesise(tokens[few], [label] * len(seeds[few]), noise[few], seeds[few])
            for few in (slice(first, first + size) for first in range(0, len(starts), size))
        ]
        windows = np.concatenate(parts)
        samples = [round(row * model.latent_seconds * model.sample_rate) for row in starts]
        waveform = join_windows(list(windows), samples, round(seconds * model.sample_rate))
        return Candidate(waveform, seed, self._score(windows, tokens) if judged else 0.0)

    def _score(self, windows: np.ndarray, tokens: Tensor) -> float:
        if self._judge is None:
            self._judge = load_encoder("audiomae", preset=self.sampler.preset, device=self.device)
        heard = self._judge.encode(torch.from_numpy(windows))
        return float(torch.nn.functional.cosine_similarity(heard, tokens.float(), dim=-1).mean())
