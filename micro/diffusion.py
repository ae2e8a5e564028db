"""The UNet of AudioLDM-2-micro, on latents and conditions computed beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AudioLDM2UNet2DConditionModel, DDIMScheduler
from torch import Tensor

from generate.audioldm2 import Conditioning
from generate.mel import LogMel
from micro.data import batches
from micro.fit import Fit
from pipeline.encoders.audiomae import AudioMAE
from presets import Preset

_DROP = 0.1


@torch.no_grad()
def encode_tokens(encoder: AudioMAE, audio: Tensor, batch: int = 48) -> Tensor:
    """Normalised waveforms (N, 163840) -> pooled AudioMAE tokens (N, 8, D)."""
    return torch.cat([encoder.encode_normalised(part.float()).clone() for part in audio.split(batch)])


@torch.no_grad()
def encode_latents(vae: Any, audio: Tensor, batch: int = 24) -> Tensor:
    """Waveforms -> scaled latents (N, C, 128, 8)."""
    mel = LogMel()
    return torch.cat([vae.encode(mel(part.float())[:, None]).latent_dist.mean for part in audio.split(batch)]) * float(
        vae.config.scaling_factor
    )


def train_unet(
    preset: Preset,
    folder: Path,
    latents: Tensor,
    tokens: Tensor,
    texts: tuple[Tensor, Tensor],
    label: Tensor,
    negative: Conditioning,
    steps: int,
    batch: int = 16,
) -> Any:
    """``texts``: embeddings (classes, L, D_t) and mask (classes, L). A dropped condition is the negative one.

    Tokens are blurred by noise of up to half their spread: at generation they come from a mapper, which
    predicts means, not from AudioMAE.
    """
    torch.manual_seed(preset.weights.seed + 1)
    unet: Any = AudioLDM2UNet2DConditionModel(**preset.audioldm2.unet)
    scheduler: Any = DDIMScheduler(**preset.audioldm2.scheduler)
    rows = list(zip(range(steps), batches(len(latents), batch, 3), strict=False))
    spread = float(tokens.std(0).mean())
    length = max(texts[0].shape[1], negative.text.shape[1])
    every = Conditioning(tokens[: len(texts[0])], *texts).padded(length)
    negative = negative.padded(length)

    def step(number: int) -> dict[str, Tensor]:
        chosen = rows[number][1]
        clean, kind = latents[chosen], label[chosen]
        dropped = torch.rand(len(chosen), 1, 1) < _DROP
        blur = torch.rand(len(chosen), 1, 1) * 0.5 * spread
        condition = torch.where(dropped, negative.tokens, tokens[chosen] + blur * torch.randn(tokens[chosen].shape))
        text = torch.where(dropped, negative.text, every.text[kind])
        mask = torch.where(dropped[:, 0], negative.mask, every.mask[kind])
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(chosen),))
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, times)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, times)
        predicted = unet(
            noisy,
            times,
            encoder_hidden_states=condition,
            encoder_hidden_states_1=text,
            encoder_attention_mask_1=mask,
            return_dict=False,
        )[0]
        return {"loss": (predicted - target).square().mean()}

    Fit("unet", folder, steps, 1.5e-3, warmup=200, average=0.998).run(unet, step)
    return unet
