"""Encoders by name, and what is known of one before it is loaded: its settings, what it reads, its official files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

from common.registry import Registry
from presets.official import CheckpointFile

# Name -> where its settings are, a dataclass derived from EncoderConfig.
ENCODERS = Registry(
    "encoder",
    cavp="pipeline.encoders.settings:CAVPConfig",
    timechat="pipeline.encoders.settings:TimeChatConfig",
    audiomae="pipeline.encoders.settings:AudioMAEConfig",
    flan_t5="pipeline.encoders.settings:FlanT5Config",
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


def reads(encoder: str) -> str | None:
    """What it takes of a clip: ``frames``, ``waveform`` or ``label``; None for one that is not registered here."""
    return ENCODERS[encoder].reads if encoder in ENCODERS else None


class _Fields(Mapping[str, FieldInfo]):
    """The settings class of every encoder, as pydantic describes the fields of a dataclass."""

    def __getitem__(self, name: str) -> FieldInfo:
        return FieldInfo(annotation=ENCODERS[name], default_factory=ENCODERS[name])

    def __iter__(self) -> Iterator[str]:
        return iter(ENCODERS)

    def __len__(self) -> int:
        return len(ENCODERS)


class EncodersConfig(dict[str, Any]):
    """Settings of encoders by name, each checked by its own dataclass; ``encoders.cavp`` is ``encoders["cavp"]``.

    An encoder that a preset does not name has its defaults.
    """

    __pydantic_fields__: ClassVar[Mapping[str, FieldInfo]] = _Fields()

    def __missing__(self, name: str) -> Any:
        return ENCODERS[name]()

    def __getattr__(self, name: str) -> Any:
        if name not in ENCODERS:
            raise AttributeError(name)
        return self[name]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._checked)

    @classmethod
    def _checked(cls, values: Any) -> EncodersConfig:
        named = {name: ENCODERS[name] for name in ENCODERS if isinstance(values, Mapping) and name in values}
        section = with_config(ConfigDict(extra="forbid"))(TypedDict("section", named, total=False))  # type: ignore[operator]
        return cls(TypeAdapter(section).validate_python(values))
