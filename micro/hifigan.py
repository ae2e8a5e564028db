"""HiFi-GAN-micro: AudioLDM-2's vocoder (Kong et al. 2020) at a size that a CPU trains in minutes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import SpeechT5HifiGan

from generate.components import HIFIGAN, build_vocoder, vocoder_name
from generate.mel import HOP, MEL_BINS, RATE, LogMel
from micro.audio import HELD_OUT
from micro.data import SAMPLES, rows_of, waveforms
from micro.fit import Fit, Machine
from micro.spectral import spectral_distance, spectral_loss
from presets import Preset

# Where the preset's vocoder is another: half a million weights, cheaper on a CPU than 24 rounds of Griffin-Lim.
SIZES: dict[str, Any] = {
    "model_in_dim": MEL_BINS,
    "sampling_rate": RATE,
    "upsample_initial_channel": 128,
    "upsample_rates": [5, 4, 4, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4],
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "normalize_before": True,
}
_CLIPS = 4800
_VALIDATION, _VALIDATION_FRAMES = 24, 256
_CROP = 48  # frames
_CONTEXT = 40  # frames on either side of a crop that the VAE sees, too
_RESTORED = 0.5  # share of a batch whose mels have been through the VAE, as every mel is at generation
_UNJUDGED = 0.4  # share of the steps before the discriminator joins in: it costs as much as all the rest
_MEL, _FEATURES, _ADVERSARIAL = 1.0, 2 / 45, 1 / 45  # HiFi-GAN's 45, 2 and 1, to a weight of one for the mels


class _Layers(nn.Module):
    """Convolutions with leaky ReLU; returns what each gives, the scores last."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)

    def forward(self, hidden: Tensor) -> list[Tensor]:
        seen = []
        for layer in self.layers[:-1]:
            hidden = nn.functional.leaky_relu(layer(hidden), 0.1)
            seen.append(hidden)
        return [*seen, self.layers[-1](hidden)]


class PeriodDiscriminator(_Layers):
    """Waveform (B, samples), folded by a period into (samples / period, period): what repeats lies in columns."""

    def __init__(self, period: int, width: int):
        self.period = period
        sizes = [1, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(sizes)]
        super().__init__([*layers, nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0))])

    def forward(self, waveform: Tensor) -> list[Tensor]:
        short = -waveform.shape[1] % self.period
        padded = nn.functional.pad(waveform[:, None], (0, short), mode="reflect")
        return super().forward(padded.unflatten(2, (-1, self.period)))


