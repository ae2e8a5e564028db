"""Settings of the audio models. Nothing here imports torch: loading a preset takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from presets.audio_models import AudioModelConfig
from presets.checks import STRICT, Arguments, short
from presets.official import AUDIOLDM2

if TYPE_CHECKING:
    from presets.config import GenerationConfig


@dataclass(config=STRICT, frozen=True)
class AudioLDM2Config(AudioModelConfig):
    """Keyword arguments of the diffusers and transformers classes AudioLDM-2 is made of."""

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

    unet: Arguments = Field(default_factory=dict)
    vae: Arguments = Field(default_factory=dict)
    vocoder: Arguments = Field(default_factory=dict)
    scheduler: Arguments = Field(default_factory=dict)
    language_model: Arguments = Field(default_factory=dict)
    clap: Arguments = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_schedule(self) -> AudioLDM2Config:
        length, offset = self._schedule
        if not (type(length) is type(offset) is int and 0 <= offset < length):
            raise ValueError(
                f"audio_models.audioldm2.scheduler.num_train_timesteps is {short(length)} and steps_offset "
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
