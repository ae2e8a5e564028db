"""CLAP-micro: whole clips' sounds against captions. It says what sounds, and like CLAP hardly when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from transformers import ClapAudioConfig, ClapAudioModelWithProjection

from micro.audio import HELD_OUT
from micro.captions import Contrast, attributes
from micro.data import rows_of, training_scenes, waveforms
from micro.fit import Fit, Machine
from micro.world.scene import SAMPLE_RATE, SAMPLES
from pipeline.encoders.clap import CLAP
from presets import Preset

_CLIPS, _VALIDATION, _BATCH = 1536, 96, 32


def resampled(waveform: Tensor, rate: int) -> Tensor:
    """Waveforms (N, samples) at the world's 16 kHz -> at ``rate`` Hz, by the resampler that decodes clips.

    In 16 bits, as there: what it leaves above 8 kHz is a part of what CLAP hears.
    """
    rows = []
    for row in (waveform.float().clamp(-1, 1) * 32767).round().to(torch.int16).numpy():
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(row[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        pieces = [piece.to_ndarray()[0] for each in (frame, None) for piece in resampler.resample(each)]
        rows.append(np.concatenate(pieces)[: round(len(row) * rate / SAMPLE_RATE)])
    return torch.from_numpy(np.stack(rows)).float() / 32768


@torch.no_grad()
def spectrograms(encoder: CLAP, audio: Tensor, device: str, batch: int = 24) -> Tensor:
    """Waveforms (N, samples) at 16 kHz -> CLAP's decibels (N, 1, steps, bins), float16 on the device."""
    parts = [
        encoder.spectrogram(resampled(part[:, :SAMPLES], encoder.config.sample_rate).to(device)).half()
        for part in audio.split(batch)
    ]
    return torch.cat(parts)


def augmented(bank: Tensor) -> Tensor:
    """Decibels (B, 1, steps, bins) of the same sounds, louder or softer, turned in time, over another floor."""
    count, device = len(bank), bank.device
    steps = bank.shape[2]
    order = (torch.arange(steps, device=device) + torch.randint(steps, (count, 1), device=device)) % steps
    bank = bank.gather(2, order[:, None, :, None].expand_as(bank))
    gain, floor = (
        low + (high - low) * torch.rand(count, 1, 1, 1, device=device) for low, high in ((-15, 6), (-100, -60))
    )
    return (bank + gain).maximum(floor)


def train_clap(preset: Preset, folder: Path, audio: Tensor, steps: int, machine: Machine) -> Any:
    """The sound half, a ``ClapAudioModelWithProjection``, of a CLAP of sounds and captions.

    ``audio`` (N, samples): the first training sounds, at 16 kHz.
    """
    torch.manual_seed(preset.weights.seed + 12)
    encoder, device, audio = CLAP(preset.encoders.clap).to(machine.device), machine.device, audio[:_CLIPS]
    model: Any = ClapAudioModelWithProjection(ClapAudioConfig(**encoder.sizes())).to(device)
    contrast = Contrast(model, encoder.config.embedding)
    heard = spectrograms(encoder, audio, device)
    about = attributes(training_scenes(len(audio))).to(device)
    true = spectrograms(encoder, waveforms(_VALIDATION, HELD_OUT, "test"), device)
    true_about = attributes(training_scenes(_VALIDATION, HELD_OUT, "test")).to(device)
    with torch.no_grad():  # decibels lie around -50: do not spend the first steps on an offset
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.copy_(heard.float().mean((0, 1, 2)))
        norm.running_var.copy_(heard.float().var((0, 1, 2)))
    rows = [part.to(device) for part in rows_of(steps, len(audio), _BATCH, 12)]

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number]
        embedded = model(input_features=augmented(heard[chosen].float())).audio_embeds
        return contrast(embedded, about[chosen])

    def held_out() -> dict[str, Tensor]:
        return contrast.named(model(input_features=true.float()).audio_embeds, true_about)

    Fit("clap", folder, steps, 1.5e-3, average=0.99, machine=machine).run(contrast, step, held_out)
    return model.cpu()


@torch.no_grad()
def encode_clap(preset: Preset, model: Any, audio: Tensor, device: str, batch: int = 24) -> Tensor:
    """Waveforms (N, samples) at 16 kHz -> embeddings of unit length (N, D), on the CPU; ``model``: of the stage."""
    encoder = CLAP(preset.encoders.clap)
    encoder.take(model)
    encoder.ready(device)
    rate = encoder.config.sample_rate
    parts = [encoder.encode(resampled(part[:, :SAMPLES], rate))[:, 0] for part in audio.split(batch)]
    model.cpu()
    return torch.cat(parts).cpu().clone()
