"""HiFi-GAN-micro beside Griffin-Lim: what each makes of the same mels of held-out scenes, and what it costs."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import SpeechT5HifiGan

from common.errors import WeightsError
from common.writing import write_text
from generate.components import HIFIGAN, build_vocoder, find_folder, read_part, read_vocoder, vocoder_name
from generate.mel import HOP, MEL_FRAMES, LogMel
from micro.audio import HELD_OUT
from micro.data import training_scenes, waveforms
from micro.judge import Judge
from micro.networks import load_classifier
from micro.spectral import spectral_distance
from micro.vocoder import GriffinLim
from micro.world.scene import SAMPLES
from presets import Preset
from presets.official import AUDIOLDM2

TRUE, RESTORED = "true", "VAE-restored"
GRIFFIN_LIM, TRAINED, TRUTH = "Griffin-Lim", "HiFi-GAN-micro", "(true sound)"
_COLUMNS = {
    "class_accuracy": "class accuracy",
    "onset_f1": "events F1",
    "timing_error": "timing error, s",
    "loudness": "loudness r",
    "FD": "FD",
    "mel_error": "mel error",
    "spectral_distance": "spectral distance",
}

Vocoder = Callable[[Tensor], Tensor]


def compare(preset: Preset, hifigan: Path | None, clips: int = 96, rounds: int = 9) -> dict[str, Any]:
    """Figures of both vocoders on true and on VAE-restored mels, and CPU seconds of one 10.24-s clip.

    ``preset``: whose VAE and classifier; ``hifigan``: HiFi-GAN's folder, or None for that of the preset. Griffin-Lim
    is as the preset sets it, or with its own settings where the preset has HiFi-GAN. ``clips``: held-out scenes, the
    classes in turn; from seven on some have events and some are sustained. Raises WeightsError.
    """
    folder = find_folder("AudioLDM-2", AUDIOLDM2, preset, ("vae", "vocoder"))
    vocoders = _vocoders(preset, folder / "vocoder", hifigan)
    vae = read_part(AutoencoderKL, folder / "vae").eval()
    scenes, true = training_scenes(clips, HELD_OUT, "test"), waveforms(clips, HELD_OUT, "test").float()
    classifier = load_classifier(preset).eval()
    judge = Judge(scenes, classifier, classifier.classify_all(true[:, :SAMPLES].numpy())[0])
    mels = {TRUE: LogMel()(true)}
    mels[RESTORED] = _each(lambda mel: vae.decode(vae.encode(mel[:, None]).latent_dist.mode()).sample[:, 0], mels[TRUE])
    rows = [{"vocoder": TRUTH, "mels": "no", **_figures(judge, true, true)}]
    for name, vocoder in vocoders.items():
        rows += [
            {"vocoder": name, "mels": kind, **_figures(judge, _each(vocoder, mel), true)} for kind, mel in mels.items()
        ]
    return {
        "rows": rows,
        "cpu_seconds": cpu_seconds(vocoders, mels[RESTORED][:1], rounds),
        "weights": {name: sum(value.numel() for value in each.parameters()) for name, each in vocoders.items()},
        "clips": clips,
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def _vocoders(preset: Preset, shipped: Path, hifigan: Path | None) -> dict[str, Any]:
    trained = read_vocoder(shipped if hifigan is None else hifigan)
    if not isinstance(trained, SpeechT5HifiGan):
        raise WeightsError(
            f"{hifigan or shipped} holds {type(trained).__name__}, not HiFi-GAN: "
            "`python -m micro train --stage vocoder` makes one and --vocoder says where it is"
        )
    settings = preset.audio_models.audioldm2.vocoder
    other = GriffinLim() if vocoder_name(settings) == HIFIGAN else build_vocoder(settings)
    return {GRIFFIN_LIM: other.eval(), TRAINED: trained.eval()}


@torch.inference_mode()
def _each(function: Callable[[Tensor], Tensor], values: Tensor, batch: int = 4) -> Tensor:
    return torch.cat([function(part) for part in values.split(batch)])


def _figures(judge: Judge, made: Tensor, true: Tensor) -> dict[str, Any]:
    """Of waveforms (N, 163840): the study's figures, distances to the true ones, and classes with errors."""
    made = made.float()
    figures = judge.measure(made[:, :SAMPLES].numpy()).figures
    chosen = judge.classifier.classify_all(made[:, :SAMPLES].numpy())[1].argmax(axis=1)
    lost: dict[str, list[str]] = {}
    for scene, place in zip(judge.scenes, chosen, strict=True):
        if judge.classifier.labels[place] != scene.label:
            lost.setdefault(scene.label, []).append(judge.classifier.labels[place])
    mel, parts = LogMel(), zip(made.split(4), true.split(4), strict=True)
    distances = [
        (spectral_distance(ours, theirs), (mel(ours) - mel(theirs)).abs().mean((1, 2))) for ours, theirs in parts
    ]
    spectral, error = (float(torch.cat(values).mean()) for values in zip(*distances, strict=True))
    return {**figures, "mel_error": error, "spectral_distance": spectral, "misheard": lost}


@torch.inference_mode()
def cpu_seconds(vocoders: Mapping[str, Vocoder], mel: Tensor, rounds: int) -> dict[str, float]:
    """Median CPU seconds of a clip, all threads together; one round is every vocoder once, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in vocoders}
    for number in range(rounds + 1):
        for name, vocoder in vocoders.items():
            started = time.process_time()
            vocoder(mel)
            if number:
                times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def table(results: Mapping[str, Any]) -> str:
    """Markdown for the model card."""
    titles = ["vocoder", "mels", *_COLUMNS.values(), "misheard", "CPU s a clip"]
    lines = [f"| {' | '.join(titles)} |", "| --- | --- " + "| ---: " * len(_COLUMNS) + "| --- | ---: |"]
    for row in results["rows"]:
        cells = [row["vocoder"], row["mels"], *(f"{row[name]:.3f}" for name in _COLUMNS)]
        cells.append(", ".join(f"{label} {len(others)}" for label, others in sorted(row["misheard"].items())) or "none")
        seconds = results["cpu_seconds"].get(row["vocoder"])
        cells.append("" if seconds is None else f"{seconds:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\n{results['clips']} held-out scenes of held-out sizes. *mel error*: mean absolute difference of log-mels. "
        "*spectral distance*: the same of log-magnitudes, mean over windows of 16 to 128 ms; noise of other samples is "
        "as far away as noise can be. *misheard*: clips of a class that the classifier takes for another. *CPU s*: of "
        f"a {MEL_FRAMES * HOP / 16_000:.2f}-s clip, all threads together, median of {results['rounds']} runs in "
        f"turn ({results['machine']}).\n"
    )


def write_comparison(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``vocoders.json`` and ``vocoders.md``; returns the latter's path."""
    write_text(folder / "vocoders.json", json.dumps(results, indent=1))
    write_text(folder / "vocoders.md", table(results))
    return folder / "vocoders.md"
