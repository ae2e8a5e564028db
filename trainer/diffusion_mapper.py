"""Diff-Mapper: the diffusion ablation of paper section 4.4.3, on the same GPT-2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from trainer.fusion import build_fusion
from trainer.gpt2 import build_gpt2, initialise_gpt2
from trainer.mapper import Mapper, MapperSpec, error_per_clip


class DiffusionMapper(Mapper):
    """[t, V_e, noisy C_t, learned tokens] through GPT-2; the states at the learned tokens predict C.

    Like the diffusion prior of V2A-Mapper it predicts the clean C_0, from which DDPM steps to C_{t-1}.
    Targets are scaled to unit variance with the statistics in the spec, so that noise and signal compare.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, spec: MapperSpec):
        super().__init__(spec)
        steps, width = spec.target
        self.fusion = build_fusion(spec)
        self.gpt2 = build_gpt2(spec, sequence=1 + self.fusion.length + 2 * steps)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noisy = nn.Linear(width, width)
        self.tokens = nn.Parameter(0.02 * torch.randn(steps, width))
        self.output = nn.Linear(width, width)
        self.register_buffer("target_mean", torch.tensor(spec.statistics.get("mean", 0.0)))
        self.register_buffer("target_std", torch.tensor(spec.statistics.get("std", 1.0)))
        self.scheduler: Any = DDPMScheduler(
            num_train_timesteps=spec.mapper.diffusion_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,
        )

    def initialise(self, source: str) -> None:
        """Its GPT-2 from :func:`trainer.gpt2.initialise_gpt2`."""
        initialise_gpt2(self.gpt2, source)

    def denoise(self, visual: Mapping[str, Tensor], noisy: Tensor, times: Tensor) -> Tensor:
        """Noisy scaled targets (B, T_c, D_c) at times (B,) -> the clean ones."""
        fused = self.fusion.fuse(visual)
        batch, steps = len(noisy), self.spec.target[0]
        embedded = get_timestep_embedding(times, noisy.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
        parts = [
            self.time(embedded)[:, None],
            fused,
            self.noisy(noisy),
            self.tokens.expand(batch, -1, -1),
        ]
        hidden = self.gpt2(inputs_embeds=torch.cat(parts, dim=1), use_cache=False).last_hidden_state
        return self.output(hidden[:, -steps:])

    def losses(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """DDPM training: a random time for each clip, error of the predicted clean target."""
        clean = (target - self.target_mean) / self.target_std
        noise = torch.randn_like(clean)
        times = torch.randint(0, self.spec.mapper.diffusion_steps, (len(clean),), device=clean.device)
        noisy = self.scheduler.add_noise(clean, noise, times)
        predicted = self.denoise(visual, noisy, times) * self.target_std + self.target_mean
        return error_per_clip(predicted, target, self.spec.loss)

    @torch.no_grad()
    def predict(self, visual: Mapping[str, Tensor], seed: int = 0) -> Tensor:
        """DDPM sampling from noise that is the same for every clip: a clip does not depend on its batch."""
        steps, width = self.spec.target
        first = next(iter(visual.values()))
        generator = torch.Generator().manual_seed(seed)

        def noise() -> Tensor:
            return torch.randn((1, steps, width), generator=generator).to(first.device).expand(len(first), -1, -1)

        scheduler: Any = DDPMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(self.spec.mapper.sampling_steps)
        latents = noise()
        for time in scheduler.timesteps:
            predicted = self.denoise(visual, latents, time.to(first.device).expand(len(first)))
            latents = posterior_step(scheduler, predicted.float(), time, latents.float(), noise)
        return (latents * self.target_std + self.target_mean).float()


def posterior_step(scheduler: Any, clean: Tensor, time: Tensor, noisy: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """One DDPM step from C_t and the predicted C_0 (Ho et al. 2020, equation 7).

    As ``DDPMScheduler.step``, but with noise of the caller's, which all clips of a batch share.
    """
    previous = scheduler.previous_timestep(time)
    alpha = scheduler.alphas_cumprod[time]
    alpha_previous = scheduler.alphas_cumprod[previous] if previous >= 0 else torch.tensor(1.0)
    current = alpha / alpha_previous
    mean = (alpha_previous.sqrt() * (1 - current) / (1 - alpha)) * clean + (
        current.sqrt() * (1 - alpha_previous) / (1 - alpha)
    ) * noisy
    if previous < 0:
        return mean
    variance = ((1 - alpha_previous) / (1 - alpha) * (1 - current)).clamp(min=1e-20)
    return mean + variance.sqrt() * noise()
