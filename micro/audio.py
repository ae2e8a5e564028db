"""AudioMAE-micro and the VAE of AudioLDM-2-micro."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from generate.mel import LogMel
from micro.data import LABELS, batches, classes, waveforms
from micro.fit import Fit
from pipeline.encoders.audiomae import AudioMAE
from presets import Preset

_CLIPS = 4800


class AudioMAETraining(nn.Module):
    """Masked reconstruction of filter-bank patches; the pooled tokens then also have to tell the sound.

    AudioMAE is pretrained by masking and fine-tuned on AudioSet's classes. Here the two run together, with a
    third term: from each pooled token the 1.28 s it covers, at 40 ms by 4 bins, so that a token of the small
    model keeps *when* something sounds.
    """

    def __init__(self, encoder: AudioMAE):
        super().__init__()
        self.encoder = encoder
        width, patch = encoder.config.width, encoder.config.patch_size
        self.mask_head = nn.Linear(width, patch * patch)
        self.detail = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, 32 * 32))
        self.classify = nn.Linear(width, len(LABELS))

    def forward(self, bank: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Normalised filter bank (B, 1024, 128) -> losses."""
        size = self.encoder.config.patch_size
        patches = bank.unfold(1, size, size).unfold(2, size, size).flatten(3).flatten(1, 2)  # (B, 512, 256)
        masked = torch.rand(patches.shape[:2]) < 0.6
        rows, bins = bank.shape[1] // size, bank.shape[2] // size
        grid = masked.view(-1, rows, bins).repeat_interleave(size, 1).repeat_interleave(size, 2)
        half = len(bank) // 2
        hidden = self.encoder.vit(bank[:half].masked_fill(grid[:half], 0.0)[:, None]).last_hidden_state[:, 1:]
        error = (self.mask_head(hidden) - patches[:half]).square().mean(-1)
        reconstruction = (error * masked[:half]).sum() / masked[:half].sum()
        tokens = self.encoder.pool(self.encoder.contextual(bank[half:]))  # (B, 8, D)
        target = nn.functional.avg_pool2d(bank[half:, None], 4)[:, 0].reshape(-1, 8, 32 * 32)
        detail = (self.detail(tokens) - target).square().mean()
        semantic = nn.functional.cross_entropy(self.classify(tokens.mean(1)), label[half:])
        return {
            "loss": reconstruction + 8 * detail + 0.3 * semantic,
            "masked": reconstruction,
            "detail": detail,
            "class": semantic,
        }


def train_audiomae(preset: Preset, folder: Path, steps: int) -> AudioMAE:
    torch.manual_seed(preset.weights.seed)
    training = AudioMAETraining(AudioMAE(preset.encoders.audiomae))
    audio, label = waveforms(_CLIPS), classes(_CLIPS)
    rows = list(zip(range(steps), batches(_CLIPS, 24, 1), strict=False))

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number][1]
        with torch.no_grad():
            bank = training.encoder.spectrogram(audio[chosen].float())
        return training(bank, label[chosen])

    Fit("audiomae", folder, steps, 1.5e-3, average=0.99).run(training, step)
    return training.encoder


def train_vae(preset: Preset, folder: Path, steps: int) -> Any:
    """KL-regularised autoencoder of log-mels on crops of 2.56 s; ends by setting the latents' scale."""
    torch.manual_seed(preset.weights.seed + 2)
    vae: Any = AutoencoderKL(**preset.audioldm2.vae)
    with torch.no_grad():  # log-mels lie around -7: do not spend the first steps on an offset
        vae.decoder.conv_out.bias.fill_(-7.0)
    mel, audio = LogMel(), waveforms(_CLIPS)
    rows = list(zip(range(steps), batches(_CLIPS, 24, 2), strict=False))

    def step(number: int) -> dict[str, Tensor]:
        first = int(torch.randint(0, 768, ())) * 160
        target = mel(audio[rows[number][1], first : first + 256 * 160].float(), 256)[:, None]
        posterior = vae.encode(target).latent_dist
        restored = vae.decode(posterior.sample()).sample
        error = (restored - target).abs().mean() + 0.2 * (restored - target).square().mean()
        divergence = posterior.kl().mean() / target[0].numel()
        return {"loss": error + 0.02 * divergence, "error": error, "divergence": divergence}

    Fit("vae", folder, steps, 2e-3, average=0.99).run(vae, step)
    with torch.no_grad():
        latents = vae.encode(mel(audio[:96].float())[:, None]).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return vae
