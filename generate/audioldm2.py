"""AudioLDM-2 driven by the mapper: conditioning, DDIM with classifier-free guidance, VAE, vocoder.

Its components are in :mod:`generate.components`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generate.components import (
    NegativeEncoder,
    build_components,
    find_folder,
    fingerprint_of,
    load_components,
    negative_fingerprint_of,
)
from generate.kept import keep, read_kept
from generate.mel import MEL_BINS, MEL_FRAMES
from generate.schedulers import Steps, build_scheduler, name_seed
from pipeline.encoders.base import Precision, cast_matrices
from pipeline.encoders.flan_t5 import FlanT5
from presets import Preset


@dataclass(frozen=True)
class Conditioning:
    """What the UNet attends to: ``tokens`` (B, 8, D), ``text`` (B, L, D_t), ``mask`` (B, L)."""

    tokens: Tensor
    text: Tensor
    mask: Tensor

    def expand(self, batch: int) -> Conditioning:
        return Conditioning(*(value.expand(batch, *value.shape[1:]) for value in (self.tokens, self.text, self.mask)))

    def padded(self, length: int) -> Conditioning:
        """The text padded with masked zeros: both sides of the guidance need the same length."""
        extra = length - self.text.shape[1]
        text = nn.functional.pad(self.text, (0, 0, 0, extra))
        return Conditioning(self.tokens, text, nn.functional.pad(self.mask, (0, extra)))

    def filled(self, rows: int) -> Conditioning:
        """With the last row repeated up to that many."""
        return Conditioning(*(fill_rows(value, rows) for value in (self.tokens, self.text, self.mask)))


def fill_rows(values: Tensor, rows: int) -> Tensor:
    """(B, ...) with the last row repeated up to ``rows``; nothing is cut."""
    extra = rows - len(values)
    return values if extra <= 0 else torch.cat([values, values[-1:].expand(extra, *values.shape[1:])])


def text_length(tokens: int) -> int:
    """The next of a few lengths, powers of two from 16: labels of any batch have one of them."""
    return max(16, 1 << (tokens - 1).bit_length())


class AudioLDM2:
    """Conditioning -> waveform. Build with :func:`load_audioldm2`."""

    def __init__(
        self,
        unet: Any,
        vae: Any,
        vocoder: Any,
        scheduler: Any,
        flan_t5: FlanT5,
        load_negative: Callable[[], NegativeEncoder],
        fingerprint: str,
        negatives: Path | None = None,
        negative_fingerprint: Callable[[], str] = lambda: "",
    ):
        self.unet, self.vae, self.vocoder, self.scheduler = unet, vae, vocoder, scheduler
        self.flan_t5, self.load_negative_branch, self.fingerprint = flan_t5, load_negative, fingerprint
        self.precision: Precision = "float32"
        self.compiled = False
        self.negatives, self._negative_fingerprint = negatives, negative_fingerprint
        self._negatives: dict[str, Conditioning] = {}
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

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

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.unet.config.in_channels, MEL_FRAMES // scale, MEL_BINS // scale

    @property
    def sample_rate(self) -> int:
        return int(self.vocoder.config.sampling_rate)

    def encode_labels(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """FLAN-T5 embeddings (B, L, D_t) and mask (B, L); each distinct label is encoded once."""
        for label in dict.fromkeys(labels):
            if label not in self._texts:
                text, mask = self.flan_t5.encode([label])
                self._texts[label] = text[0], mask[0]
        texts = nn.utils.rnn.pad_sequence([self._texts[label][0] for label in labels], batch_first=True)
        masks = nn.utils.rnn.pad_sequence([self._texts[label][1] for label in labels], batch_first=True)
        return texts, masks

    def remember_labels(self, labels: Sequence[str], features: Any, lengths: Any) -> None:
        """Take label embeddings (N, L, D_t) and lengths (N,) from the flan_t5 cache instead of computing them."""
        for label, feature, length in zip(labels, features, lengths, strict=True):
            text = torch.as_tensor(feature[: int(length)]).float().to(self.device)
            self._texts[label] = text, torch.ones(len(text), dtype=torch.long, device=self.device)

    def negative(self, prompt: str) -> Conditioning:
        """The negative condition, computed once a prompt: AudioLDM-2's own tokens and FLAN-T5.

        With a folder ``negatives`` it is kept there under the fingerprint of the weights that made it, and
        CLAP, projection and GPT-2 are not loaded again.
        """
        if prompt not in self._negatives:
            path = self._negative_path(prompt)
            kept = read_kept(path) if path is not None else None
            if kept is not None:
                stored = Conditioning(**kept)
            else:
                text, mask = self.flan_t5.encode([prompt])
                tokens = self.load_negative_branch().to(self.device).eval()(prompt, text, mask)
                stored = Conditioning(tokens, text, mask)
                if path is not None:
                    keep(path, vars(stored))
            self._negatives[prompt] = Conditioning(
                stored.tokens.to(self.device), stored.text.to(self.device), stored.mask.to(self.device)
            )
        return self._negatives[prompt]

    def _negative_path(self, prompt: str) -> Path | None:
        if self.negatives is None:
            return None
        made_by = f"{prompt}/{self.flan_t5.fingerprint}/{self._negative_fingerprint()}"
        return self.negatives / f"negative-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.safetensors"

    @property
    def latent_seconds(self) -> float:
        """What one row of the latents covers."""
        return MEL_FRAMES * 0.01 / self.latent_shape[1]

    def noise(self, clip_ids: Sequence[str], seed: int) -> Tensor:
        """Start noise (B, C, H, W) that follows from clip id and seed alone, whatever the batch."""
        noise = [torch.randn(self.latent_shape, generator=_generator(clip_id, seed)) for clip_id in clip_ids]
        return torch.stack(noise).to(self.device)

    def window_noise(self, clip_id: str, seed: int, starts: Iterable[int]) -> Iterator[Tensor]:
        """Start noise (C, H, W) of each window of one long clip, from latent row ``starts`` on (ascending).

        Where windows overlap, it is the same. Drawn as it is needed, so a film's length does not matter.
        """
        channels, rows, bins = self.latent_shape
        generator = _generator(clip_id, seed)
        held: list[Tensor] = []  # rows, each (C, bins); row by row, so that a longer film begins like a shorter one
        begin = 0
        for start in starts:
            lacking = start + rows - begin - len(held)
            held += [torch.randn((channels, bins), generator=generator) for _ in range(lacking)]
            held, begin = held[start - begin :], start
            yield torch.stack(held, 1).to(self.device)

    @torch.inference_mode()
    def denoise(
        self,
        positive: Conditioning,
        negative: Conditioning,
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
        """Latents (B, C, H, W) from noise, with classifier-free guidance (paper section 4.1.2).

        ``seeds`` (B,): of the noise that steps add, where the scheduler adds any; without them it depends on the
        batch. The host waits for the device nowhere, so it may be many steps ahead. With :attr:`static_shapes` the text
        is padded to :func:`text_length`, masked, and a smaller batch filled up to ``rows``, which are cut off again.
        """
        batch, seeds = len(latents), None if seeds is None else list(seeds)
        length = max(positive.text.shape[1], negative.text.shape[1])
        if self.static_shapes:
            length, latents, positive = text_length(length), fill_rows(latents, rows), positive.filled(rows)
            seeds = None if seeds is None else seeds + seeds[-1:] * (len(latents) - batch)
        sides = negative.expand(len(latents)).padded(length), positive.padded(length)
        tokens, text, mask = (torch.cat([getattr(side, name) for side in sides]) for name in ("tokens", "text", "mask"))
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
                noise = self.unet(
                    model_input,
                    time_on_device,
                    encoder_hidden_states=tokens,
                    encoder_hidden_states_1=text,
                    encoder_attention_mask_1=mask,
                    return_dict=False,
                )[0]
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


def _generator(clip_id: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(name_seed(clip_id, seed))


def load_audioldm2(
    preset: Preset, device: str | torch.device = "cpu", negatives: str | Path | None = None
) -> AudioLDM2:
    """AudioLDM-2 of a preset: seeded at its sizes, or the diffusers folder ``<weights.folder>/audioldm2``.

    ``negatives`` is a folder that keeps negative conditions between runs.
    Raises :class:`common.errors.WeightsError` naming what is missing, its source and licence.
    """
    folder = None if preset.weights.source == "seeded" else find_folder(preset)
    parts, negative = build_components(preset) if folder is None else load_components(folder, preset)
    fingerprint = fingerprint_of(parts, folder)
    cast_matrices(parts["unet"], preset.generation.precision)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.to(device).eval().requires_grad_(False)
    if preset.generation.channels_last:
        parts["unet"].to(memory_format=torch.channels_last)
    model = AudioLDM2(
        **parts,
        load_negative=negative,
        fingerprint=fingerprint,
        negatives=None if negatives is None else Path(negatives),
        negative_fingerprint=lambda: negative_fingerprint_of(preset, folder),
    )
    model.precision = preset.generation.precision
    if preset.generation.compile:
        model.compile()
    return model
