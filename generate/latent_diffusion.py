"""Sampling of paper section 4.1.2: a UNet denoises latents with guidance, a VAE and a vocoder make them sound."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from generate.audio_model import AudioModel
from generate.schedulers import Steps, build_scheduler
from pipeline.encoders.base import Precision
from presets.config import GenerationConfig


class Condition(Protocol):
    """What the UNet is conditioned on, for each clip of a batch."""

    def expand(self, batch: int) -> Self:
        """Of one clip, for each of ``batch``."""
        ...

    def filled(self, rows: int) -> Self:
        """With the last clip repeated up to ``rows``."""
        ...


def fill_rows(values: Tensor, rows: int) -> Tensor:
    """(B, ...) with the last row repeated up to ``rows``; nothing is cut."""
    extra = rows - len(values)
    return values if extra <= 0 else torch.cat([values, values[-1:].expand(extra, *values.shape[1:])])


class LatentDiffusion(AudioModel):
    """Condition and noise -> latents -> mel spectrogram -> waveform, by the classes of diffusers.

    ``mel_shape``: frames and bins of a clip's spectrogram; ``mel_seconds``: of one frame.
    """

    mel_shape: ClassVar[tuple[int, int]]
    mel_seconds: ClassVar[float]

    def __init__(self, unet: Any, vae: Any, vocoder: Any, scheduler: Any, fingerprint: str, label_encoder: Any = None):
        super().__init__(fingerprint, label_encoder)
        self.unet, self.vae, self.vocoder, self.scheduler = unet, vae, vocoder, scheduler
        self.precision: Precision = "float32"
        self.compiled = False

    @abstractmethod
    def condition(self, tokens: Tensor, labels: Sequence[str]) -> Condition:
        """What the UNet is conditioned on: tokens (B, T_c, D_c) of the mapper, and labels where it reads any."""

    @abstractmethod
    def negative(self, prompt: str) -> Condition:
        """What guidance leads away from, of one clip."""

    @abstractmethod
    def unet_arguments(self, negative: Any, positive: Any) -> dict[str, Any]:
        """The UNet's keyword arguments for both sides of the guidance, each of B clips: (2 B, ...)."""

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.unet.parameters()).device
        return device

    @property
    def sample_rate(self) -> int:
        return int(self.vocoder.config.sampling_rate)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        scale, (frames, bins) = 2 ** (len(self.vae.config.block_out_channels) - 1), self.mel_shape
        return self.unet.config.in_channels, frames // scale, bins // scale

    @property
    def latent_seconds(self) -> float:
        return self.mel_shape[0] * self.mel_seconds / self.latent_shape[1]

    @property
    def static_shapes(self) -> bool:
        """Whether every batch is given the same few shapes: where a new one costs a compilation, a graph, a plan."""
        return self.compiled or self.device.type != "cpu"

    def compile(self, **options: Any) -> None:
        """``torch.compile`` the UNet, in place: on CUDA as CUDA graphs. A shape is compiled when it first comes.

        ``options`` win over ours.
        """
        ours: dict[str, Any] = {"mode": "reduce-overhead"} if self.device.type == "cuda" else {}
        self.unet.compile(**{"dynamic": False, **ours, **options})
        self.compiled = True

    def synthesise(
        self,
        tokens: Tensor,
        labels: Sequence[str],
        noise: Tensor,
        seeds: Sequence[int],
        samples: int,
        generation: GenerationConfig,
        rows: int = 0,
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        latents = self.denoise(
            self.condition(tokens, labels),
            self.negative(generation.negative_prompt),
            noise,
            steps=generation.steps,
            guidance_scale=generation.guidance_scale,
            eta=generation.eta,
            seeds=seeds,
            scheduler_name=generation.scheduler,
            rows=rows,
            on_step=on_step,
        )
        return self.decode_on_device(latents, samples, generation.decode_batch)

    @torch.inference_mode()
    def denoise(
        self,
        positive: Condition,
        negative: Condition,
        latents: Tensor,
        *,
        steps: int,
        guidance_scale: float,
        eta: float = 0.0,
        seeds: Sequence[int] | None = None,
        scheduler_name: str = "DDIMScheduler",
        rows: int = 0,
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Latents (B, C, H, W) from noise; ``negative`` is of one clip.

        ``seeds`` (B,): of the noise that steps add, where the scheduler adds any; without them it depends on the
        batch. The host waits for the device nowhere, so it may be many steps ahead. With :attr:`static_shapes` a
        smaller batch is filled up to ``rows``, which are cut off again.
        """
        batch, seeds = len(latents), None if seeds is None else list(seeds)
        if self.static_shapes:
            latents, positive = fill_rows(latents, rows), positive.filled(rows)
            seeds = None if seeds is None else seeds + seeds[-1:] * (len(latents) - batch)
        condition = self.unet_arguments(negative.expand(len(latents)), positive)
        scheduler = build_scheduler(scheduler_name, self.scheduler.config)
        run = Steps(scheduler, steps, latents.device, eta, seeds)
        latents = latents * scheduler.init_noise_sigma
        dtype = getattr(torch, self.precision)
        graphs = self.compiled and latents.device.type == "cuda"
        with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
            for time, time_on_device in run:
                model_input = scheduler.scale_model_input(torch.cat([latents, latents]), time)
                if graphs:  # from here on the memory of the last output is the graph's again
                    torch.compiler.cudagraph_mark_step_begin()
                noise = self.unet(model_input, time_on_device, **condition, return_dict=False)[0]
                unconditional, conditional = noise.float().chunk(2)
                # New memory: what schedulers keep of earlier steps must not be a CUDA graph's, which is overwritten.
                noise = unconditional + guidance_scale * (conditional - unconditional)
                latents = run.step(noise, time, latents)
                on_step()
        return latents[:batch]

    def decode(self, latents: Tensor, samples: int, batch: int = 4) -> Tensor:
        """Latents -> mel -> waveform (B, samples), float32 on the CPU; ``batch`` clips at a time."""
        return self.decode_on_device(latents, samples, batch).cpu()

    @torch.inference_mode()
    def decode_on_device(self, latents: Tensor, samples: int, batch: int = 4) -> Tensor:
        """As :meth:`decode`, on the device of the latents: the host waits for nothing."""
        waveforms = []
        for part in latents.split(batch):
            mel = self.vae.decode(part / self.vae.config.scaling_factor).sample
            waveforms.append(self.vocoder(mel.squeeze(1))[:, :samples].float())
        return torch.cat(waveforms)
