"""AudioLDM-2 driven by the mapper: conditioning, DDIM with classifier-free guidance, VAE, vocoder.

The components are diffusers' and transformers' own classes, loaded from a local diffusers folder
(``cvssp/audioldm2``) or built at a preset's sizes with seeded weights. Only what is needed is loaded:
of CLAP its text half, and that only to compute the negative condition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    DDIMScheduler,
)
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    ClapTextConfig,
    ClapTextModelWithProjection,
    DynamicCache,
    GPT2Config,
    GPT2Model,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from generate.attention import reusing_keys
from generate.kept import keep, read_kept
from generate.mel import MEL_BINS, MEL_FRAMES, GriffinLim
from generate.schedulers import Steps, build_scheduler, name_seed
from pipeline.encoders import load_encoder
from pipeline.encoders.base import Precision, cast_matrices, fill_official
from pipeline.encoders.checkpoints import sha256_file, sha256_state
from pipeline.encoders.flan_t5 import FlanT5, byte_tokenizer
from pipeline.errors import PresetError, WeightsError
from pipeline.hub import audioldm2_folder
from presets import Preset

TOKENS = 8  # pooled AudioMAE vectors a clip

SOURCE = "https://huggingface.co/cvssp/audioldm2 (CC BY-NC-SA 4.0: non-commercial, share alike)"
COMPONENTS = ("unet", "vae", "vocoder", "scheduler", "text_encoder_2", "tokenizer_2")
_NEGATIVE_ONLY = ("text_encoder", "tokenizer", "projection_model", "language_model")


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


class NegativeEncoder(nn.Module):
    """AudioLDM-2's own way from a prompt to its 8 tokens: CLAP + FLAN-T5 -> projection -> GPT-2."""

    def __init__(self, clap: Any, tokenizer: Any, projection_model: Any, language_model: Any):
        super().__init__()
        self.clap, self.tokenizer = clap, tokenizer
        self.projection_model, self.language_model = projection_model, language_model

    @torch.inference_mode()
    def forward(self, prompt: str, text: Tensor, mask: Tensor) -> Tensor:
        """Prompt and its FLAN-T5 embeddings (1, L, D_t) -> tokens (1, 8, D).

        Our own cached loop: diffusers' ``generate_language_model`` fails for GPT2Model on
        transformers 5 (diffusers issue 12630).
        """
        tokens = self.tokenizer([prompt], return_tensors="pt", truncation=True).to(text.device)
        clap = self.clap(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        projected = self.projection_model(
            hidden_states=nn.functional.normalize(clap, dim=-1)[:, None],
            hidden_states_1=text,
            attention_mask=mask.new_ones((1, 1)),
            attention_mask_1=mask,
        )
        return run_language_model(self.language_model, projected.hidden_states, projected.attention_mask)


def run_language_model(model: GPT2Model, inputs: Tensor, mask: Tensor, steps: int = TOKENS) -> Tensor:
    """Feed GPT-2's own last state back, keys and values kept: (B, S, D) -> (B, steps, D)."""
    memory, outputs = DynamicCache(), []
    for _ in range(steps):
        hidden = model(inputs_embeds=inputs, attention_mask=mask, past_key_values=memory).last_hidden_state
        inputs = hidden[:, -1:]
        outputs.append(inputs)
        mask = nn.functional.pad(mask, (0, 1), value=1)
    return torch.cat(outputs, dim=1)


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
        reuse_keys: bool = True,
        on_step: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Latents (B, C, H, W) from noise, with classifier-free guidance (paper section 4.1.2).

        ``reuse_keys``: keys and values of the condition are computed in the first step and kept. ``seeds`` (B,):
        of the noise that steps add, where the scheduler adds any; without them it depends on the batch. The host
        waits for the device nowhere, so it may be many steps ahead.
        """
        batch = len(latents)
        length = max(positive.text.shape[1], negative.text.shape[1])
        sides = negative.expand(batch).padded(length), positive.padded(length)
        tokens, text, mask = (torch.cat([getattr(side, name) for side in sides]) for name in ("tokens", "text", "mask"))
        scheduler = build_scheduler(scheduler_name, self.scheduler.config)
        run = Steps(scheduler, steps, latents.device, eta, seeds)
        latents = latents * scheduler.init_noise_sigma
        dtype = getattr(torch, self.precision)
        mixed = torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32)
        # Kept keys are state beside the graph: a compiled UNet would be compiled again at every call.
        with reusing_keys(self.unet, enabled=reuse_keys and not self.compiled), mixed:
            for time, time_on_device in run:
                model_input = scheduler.scale_model_input(torch.cat([latents, latents]), time)
                noise = self.unet(
                    model_input,
                    time_on_device,
                    encoder_hidden_states=tokens,
                    encoder_hidden_states_1=text,
                    encoder_attention_mask_1=mask,
                    return_dict=False,
                )[0]
                unconditional, conditional = noise.float().chunk(2)
                noise = unconditional + guidance_scale * (conditional - unconditional)
                latents = run.step(noise, time, latents)
                on_step()
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor, samples: int, batch: int = 4) -> Tensor:
        """Latents -> mel -> waveform (B, samples), float32 on the CPU; ``batch`` clips at a time."""
        waveforms = []
        for part in latents.split(batch):
            mel = self.vae.decode(part / self.vae.config.scaling_factor).sample
            waveforms.append(self.vocoder(mel.squeeze(1))[:, :samples].float().cpu())
        return torch.cat(waveforms)


def _generator(clip_id: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(name_seed(clip_id, seed))


def _build(preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    """Components at the preset's sizes with seeded weights; the negative branch waits until it is used."""
    config = preset.audioldm2
    width, text = preset.encoders.audiomae.width, preset.encoders.flan_t5.width
    seed = preset.weights.seed

    def seeded(name: str, make: Callable[[], Any], offset: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + offset)
            try:
                return make()
            except Exception as error:  # whatever diffusers and transformers say to sizes that do not fit
                raise PresetError(f"audioldm2.{name} describes no model: {str(error).strip()[:400]}") from error

    def negative() -> NegativeEncoder:
        tokenizer = byte_tokenizer(preset.encoders.flan_t5.max_tokens)
        words = max(512, len(tokenizer))
        clap = seeded("clap", lambda: ClapTextModelWithProjection(ClapTextConfig(**config.clap, vocab_size=words)), 5)
        return NegativeEncoder(
            clap,
            tokenizer,
            seeded("clap", lambda: AudioLDM2ProjectionModel(clap.config.projection_dim, text, width), 6),
            seeded("language_model", lambda: GPT2Model(GPT2Config(**config.language_model)), 7),
        ).requires_grad_(False)

    parts = {
        "unet": seeded("unet", lambda: AudioLDM2UNet2DConditionModel(**config.unet), 1),
        "vae": seeded("vae", lambda: AutoencoderKL(**config.vae), 2),
        "vocoder": seeded("vocoder", lambda: _build_vocoder(config.vocoder), 3),
        "flan_t5": load_encoder("flan_t5", preset=preset),
        "scheduler": seeded("scheduler", lambda: DDIMScheduler(**config.scheduler), 4),
    }
    return parts, negative


def _build_vocoder(config: dict[str, Any]) -> Any:
    """HiFi-GAN, or Griffin-Lim where ``_class_name`` says so."""
    if config.get("_class_name") == GriffinLim.__name__:
        return GriffinLim(**{k: v for k, v in config.items() if k != "_class_name"})
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**config))


def _vocoder_kind(folder: Path) -> Any:
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        name = None  # the loader below says what is wrong
    return GriffinLim if name == GriffinLim.__name__ else SpeechT5HifiGan


def _load(folder: Path, preset: Preset) -> tuple[dict[str, Any], Callable[[], NegativeEncoder]]:
    def part(kind: Any, name: str) -> Any:
        dtype = {"torch_dtype": torch.float32} if issubclass(kind, nn.Module) else {}
        try:
            return kind.from_pretrained(folder / name, local_files_only=True, **dtype)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(f"{folder / name} cannot be loaded: {str(error)[:400]}") from error

    def negative() -> NegativeEncoder:
        if missing := [name for name in _NEGATIVE_ONLY if not (folder / name).is_dir()]:
            raise WeightsError(f"{folder} lacks {', '.join(missing)}, needed for the negative prompt; from {SOURCE}")
        return NegativeEncoder(
            part(ClapTextModelWithProjection, "text_encoder"),
            part(AutoTokenizer, "tokenizer"),
            part(AudioLDM2ProjectionModel, "projection_model"),
            part(GPT2Model, "language_model"),
        ).requires_grad_(False)

    flan_t5 = FlanT5(preset.encoders.flan_t5)
    fill_official(flan_t5, {name: folder / name for name in ("text_encoder_2", "tokenizer_2")})
    parts = {
        "unet": part(AudioLDM2UNet2DConditionModel, "unet"),
        "vae": part(AutoencoderKL, "vae"),
        "vocoder": part(_vocoder_kind(folder / "vocoder"), "vocoder"),
        "scheduler": part(DDIMScheduler, "scheduler"),
        "flan_t5": flan_t5,
    }
    return parts, negative


def _fingerprint(parts: dict[str, Any], folder: Path | None) -> str:
    digest = hashlib.sha256()
    for name in ("unet", "vae", "vocoder"):
        if folder is None:
            digest.update(sha256_state(parts[name].state_dict()).encode())
        else:
            for path in sorted((folder / name).glob("*")):
                digest.update(f"{name}/{path.name}={sha256_file(path)}".encode())
    scheduler = {k: v for k, v in parts["scheduler"].config.items() if not k.startswith("_")}
    digest.update(json.dumps(scheduler, sort_keys=True, default=str).encode())
    digest.update(parts["flan_t5"].fingerprint.encode())
    return digest.hexdigest()[:32]


def _negative_fingerprint(preset: Preset, folder: Path | None) -> str:
    """What makes the negative tokens: files of the branch, or seed and sizes."""
    digest = hashlib.sha256()
    if folder is None:
        config = preset.audioldm2
        digest.update(json.dumps([preset.weights.seed, config.clap, config.language_model], default=str).encode())
    else:
        for name in _NEGATIVE_ONLY:
            for path in sorted((folder / name).glob("*")):
                digest.update(f"{name}/{path.name}={sha256_file(path)}".encode())
    return digest.hexdigest()[:32]


def load_audioldm2(
    preset: Preset, device: str | torch.device = "cpu", negatives: str | Path | None = None
) -> AudioLDM2:
    """AudioLDM-2 of a preset: seeded at its sizes, or the diffusers folder ``<weights.folder>/audioldm2``.

    ``negatives`` is a folder that keeps negative conditions between runs.
    Raises :class:`pipeline.errors.WeightsError` naming what is missing, its source and licence.
    """
    folder: Path | None = None
    if preset.weights.source == "seeded":
        parts, negative = _build(preset)
    else:
        folder = audioldm2_folder(preset, (*COMPONENTS, *_NEGATIVE_ONLY))
        if missing := [name for name in COMPONENTS if not (folder / name).is_dir()]:
            raise WeightsError(f"AudioLDM-2 is missing: {folder} lacks {', '.join(missing)}; get it from {SOURCE}")
        parts, negative = _load(folder, preset)
    fingerprint = _fingerprint(parts, folder)
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
        negative_fingerprint=lambda: _negative_fingerprint(preset, folder),
    )
    model.precision, model.compiled = preset.generation.precision, preset.generation.compile
    if model.compiled:
        model.unet.compile()
    return model
