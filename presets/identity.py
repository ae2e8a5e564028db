"""Whether two records of settings are of one kind: in shards, runs, mappers and folders of sound.

Records keep every setting, so that they say what a default was. A setting that a record lacks is newer than the record,
and had what is its default: a new setting refuses nothing that is there. So the default of a setting that was added
later must stay as it is; a change of what old numbers mean raises :data:`pipeline.stages.CACHE_VERSION`. A setting that
is recorded and that nobody here knows is another one: a newer version wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from presets import config
from presets.checks import field_type, fields_of

# The settings that a record holds: a dataclass of them, or of each of its sections; None where it holds others.
Kind = type | Mapping[str, Any] | None


class Difference(NamedTuple):
    """One setting, by its dotted name, and its two values."""

    name: str
    there: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.there)} there, {_short(self.here)} here"


def settings_of(*path: str) -> Kind:
    """The dataclass of a section of presets, as ``settings_of("encoders", "cavp")``; None if there is none."""
    kind = field_type(config.Preset, path)
    return kind if fields_of(kind) else None


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], kind: Kind = None, ignored: Iterable[str] = (), prefix: str = ""
) -> list[Difference]:
    """Every setting in which two records differ, sorted by name, but for the names ``ignored``.

    Sections are compared setting by setting; one that a record lacks altogether differs from one that it has.
    """
    found: list[Difference] = []
    defaults = _defaults(kind)
    for name in sorted({*there, *here} - {*ignored}):
        one, other = (values.get(name, defaults.get(name)) for values in (there, here))
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, _section(kind, name), (), f"{prefix}{name}.")
        elif _plain(one) != _plain(other):
            found.append(Difference(f"{prefix}{name}", one, other))
    return found


def _defaults(kind: Kind) -> dict[str, Any]:
    fields = fields_of(kind) or {}
    return {
        name: _plain(field.get_default(call_default_factory=True))
        for name, field in fields.items()
        if not field.is_required()
    }


def _section(kind: Kind, name: str) -> Kind:
    return kind.get(name) if isinstance(kind, Mapping) else field_type(kind, [name])


def _plain(value: Any) -> Any:
    """As JSON and YAML give it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