class ScaleDiscriminator(_Layers):
    """Waveform (B, samples), averaged over ``pool`` samples."""

    def __init__(self, pool: int, width: int):
        self.pool = pool
        super().__init__(
            [
                nn.Conv1d(1, width, 15, 1, 7),
                nn.Conv1d(width, 2 * width, 21, 4, 10, groups=width // 2),
                nn.Conv1d(2 * width, 4 * width, 21, 4, 10, groups=width),
                nn.Conv1d(4 * width, 4 * width, 5, 1, 2),
                nn.Conv1d(4 * width, 1, 3, 1, 1),
            ]
        )

    def forward(self, waveform: Tensor) -> list[Tensor]:
        return super().forward(nn.functional.avg_pool1d(waveform[:, None], self.pool))


class Discriminator(nn.Module):
    """HiFi-GAN's, multi-period and multi-scale, with few channels: waveform -> layers of each of its parts."""

    def __init__(self, width: int = 8):
        super().__init__()
        periods = [PeriodDiscriminator(period, width) for period in (2, 3, 5, 7, 11)]
        scales = [ScaleDiscriminator(pool, width) for pool in (1, 2, 4)]
        self.parts = nn.ModuleList([*periods, *scales])

    def forward(self, waveform: Tensor) -> list[list[Tensor]]:
        return [part(waveform) for part in self.parts]


class HifiGanTraining(nn.Module):
    """Generator and discriminator, whose losses are one sum: each term reaches the weights of one of them only.

    So one optimiser steps both, and one checkpoint holds both.
    """

    def __init__(self, sizes: Mapping[str, Any]):
        super().__init__()
        self.generator = build_vocoder(sizes)
        for module in self.generator.modules():  # the class's own spread of 0.01 takes long to make any sound
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                module.reset_parameters()
        self.generator.conv_post.weight.data.mul_(0.1)  # begins quiet
        self.discriminator = Discriminator()

    def forward(self, mel: Tensor, true: Tensor, target: Tensor, log_mel: LogMel, judged: bool) -> dict[str, Tensor]:
        """Given mel and that of the sound (B, T, 64), the sound (B, 160 T) -> losses; ``judged``: adversarial, too."""
        made = self.generator(mel).float()
        error = (log_mel(made, target.shape[1]) - target).abs().mean()
        spectral = spectral_loss(made, true)
        values = {"mel": error, "spectral": spectral}
        loss = _MEL * error + spectral
        if judged:
            judgement = self._judge(made, true)
            loss = loss + _ADVERSARIAL * judgement["fooled"] + _FEATURES * judgement["features"] + judgement["judge"]
            values |= judgement
        return {"loss": loss, **values}

    def _judge(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Least-squares adversarial losses, and the distance of the discriminator's features."""
        count = len(made)
        judged = self.discriminator(torch.cat([true, made.detach()]))
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        seen = torch.func.functional_call(self.discriminator, frozen, (made,))
        judge, fooled, features = (torch.zeros((), device=made.device) for _ in range(3))
        for ours, part in zip(seen, judged, strict=True):
            scores = part[-1].float()
            judge = judge + (scores[:count] - 1).square().mean() + scores[count:].square().mean()
            fooled = fooled + (ours[-1].float() - 1).square().mean()
            for here, there in zip(ours[:-1], part[:-1], strict=True):
                features = features + (here.float() - there[:count].detach().float()).abs().mean()
        return {"judge": judge, "fooled": fooled, "features": features}


@torch.no_grad()
def _set_normalisation(generator: Any, log_mel: LogMel) -> None:
    """Mean and spread of every mel bin over training sounds, which the generator takes out of its input."""
    if generator.config.normalize_before:
        mel = log_mel(waveforms(_CLIPS)[:96].float()).flatten(0, 1)
        generator.mean.copy_(mel.mean(0))
        generator.scale.copy_(mel.std(0))


class _Crops:
    """Random crops of training sounds as the generator gets them: mel, sound, and the mel of the sound."""

    def __init__(self, vae: Any, log_mel: LogMel, device: str):
        self.vae, self.log_mel, self.device = vae, log_mel, device

    @torch.no_grad()
    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 64), (B, 160 T), (B, T, 64); the last part of the batch has mels that the VAE has restored.

        Crops are from all of a clip, its ends and the silence behind it too, where context is on one side alone.
        """
        frames = _CROP + 2 * _CONTEXT
        first = torch.randint(0, SAMPLES // HOP - _CROP + 1, (len(rows),))
        around = (first - _CONTEXT).clamp(0, SAMPLES // HOP - frames)
        inner = (first - around).tolist()
        sounds, samples = waveforms(_CLIPS), frames * HOP
        places = zip(rows.tolist(), (around * HOP).tolist(), strict=True)
        # float32 before anything else: autocast to bfloat16 refuses float16 on a CPU
        wide = torch.stack([sounds[row, at : at + samples].float() for row, at in places]).to(self.device)
        target = self.log_mel(wide, frames)
        mel = target
        if self.vae is not None and (count := round(_RESTORED * len(rows))):
            latents = self.vae.encode(target[-count:, None]).latent_dist.sample()
            mel = torch.cat([target[:-count], self.vae.decode(latents).sample[:, 0].float()])
        true = torch.stack([sound[at * HOP : (at + _CROP) * HOP] for sound, at in zip(wide, inner, strict=True)])
        mel = torch.stack([each[at : at + _CROP] for each, at in zip(mel, inner, strict=True)])
        return mel, true, self.log_mel(true, _CROP)


def train_hifigan(
    preset: Preset,
    folder: Path,
    vae: Any,
    steps: int,
    machine: Machine,
    batch: int = 16,
    adversarial: bool = True,
) -> SpeechT5HifiGan:
    """HiFi-GAN at the preset's sizes, or :data:`SIZES`; also written to ``folder``/vocoder, as transformers does.

    ``vae``: restores the mels of half of each batch; None: all are true ones. ``adversarial``: whether the
    discriminator joins in, after the first steps.
    """
    torch.manual_seed(preset.weights.seed + 9)
    sizes = preset.audio_models.audioldm2.vocoder
    training = HifiGanTraining(sizes if vocoder_name(sizes) == HIFIGAN else SIZES)
    log_mel = LogMel()
    _set_normalisation(training.generator, log_mel)
    if vae is not None:
        vae.to(machine.device).eval().requires_grad_(False)
    crops, rows = _Crops(vae, log_mel, machine.device), rows_of(steps, _CLIPS, batch, 9)
    judged_from = round(_UNJUDGED * steps) if adversarial else steps

    def step(number: int) -> dict[str, Tensor]:
        mel, true, target = crops.draw(rows[number])
        return training(mel, true, target, log_mel, number >= judged_from)

    def held_out() -> dict[str, Tensor]:
        samples = _VALIDATION_FRAMES * HOP
        true = waveforms(_VALIDATION, HELD_OUT, "test")[:, :samples].to(machine.device).float()
        target = log_mel(true, _VALIDATION_FRAMES)
        made = training.generator(target).float()
        figures = {"mel": (log_mel(made, _VALIDATION_FRAMES) - target).abs().mean()}
        return {**figures, "spectral": spectral_distance(made, true).mean()}

    Fit("vocoder", folder, steps, 2e-3, average=0.998, machine=machine).run(training, step, held_out)
    if vae is not None:
        vae.cpu()
    generator: SpeechT5HifiGan = training.generator.cpu()
    generator.save_pretrained(folder / "vocoder")
    return generator
