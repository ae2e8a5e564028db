"""Settings of parts that a registry names, as encoders and audio models are: a section of sections, and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import TypedDict

from common.registry import Registry


class _Fields(Mapping[str, FieldInfo]):
    """The settings class of every part, as pydantic describes the fields of a dataclass."""

    def __init__(self, registry: Registry):
        self.registry = registry

    def __getitem__(self, name: str) -> FieldInfo:
        return FieldInfo(annotation=self.registry[name], default_factory=self.registry[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry)

    def __len__(self) -> int:
        return len(self.registry)


class Sections(dict[str, Any]):
    """Settings of parts by name, each checked by its own dataclass; ``encoders.cavp`` is ``encoders["cavp"]``.

    The registry of a subclass names the dataclasses. A part that a preset does not name has its defaults.
    """

    registry: ClassVar[Registry]
    __pydantic_fields__: ClassVar[Mapping[str, FieldInfo]]

    def __init_subclass__(cls) -> None:
        cls.__pydantic_fields__ = _Fields(cls.registry)

    def __missing__(self, name: str) -> Any:
        return self.registry[name]()

    def __getattr__(self, name: str) -> Any:
        if name not in self.registry:
            raise AttributeError(name)
        return self[name]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._checked)

    @classmethod
    def _checked(cls, values: Any) -> Sections:
        known = cls.registry
        named = {name: known[name] for name in known if isinstance(values, Mapping) and name in values}
        section = with_config(ConfigDict(extra="forbid"))(TypedDict("section", named, total=False))  # type: ignore[operator]
        return cls(TypeAdapter(section).validate_python(values))


class NameOf:
    """``Annotated[str, NameOf(MAPPERS)]``: a name that a registry has, of which nothing is imported."""

    def __init__(self, registry: Registry):
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, name: str) -> str:
        if name not in self.registry:
            raise PydanticCustomError("no_name", "must be one of {names}", {"names": ", ".join(self.registry)})
        return name
