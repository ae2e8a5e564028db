"""The ceiling by stage: what is left of class, instants and loudness when true sound goes through a part of the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generate.audioldm2 import Conditioning
from generate.mel import LogMel
from micro.bench import Bench
from micro.data import LABELS
from micro.networks import MicroClassifier
from micro.onsets import compare_onsets, find_onsets, loudness_agreement
from micro.probes import LEVEL_STEPS, confusions
from micro.world.render import render_waveform
from micro.world.scene import SAMPLES, SECONDS, Scene

FIGURES = ("class_accuracy", "onset_f1", "timing_error", "loudness_r")
TRUTH = "truth"
_TIMES = (np.arange(LEVEL_STEPS) + 0.5) * SECONDS / LEVEL_STEPS
_BATCH = 12


def ceilings(bench: Bench, classifier: MicroClassifier, rows: Sequence[int], note: Callable[[str], None]) -> Any:
    """Stage -> figures of the subjects ``rows``, each also by class, and what is heard as what."""
    out = {}
    for stage, sound in _stages(bench, list(rows)):
        out[stage] = measure([bench.subjects.scenes[row] for row in rows], sound, classifier)
        note(
            f"ceiling of {stage}: "
            + ", ".join(f"{name} {out[stage][name]:.3f}" for name in FIGURES if name in out[stage])
        )
    return out


def _stages(bench: Bench, rows: list[int]) -> Iterator[tuple[str, np.ndarray]]:
    model = bench.audio_model
    yield TRUTH, np.stack([render_waveform(bench.subjects.scenes[row]) for row in rows])

    @torch.inference_mode()
    def through(make: Callable[[Tensor], Tensor]) -> np.ndarray:
        mel = LogMel().to(bench.device)
        parts = [
            model.vocoder(make(mel(part.to(bench.device).float()))).float()[:, :SAMPLES].cpu()
            for part in bench.waveforms[rows].split(_BATCH)
        ]
        return torch.cat(parts).numpy()

    yield "mel > vocoder", through(lambda mel: mel)
    yield "mel > VAE > vocoder", through(bench.restored)
    yield "true tokens", _denoised(bench, rows, bench.encoder(bench.preset.target)[rows])
    for name in bench.mappers:
        if bench.mapper(name).spec.target_encoder != bench.preset.target:
            continue  # another audio model's
        yield f"tokens of {name}", _denoised(bench, rows, bench.predicted(name)[rows])


def _denoised(bench: Bench, rows: list[int], tokens: np.ndarray) -> np.ndarray:
    """Sound (N, samples) of tokens (N, 8, D) and true labels, sampled as the preset does."""
    model, generation = bench.audio_model, bench.preset.generation
    parts = []
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH]
        text, mask = model.encode_labels([bench.subjects.scenes[row].label for row in part])
        chosen = torch.from_numpy(tokens[first : first + _BATCH]).float().to(bench.device)
        latents = model.denoise(
            Conditioning(chosen, text, mask),
            model.negative(generation.negative_prompt),
            model.noise([f"probe{row}" for row in part], generation.seed),
            steps=generation.steps,
            guidance_scale=generation.guidance_scale,
            scheduler_name=generation.scheduler,
        )
        parts.append(model.decode(latents, SAMPLES))
    return torch.cat(parts).numpy()


def measure(scenes: Sequence[Scene], sound: np.ndarray, classifier: MicroClassifier) -> dict[str, Any]:
    """Figures of waveforms (N, samples) against their scenes: means, means by class, and confusions.

    ``onset_f1`` and ``timing_error`` (s) of the scenes with instants, ``loudness_r`` of the sustained ones.
    """
    _, logits = classifier.classify_all(sound)
    heard = [LABELS[n] for n in logits.argmax(axis=1)]
    clips: list[dict[str, float]] = []
    for one, waveform, label in zip(scenes, sound, heard, strict=True):
        figures = {"class_accuracy": float(label == one.label)}
        if one.onsets:
            timing = compare_onsets(one.onsets, find_onsets(waveform))
            figures |= {"onset_f1": timing.f1, "timing_error": timing.error}
        if one.sustained:
            figures["loudness_r"] = loudness_agreement(waveform, one.level(_TIMES))
        clips.append(figures)

    def means(label: str | None) -> dict[str, float]:
        chosen = [c for c, s in zip(clips, scenes, strict=True) if label in (None, s.label)]
        values = {name: [c[name] for c in chosen if name in c] for name in FIGURES}
        return {name: float(np.mean(found)) for name, found in values.items() if found}

    return {
        **means(None),
        "by_class": {label: means(label) for label in dict.fromkeys(s.label for s in scenes)},
        "confusions": confusions([s.label for s in scenes], heard),
    }
