"""Audio models by name, and what is known of one before it is loaded: its settings, what it takes, its files."""

from __future__ import annotations

from typing import Any, ClassVar

from common.registry import Registry
from presets.official import CheckpointFile
from presets.sections import Sections

# Name -> where its settings are, a dataclass derived from AudioModelConfig.
AUDIO_MODELS = Registry(
    "audio model",
    audioldm2="generate.settings:AudioLDM2Config",
    audioldm="generate.settings:AudioLDMConfig",
)


class AudioModelConfig:
    """The settings of an audio model, and what never changes of it.

    ``loader`` is where the function is that gives a :class:`generate.audio_model.AudioModel` from a preset, a device
    and a folder to keep things in between runs (or None), as ``"package.module:function"``. ``tokens``: how many
    vectors of the preset's ``target`` it takes for a clip; None: any number. ``labels``: the encoder of the labels
    that it reads; None: it reads none. ``files`` are the authors' own, besides those of that encoder.
    """

    loader: ClassVar[str]
    tokens: ClassVar[int | None] = None
    labels: ClassVar[str | None] = None
    files: ClassVar[tuple[CheckpointFile, ...]] = ()

    @property
    def most_steps(self) -> int | None:
        """How many steps it can be sampled with; None: any number."""
        return None

    @property
    def reads_negative_prompt(self) -> bool:
        """Whether ``generation.negative_prompt`` changes what it makes."""
        return True

    def check(self, generation: Any) -> None:
        """Raise :class:`common.errors.InputError` for settings of the section ``generation`` that it cannot follow."""


class AudioModelsConfig(Sections):
    """Settings of audio models by name."""

    registry = AUDIO_MODELS
