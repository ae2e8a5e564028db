"""What is probed: scenes, and every feature and every stage of their sound, each computed once, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from generate.audioldm2_loader import load_audioldm2
from generate.mel import LogMel
from micro.data import FRAME_RATE, LABELS, SAMPLES, training_scenes
from micro.probes import Probed, Subjects
from micro.study import Study, scene
from micro.world.render import render_frames, render_waveform
from micro.world.scene import SAMPLE_RATE, Scene
from pipeline.encoders import load_encoder
from pipeline.encoders.audiomae import normalise_waveform
from pipeline.media import DecodedClip, resize_frame
from pipeline.media.resampling import resampled
from presets import Preset
from presets.encoders import reads
from trainer.mapper import Mapper, read_spec
from trainer.registry import MFMMapper

_FIRST = 30_000_000  # first scene of those that are rendered for probes: no stage trains on them
_PADDED = SAMPLES / SAMPLE_RATE  # 10.24 s, what the audio models see
_SOUND_ROWS = 160  # of a spectrogram: 64 ms each, twice as fine as instants are asked for
_BATCH = 12
_NO_FRAMES = np.empty((0, 1, 1, 3), np.uint8)


@dataclass
class Bench:
    """Subjects, the models that are probed, and what was computed of them.

    ``cached``: features by encoder that need not be computed; ``mappers``: folders by name.
    """

    preset: Preset
    subjects: Subjects
    device: str = "cpu"
    cached: Mapping[str, np.ndarray] = field(default_factory=dict)
    mappers: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._features = dict(self.cached)

    @classmethod
    def rendered(cls, preset: Preset, device: str, mappers: Mapping[str, Path], train: int, test: int) -> Bench:
        """On scenes rendered in memory: nothing is written, encoders see pictures that no codec touched."""
        counts = _counts(train, test)
        scenes, splits = [], []
        for number, (split, count) in enumerate(counts.items()):
            sizes = "test" if split == "test" else "train"
            scenes += training_scenes(count, _FIRST + number * 1_000_000, sizes)
            splits += [split] * count
        return cls(preset, Subjects(scenes, splits), device, {}, mappers)

    @classmethod
    def of_study(cls, study: Study, device: str, mappers: Mapping[str, Path], train: int, test: int) -> Bench:
        """On the clips of a study, with the features of its cache and its trained mappers of seed 0."""
        joined = study.joined
        counts = _counts(train, test)
        rows: list[int] = []
        for split, count in counts.items():
            rows += _in_turn([n for n, s in enumerate(joined.splits) if s == split], joined.labels)[:count]
        scenes = [scene(joined.clip_ids[row]) for row in rows]
        subjects = Subjects(scenes, [joined.splits[row] for row in rows])
        cached = {name: joined.arrays[name][rows].astype(np.float32) for name in joined.arrays}
        found = sorted((study.folder / "runs").glob("*-0/mapper"))
        runs = {path.parent.name: path for path in found if read_spec(path).target_encoder == study.preset.target}
        return cls(study.preset, subjects, device, cached, {**runs, **mappers})

    def encoder(self, name: str) -> np.ndarray:
        """Features (N, T, D) of an encoder of frames or waveforms. Raises :class:`WeightsError` without weights."""
        if name not in self._features:
            encoder = load_encoder(name, preset=self.preset, device=self.device)
            rate = None if reads(name) == "frames" else self.preset.encoders[name].sample_rate or SAMPLE_RATE
            parts = [encoder.encode_clips(clips).float().cpu().numpy() for clips in self._clips(rate)]
            self._features[name] = np.concatenate(parts)
        return self._features[name]

    def _clips(self, rate: int | None) -> Iterator[list[DecodedClip]]:
        """With frames alone, or with the sound at ``rate`` Hz alone."""
        media = self.preset.media
        times, shown = np.arange(media.frames) / FRAME_RATE, np.ones(media.frames, bool)
        for part in _parts(self.subjects.scenes):
            if rate is None:
                yield [DecodedClip(_frames(one, media.frame_size), times, None, None, shown) for one in part]
            else:
                sounds = [render_waveform(one) for one in part]
                yield [
                    DecodedClip(_NO_FRAMES, times, sound, None, shown, {rate: _resampled(sound, rate)})
                    for sound in sounds
                ]

    @cached_property
    def audio_model(self) -> Any:
        return load_audioldm2(self.preset, self.device)

    @cached_property
    def waveforms(self) -> Tensor:
        """(N, 163840) float16, as the audio models take them."""
        waves = (normalise_waveform(torch.from_numpy(render_waveform(s))[None], SAMPLES) for s in self.subjects.scenes)
        return torch.cat([wave.half() for wave in waves])

    @torch.inference_mode()
    def over_sound(self, make: Callable[[Tensor], Tensor]) -> Probed:
        """Rows of what ``make`` gives of log-mels (B, 1024, 64), 64 ms each."""
        mel = LogMel().to(self.device)
        parts = []
        for part in self.waveforms.split(_BATCH):
            rows = make(mel(part.to(self.device).float())).float()
            if rows.shape[1] > _SOUND_ROWS:
                rows = torch.nn.functional.interpolate(rows.transpose(1, 2), _SOUND_ROWS, mode="area").transpose(1, 2)
            parts.append(rows.cpu())
        return Probed(torch.cat(parts).numpy(), _PADDED)

    def latents(self, mel: Tensor) -> Tensor:
        """Log-mels (B, 1024, 64) -> latents as rows in time, (B, 128, C * W)."""
        return self.audio_model.vae.encode(mel[:, None]).latent_dist.mode().transpose(1, 2).flatten(2)

    def restored(self, mel: Tensor) -> Tensor:
        """Log-mels through the VAE, (B, 1024, 64)."""
        vae = self.audio_model.vae
        return vae.decode(vae.encode(mel[:, None]).latent_dist.mode()).sample[:, 0]

    def vocoded(self, mel: Tensor) -> Tensor:
        """Log-mels of what the vocoder makes of log-mels, (B, 1024, 64)."""
        return LogMel().to(self.device)(self.audio_model.vocoder(mel).float())

    def mapper(self, name: str) -> Mapper:
        return MFMMapper.from_pretrained(self.mappers[name], self.device)

    def visual(self, mapper: Mapper, rows: Sequence[int] | slice) -> dict[str, Tensor]:
        """The streams of a mapper, of some subjects, on the device."""
        names = mapper.spec.mapper.encoders
        return {name: torch.from_numpy(self.encoder(name)[rows]).float().to(self.device) for name in names}

    @torch.inference_mode()
    def predicted(self, name: str) -> np.ndarray:
        """Free-running tokens (N, 8, D) of a mapper."""
        key = f"mapper {name}"
        if key not in self._features:
            mapper, count = self.mapper(name), len(self.subjects.scenes)
            parts = [mapper.predict(self.visual(mapper, slice(n, n + 48))).cpu() for n in range(0, count, 48)]
            self._features[key] = torch.cat(parts).numpy()
        return self._features[key]


def _counts(train: int, test: int) -> dict[str, int]:
    """Scenes of each split: a quarter of the training ones for validation, of every class at least one."""
    if min(train, test) < len(LABELS):
        raise InputError(f"probes need at least one scene of each of {len(LABELS)} classes to learn from and to test")
    return {"train": train, "validation": max(train // 4, len(LABELS)), "test": test}


def _frames(one: Scene, size: int) -> np.ndarray:
    """uint8 (40, size, size, 3)."""
    return np.stack([resize_frame(frame, size) for frame in render_frames(one, FRAME_RATE)])


def _resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    """16-kHz sound at another rate, as decoding gives it."""
    if rate == SAMPLE_RATE:
        return sound
    parts = np.concatenate(list(resampled([sound], SAMPLE_RATE, rate)))
    return parts[: round(len(sound) * rate / SAMPLE_RATE)].astype(np.float32)


def _parts(scenes: Sequence[Scene]) -> Iterator[Sequence[Scene]]:
    for first in range(0, len(scenes), _BATCH):
        yield scenes[first : first + _BATCH]


def _in_turn(rows: Sequence[int], labels: Sequence[str]) -> list[int]:
    """Rows with the classes in turn, so that the first ones are of all classes."""
    seen: dict[str, int] = {}
    order = []
    for row in rows:
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        order.append((seen[labels[row]], row))
    return [row for _, row in sorted(order)]


def _encoder(name: str, context: int = 1, seconds: float = 10.0) -> Callable[[Bench], Probed]:
    return lambda bench: Probed(bench.encoder(name), seconds, context)


# What is probed besides the mappers' tokens: title -> how to get it. A further encoder is one line.
FEATURES: dict[str, Callable[[Bench], Probed]] = {
    "cavp": _encoder("cavp"),
    "timechat": _encoder("timechat"),
    "clip": _encoder("clip"),
    "audiomae": _encoder("audiomae", context=0, seconds=_PADDED),
    "clap": _encoder("clap"),
    "mel": lambda bench: bench.over_sound(lambda mel: mel),
    "latents": lambda bench: bench.over_sound(bench.latents),
    "mel > VAE": lambda bench: bench.over_sound(bench.restored),
    "mel > vocoder": lambda bench: bench.over_sound(bench.vocoded),
    "mel > VAE > vocoder": lambda bench: bench.over_sound(lambda mel: bench.vocoded(bench.restored(mel))),
}


def features(bench: Bench, names: str = "default") -> dict[str, Callable[[Bench], Probed]]:
    """:data:`FEATURES` and the tokens of each mapper: ``all``, names joined by commas, or ``none``.

    ``default``: all, but on a CPU not the vocoded ones, which take a second a scene. Raises :class:`InputError`.
    """
    known = {**FEATURES, **{tokens_of(name): _tokens(name) for name in bench.mappers}}
    if names == "none":
        return {}
    if names in ("all", "default"):
        few = names == "default" and bench.device == "cpu"
        return {name: make for name, make in known.items() if not (few and name.endswith("vocoder"))}
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"unknown feature '{unknown[0]}': there are {'; '.join(known)}")
    return {name: known[name] for name in chosen}


def tokens_of(mapper: str) -> str:
    """The title of a mapper's tokens."""
    return f"tokens of {mapper}"


def _tokens(name: str) -> Callable[[Bench], Probed]:
    return lambda bench: Probed(bench.predicted(name), _PADDED, 0)
