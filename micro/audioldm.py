"""The UNet of AudioLDM-micro, on the latents that AudioLDM-2-micro learns and CLAP-micro's embeddings of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from micro.data import rows_of
from micro.fit import Fit, Machine
from presets import Preset

_BATCH, _VALIDATION = 16, 96
_DROP, _BLUR = 0.1, 0.25


def train_audioldm(
    preset: Preset,
    folder: Path,
    latents: Tensor,
    embeddings: Tensor,
    steps: int,
    machine: Machine,
) -> Any:
    """``latents`` (N, C, H, W) and CLAP embeddings (N, D) of the training sounds.

    As AudioLDM (Liu et al. 2023) is trained: on the embedding of the sound itself. For one clip in ten it is left out,
    which the setting ``negative: zeros`` of its preset says is told by zeros. It is blurred by noise of up to a quarter
    of its spread: at generation it comes from a mapper.
    """
    torch.manual_seed(preset.weights.seed + 13)
    config, device = preset.audio_models.audioldm, machine.device
    unet: Any = UNet2DConditionModel(**config.unet)
    scheduler: Any = DDIMScheduler(**config.scheduler)
    if torch.device(device).type == "cpu":
        # In bfloat16 there, torch 2.13's strided convolution of (4, 48, 32, 2) gives NaN for finite numbers.
        machine = Machine(device)
    latents, embeddings = latents.to(device), embeddings.to(device)
    count = len(latents) - _VALIDATION  # the last ones are not trained on
    rows = rows_of(steps, count, _BATCH, 13)
    spread = embeddings[:count].std(0).mean()
    last = scheduler.config.num_train_timesteps - 1

    def error(clean: Tensor, condition: Tensor) -> Tensor:
        # More often in strong noise, where only the condition tells what to make.
        times = (torch.rand(len(clean), device=device).sqrt() * (last + 1)).long().clamp(max=last)
        noise = torch.randn_like(clean)
        noisy = scheduler.add_noise(clean, noise, times)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, times)
        predicted = unet(noisy, times, encoder_hidden_states=None, class_labels=condition, return_dict=False)[0]
        return (predicted - target).square().mean()

    chosen = torch.zeros(_BATCH, dtype=torch.long, device=device)

    def choose(number: int) -> dict[str, Tensor]:
        chosen.copy_(rows[number])
        return {}

    def step() -> dict[str, Tensor]:
        heard = embeddings[chosen]
        blur = _BLUR * spread * torch.rand(_BATCH, 1, device=device)
        condition = nn.functional.normalize(heard + blur * torch.randn_like(heard), dim=-1)
        kept = torch.rand(_BATCH, 1, device=device) >= _DROP
        return {"loss": error(latents[chosen], condition * kept)}

    def held_out() -> dict[str, Tensor]:
        return {"loss": error(latents[count:], embeddings[count:])}

    fit = Fit("audioldm", folder, steps, 1.5e-3, warmup=200, average=0.998, machine=machine)
    fit.run(unet, choose, held_out, graph=step)
    return unet.cpu()
