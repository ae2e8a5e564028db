"""AudioMAE-micro and the VAE of AudioLDM-2-micro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from generate.mel import LogMel
from micro.data import LABELS, classes, on_device, rows_of, waveforms
from micro.fit import Fit, Goal, Machine
from pipeline.encoders.audiomae import AudioMAE
from presets import Preset

_CLIPS = 4800
HELD_OUT = 10_000_000  # first scene of those that no stage trains on
_VALIDATION = 96
_LOUDNESS = (-0.4, 0.3)  # mean and spread of the filter bank over 80 ms by 32 bins


class AudioMAETraining(nn.Module):
    """Masked reconstruction of filter-bank patches; the pooled tokens then also have to tell the sound.

    AudioMAE is pretrained by masking and fine-tuned on AudioSet's classes. Here the two run together, with two
    more terms on the pooled tokens, or the tokens of so small a model say what sounds and not *when*: the first
    values of a token say which of the eight it is, as AudioLDM-2's attention has nothing else to tell one from
    another; the next are the loudness of its 1.28 s, at 80 ms by 4 bands, to unit spread, so that whoever reads
    tokens linearly, as attention does, gets the time of an event; and all of a token has to give back its 1.28 s
    at 40 ms by 4 bins.
    """

    _instants, _bands = 16, 4

    def __init__(self, encoder: AudioMAE):
        super().__init__()
        self.encoder = encoder
        width, patch = encoder.config.width, encoder.config.patch_size
        self.mask_head = nn.Linear(width, patch * patch)
        self.detail = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 32 * 32))
        self.classify = nn.Linear(width, len(LABELS))

    def forward(self, bank: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Normalised filter bank (B, 1024, 128) -> losses."""
        part = len(bank) // 4
        reconstruction = self.masked(bank[:part])
        tokens, figures = self.restored(bank[part:])
        semantic = nn.functional.cross_entropy(self.classify(tokens.mean(1)), label[part:])
        loss = reconstruction + 4 * figures["detail"] + 2 * figures["loudness"] + 0.3 * semantic + figures["place"]
        return {"loss": loss, "masked": reconstruction, **figures, "class": semantic}

    def masked(self, bank: Tensor) -> Tensor:
        """Mean squared error at the masked patches (60 %)."""
        size = self.encoder.config.patch_size
        patches = bank.unfold(1, size, size).unfold(2, size, size).flatten(3).flatten(1, 2)  # (B, 512, 256)
        masked = torch.rand(patches.shape[:2], device=bank.device) < 0.6
        rows, bins = bank.shape[1] // size, bank.shape[2] // size
        grid = masked.view(-1, rows, bins).repeat_interleave(size, 1).repeat_interleave(size, 2)
        hidden = self.encoder.vit(bank.masked_fill(grid, 0.0)[:, None]).last_hidden_state[:, 1:]
        error = (self.mask_head(hidden) - patches).square().mean(-1)
        return (error * masked).sum() / masked.sum()

    def restored(self, bank: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pooled tokens (B, 8, D), and the errors of what they say: detail, loudness, place."""
        tokens = self.encoder.pool(self.encoder.contextual(bank))
        count = tokens.shape[1]
        place = (tokens[..., :count] - 2 * torch.eye(count, device=tokens.device)).square().mean()
        target = nn.functional.avg_pool2d(bank[:, None], 4)[:, 0].reshape(-1, count, 32 * 32)
        values = self._instants * self._bands
        size = (bank.shape[1] // count // self._instants, bank.shape[2] // self._bands)
        loudness = nn.functional.avg_pool2d(bank[:, None], size)[:, 0].reshape(-1, count, values)
        error = tokens[..., count : count + values] - (loudness - _LOUDNESS[0]) / _LOUDNESS[1]
        return tokens, {
            "detail": (self.detail(tokens) - target).square().mean(),
            "loudness": error.square().mean(),
            "place": place,
        }


def train_audiomae(preset: Preset, folder: Path, steps: int, machine: Machine, batch: int = 16) -> AudioMAE:
    torch.manual_seed(preset.weights.seed)
    training = AudioMAETraining(AudioMAE(preset.encoders.audiomae))
    device = machine.device
    sound, label = on_device(waveforms(_CLIPS), device), classes(_CLIPS).to(device)
    rows = rows_of(steps, _CLIPS, batch, 1)

    def bank(audio: Tensor) -> Tensor:
        with torch.no_grad():
            return training.encoder.spectrogram(audio.to(device).float())

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number]
        return training(bank(sound[chosen]), label[chosen])

    def held_out() -> dict[str, Tensor]:
        true = bank(waveforms(_VALIDATION, HELD_OUT, "test"))
        tokens, figures = training.restored(true)
        right = training.classify(tokens.mean(1)).argmax(1) == classes(_VALIDATION, HELD_OUT).to(device)
        return {**figures, "right": right.float().mean()}

    fit = Fit("audiomae", folder, steps, 1.5e-3, average=0.99, machine=machine, goal=Goal("detail", 0.01))
    fit.run(training, step, held_out)
    return training.encoder.cpu()


def train_vae(preset: Preset, folder: Path, steps: int, machine: Machine, batch: int = 16) -> Any:
    """KL-regularised autoencoder of log-mels on crops of 2.56 s; ends by setting the latents' scale."""
    torch.manual_seed(preset.weights.seed + 2)
    vae: Any = AutoencoderKL(**preset.audio_models.audioldm2.vae)
    with torch.no_grad():  # log-mels lie around -7: do not spend the first steps on an offset
        vae.decoder.conv_out.bias.fill_(-7.0)
    device, mel = machine.device, LogMel()
    sound = on_device(waveforms(_CLIPS), device)
    rows = rows_of(steps, _CLIPS, batch, 2)

    def step(number: int) -> dict[str, Tensor]:
        first = int(torch.randint(0, 768, ())) * 160
        audio = sound[rows[number], first : first + 256 * 160]
        target = mel(audio.to(device).float(), 256)[:, None]
        posterior = vae.encode(target).latent_dist
        restored = vae.decode(posterior.sample()).sample
        error = (restored - target).abs().mean() + 0.2 * (restored - target).square().mean()
        divergence = posterior.kl().mean() / target[0].numel()
        return {"loss": error + 0.02 * divergence, "error": error, "divergence": divergence}

    def held_out() -> dict[str, Tensor]:
        target = mel(waveforms(_VALIDATION, HELD_OUT, "test")[:, : 256 * 160].to(device).float(), 256)[:, None]
        return {"l1": (vae.decode(vae.encode(target).latent_dist.mode()).sample - target).abs().mean()}

    fit = Fit("vae", folder, steps, 2e-3, average=0.99, machine=machine, goal=Goal("l1", 0.2))
    fit.run(vae, step, held_out)
    with torch.no_grad():
        latents = vae.encode(mel(waveforms(96).to(device).float())[:, None]).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return vae.cpu()
