"""Encoders by name, and what is known of one before it is loaded: its settings, what it reads, its official files."""

from __future__ import annotations

from typing import ClassVar, Literal

from common.registry import Registry
from presets.official import CheckpointFile
from presets.sections import Sections

# Name -> where its settings are, a dataclass derived from EncoderConfig.
ENCODERS = Registry(
    "encoder",
    cavp="pipeline.encoders.settings:CAVPConfig",
    timechat="pipeline.encoders.settings:TimeChatConfig",
    audiomae="pipeline.encoders.settings:AudioMAEConfig",
    flan_t5="pipeline.encoders.settings:FlanT5Config",
    clip="pipeline.encoders.clip_settings:CLIPConfig",
    clap="pipeline.encoders.clip_settings:CLAPConfig",
)


class EncoderConfig:
    """The settings of an encoder, and what never changes of it.

    ``encoder`` is where the class is that computes (a :class:`pipeline.encoders.base.Encoder`), as
    ``"package.module:Class"``. ``reads``: what it takes of a clip; a mapper can read those of frames. ``cpus`` and
    ``gpus`` are what one of its workers asks a cluster for. ``files`` are the authors' own; without any, the
    constructor gives the encoder all of its weights.
    """

    encoder: ClassVar[str]
    reads: ClassVar[Literal["frames", "waveform", "label"]]
    cpus: ClassVar[float] = 2
    gpus: ClassVar[float] = 1
    files: ClassVar[tuple[CheckpointFile, ...]] = ()

    @property
    def dimension(self) -> int | None:
        """Values of one feature; None: only its features tell."""
        return None

    @property
    def sample_rate(self) -> int | None:
        """Hz of the waveform that it reads; None: ``media.sample_rate``, whatever that is."""
        return None


def reads(encoder: str) -> str | None:
    """What it takes of a clip: ``frames``, ``waveform`` or ``label``; None for one that is not registered here."""
    return ENCODERS[encoder].reads if encoder in ENCODERS else None


class EncodersConfig(Sections):
    """Settings of encoders by name."""

    registry = ENCODERS
