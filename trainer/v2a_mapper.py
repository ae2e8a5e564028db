"""V2A-Mapper (Wang et al., AAAI 2024, arXiv 2308.09300): diffusion over a sound's embedding, and its regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from diffusers import DDIMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import MistralConfig, MistralModel

from common.errors import PresetError
from pipeline.attention import UNPADDED
from presets.checks import STRICT, Number, Share
from trainer.mapper import Mapper, MapperSpec, error_per_clip


@dataclass(config=STRICT, frozen=True)
class V2AOptions:
    """``mapper.options`` of V2A-Mapper.

    ``variant``: diffusion, or the regression that the paper compares it with. ``condition_dropout``: the share of
    training clips whose visual embedding is replaced by a learned one that says nothing. ``guidance_scale``: of
    classifier-free guidance in prediction; 1 is none.
    """

    variant: Literal["diffusion", "regression"] = "diffusion"
    condition_dropout: Share = 0.1
    guidance_scale: Annotated[float, Number, Field(ge=0, le=1000)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> V2AOptions:
        if self.guidance_scale != 1 and (self.variant == "regression" or not self.condition_dropout):
            raise ValueError(
                f"mapper.options.guidance_scale is {self.guidance_scale:g}, and must be 1 for the variant regression "
                f"and where condition_dropout is 0: nothing was learned without the picture"
            )
        return self


class V2AMapper(Mapper):
    """[t, visual embedding, noisy C_t, learned token] through a causal transformer; the last state predicts C.

    The visual embedding is the mean over time of each encoder's features, brought to a root mean square of 1. Like
    DALL-E 2's prior, which it follows, it predicts the clean C_0, and targets are scaled to a root mean square of 1:
    for L2-normalised ones that is the prior's factor, the root of their width. Where the targets are of unit length, so
    are predictions. A target of several vectors has as many noisy and learned tokens. Without time and noise it is
    the regression.
    """

    Options = V2AOptions
    options: V2AOptions
    prediction_options: ClassVar = ("guidance_scale",)
    target_scale: Tensor

    def __init__(self, spec: MapperSpec):
        super().__init__(spec)
        config, (steps, target) = spec.mapper, spec.target
        width = config.width
        self.names = list(config.encoders)
        self.visual = _projection(sum(spec.dimensions[name] for name in self.names), width)
        self.transformer = _transformer(spec)
        self.tokens = nn.Parameter(0.02 * torch.randn(steps, width))
        self.output = nn.Linear(width, target, bias=False)
        mean, std = spec.statistics.get("mean", 0.0), spec.statistics.get("std", 1.0)
        square = mean**2 + std**2
        self.unit_length = abs(square * target - 1) < 0.01
        self.register_buffer("target_scale", torch.tensor(square**-0.5))
        self.diffuses = self.options.variant == "diffusion"
        if self.diffuses:
            self.nothing = nn.Parameter(0.02 * torch.randn(width))
            self.noisy = _projection(target, width)
            self.time = nn.Embedding(config.diffusion_steps, width)
            with torch.no_grad():  # steps that are neighbours begin alike, or rare ones would be learned one by one
                times = torch.arange(config.diffusion_steps)
                self.time.weight.copy_(get_timestep_embedding(times, width, flip_sin_to_cos=True))
            self.scheduler = _schedule(config.diffusion_steps)

    def embedding(self, visual: Mapping[str, Tensor]) -> Tensor:
        """The visual streams (B, T, D) as one token, (B, width)."""
        means = [visual[name].float().mean(dim=1) for name in self.names]
        return self.visual(torch.cat([nn.functional.rms_norm(mean, mean.shape[-1:]) for mean in means], dim=-1))

    def denoise(self, embedding: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Noisy scaled targets (B, T_c, D_c) at times (B,), and the visual token (B, width) -> the clean ones."""
        return self._read(self.time(times)[:, None], embedding[:, None], self.noisy(noisy))

    def regress(self, embedding: Tensor) -> Tensor:
        """The visual token (B, width) -> scaled targets (B, T_c, D_c)."""
        return self._read(embedding[:, None])

    def _read(self, *parts: Tensor) -> Tensor:
        """Tokens, (B, ..., width) each -> what the learned ones after them predict, (B, T_c, D_c)."""
        sequence = torch.cat([*parts, self.tokens.expand(len(parts[0]), -1, -1)], dim=1)
        hidden = self.transformer(inputs_embeds=sequence, use_cache=False).last_hidden_state
        return self.output(hidden[:, -len(self.tokens) :]).float()

    def losses(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Error of the predicted clean target, at a random time for each clip."""
        embedding = self.embedding(visual)
        if not self.diffuses:
            predicted = self.regress(embedding)
        else:
            if self.training:
                dropped = torch.rand(len(target), 1, device=target.device) < self.options.condition_dropout
                embedding = torch.where(dropped, self.nothing, embedding)
            clean = target * self.target_scale
            times = torch.randint(0, self.spec.mapper.diffusion_steps, (len(clean),), device=clean.device)
            noisy = self.scheduler.add_noise(clean, torch.randn_like(clean), times)
            predicted = self.denoise(embedding, noisy, times)
        return error_per_clip(predicted / self.target_scale, target, self.spec.loss)

    @torch.no_grad()
    def predict(self, visual: Mapping[str, Tensor], seeds: Sequence[int] | None = None) -> Tensor:
        """DDIM from noise that follows from a clip's seed; without ``seeds`` all clips have the same."""
        embedding = self.embedding(visual)
        clean = self._sampled(embedding, seeds or [0] * len(embedding)) if self.diffuses else self.regress(embedding)
        predicted = clean / self.target_scale
        return nn.functional.normalize(predicted, dim=-1) if self.unit_length else predicted

    def sample(self, visual: Mapping[str, Tensor], seeds: Sequence[int]) -> Tensor:
        return self.predict(visual, seeds)

    def _sampled(self, embedding: Tensor, seeds: Sequence[int]) -> Tensor:
        scale, device = self.options.guidance_scale, embedding.device
        noises = {seed: torch.randn(self.spec.target, generator=torch.Generator().manual_seed(seed)) for seed in seeds}
        latents = torch.stack([noises[seed] for seed in seeds]).to(device)
        nothing = self.nothing.expand_as(embedding)
        scheduler = _schedule(self.spec.mapper.diffusion_steps)  # its numbers stay on the host: no device waits
        scheduler.set_timesteps(self.spec.mapper.sampling_steps)
        times = scheduler.timesteps.to(device)
        for time, there in zip(scheduler.timesteps, times, strict=True):
            at = there.expand(len(latents))
            clean = self.denoise(embedding, latents, at)
            if scale != 1:
                without = self.denoise(nothing, latents, at)
                clean = without + scale * (clean - without)
            latents = scheduler.step(clean, time, latents).prev_sample
        return latents


def _projection(size: int, width: int) -> nn.Module:
    """To the width of the transformer, if it is another: at the published size none is needed."""
    return nn.Identity() if size == width else nn.Linear(size, width)


def _transformer(spec: MapperSpec) -> MistralModel:
    """The open priors' kind: pre-norm, rotary positions, one head of keys and values for all, gated feed-forward."""
    config = spec.mapper
    head = config.head_width or config.width // config.heads
    if head % 2:
        raise PresetError(
            f"mapper.head_width is {head}, and must be even for a mapper of kind '{config.kind}': rotary positions "
            f"turn values in pairs"
        )
    transformer = MistralModel(
        MistralConfig(
            vocab_size=1,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=1,
            head_dim=head,
            max_position_embeddings=2 + 2 * spec.target[0],
            sliding_window=None,
            attention_dropout=config.dropout,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation=UNPADDED,
        )
    )
    transformer.embed_tokens = nn.Identity()  # it reads no words
    return transformer


def _schedule(steps: int) -> Any:
    return DDIMScheduler(
        num_train_timesteps=steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )
