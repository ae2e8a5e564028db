"""Settings of the audio models. Nothing here imports torch: loading a preset takes them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from common.errors import InputError
from presets.audio_models import AudioModelConfig
from presets.checks import STRICT, Arguments, short
from presets.config import GenerationConfig
from presets.official import AUDIOLDM2, Repository

AUDIOLDM = Repository("audioldm", "cvssp/audioldm-s-full-v2", "CC BY-NC-SA 4.0 (AudioLDM)", folder="audioldm-s-full-v2")


@dataclass(config=STRICT, frozen=True)
class LatentDiffusionConfig(AudioModelConfig):
    """Settings of a :class:`generate.latent_diffusion.LatentDiffusion`: arguments of the classes of its parts.

    ``name``: as the preset calls it.
    """

    name: ClassVar[str]

    unet: Arguments = Field(default_factory=dict)
    vae: Arguments = Field(default_factory=dict)
    vocoder: Arguments = Field(default_factory=dict)
    scheduler: Arguments = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_schedule(self) -> Self:
        length, offset = self._schedule
        if not (type(length) is type(offset) is int and 0 <= offset < length):
            raise ValueError(
                f"audio_models.{self.name}.scheduler.num_train_timesteps is {short(length)} and steps_offset "
                f"{short(offset)}, and they must be whole numbers, the second from 0 to below the first"
            )
        return self

    @property
    def _schedule(self) -> tuple[Any, Any]:
        return self.scheduler.get("num_train_timesteps", 1000), self.scheduler.get("steps_offset", 0)

    @property
    def most_steps(self) -> int:
        """The noise schedule has no more."""
        length, offset = self._schedule
        return int(length - offset)

    def check(self, generation: GenerationConfig) -> None:
        from generate.schedulers import check_scheduler

        check_scheduler(generation.scheduler, self.scheduler, generation.steps)


@dataclass(config=STRICT, frozen=True)
class AudioLDM2Config(LatentDiffusionConfig):
    """Keyword arguments of the diffusers and transformers classes AudioLDM-2 is made of."""

    name: ClassVar = "audioldm2"
    loader: ClassVar = "generate.audioldm2_loader:load_audioldm2"
    tokens: ClassVar = 8
    labels: ClassVar = "flan_t5"
    files: ClassVar = (
        AUDIOLDM2.part("unet", 1.4),
        AUDIOLDM2.part("vae", 0.2),
        AUDIOLDM2.part("vocoder", 0.2),
        AUDIOLDM2.part("scheduler", 0.001),
        AUDIOLDM2.part("language_model", 0.5),
        AUDIOLDM2.part("projection_model", 0.01),
        AUDIOLDM2.part("text_encoder", 0.8),
        AUDIOLDM2.part("tokenizer", 0.01),
    )

    language_model: Arguments = Field(default_factory=dict)
    clap: Arguments = Field(default_factory=dict)


@dataclass(config=STRICT, frozen=True)
class AudioLDMConfig(LatentDiffusionConfig):
    """Keyword arguments of the diffusers and transformers classes AudioLDM is made of.

    ``clap``: of the text half of CLAP. ``negative``: what guidance leads away from. ``prompt``, as ``AudioLDMPipeline``
    does it: CLAP's L2-normalised embedding of ``generation.negative_prompt``, of which "" is AudioLDM's own. ``zeros``:
    a vector of zeros, for a UNet that was trained with zeros in place of the embedding of a clip left out (the small
    models'); it needs no ``text_encoder`` and ``tokenizer``, and a prompt other than the default or "" is refused.
    """

    name: ClassVar = "audioldm"
    loader: ClassVar = "generate.audioldm:load_audioldm"
    tokens: ClassVar = 1
    files: ClassVar = (
        AUDIOLDM.part("unet", 0.74),
        AUDIOLDM.part("vae", 0.22),
        AUDIOLDM.part("vocoder", 0.22),
        AUDIOLDM.part("scheduler", 0.001),
        AUDIOLDM.part("text_encoder", 0.5),
        AUDIOLDM.part("tokenizer", 0.004),
    )

    clap: Arguments = Field(default_factory=dict)
    negative: Literal["prompt", "zeros"] = "prompt"

    @property
    def reads_negative_prompt(self) -> bool:
        return self.negative == "prompt"

    def check(self, generation: GenerationConfig) -> None:
        super().check(generation)
        prompt = generation.negative_prompt
        # The default stands in presets and records that say nothing of a prompt.
        if not self.reads_negative_prompt and prompt not in ("", GenerationConfig().negative_prompt):
            raise InputError(
                f"generation.negative_prompt is '{short(prompt)}', and nothing reads it: "
                f"audio_models.{self.name}.negative is {self.negative}"
            )
