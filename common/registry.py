"""Parts by name, each imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any


def load_part(place: str) -> Any:
    """What ``"package.module:Name"`` says."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry(Mapping[str, Any]):
    """Name -> class. A line is ``name="package.module:Class"``, or the class itself.

    Nothing is imported for the names alone, so a registry may name what depends on it. ``what`` is for messages:
    an unknown name raises KeyError that lists the known ones.
    """

    def __init__(self, what: str, **places: Any):
        self.what, self._places = what, dict(places)

    def __getitem__(self, name: str) -> Any:
        if name not in self._places:
            raise KeyError(f"unknown {self.what} '{name}': there are {', '.join(self._places)}")
        place = self._places[name]
        if isinstance(place, str):
            place = self._places[name] = load_part(place)
        return place

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def add(self, name: str, part: Any) -> None:
        """One more line, at run time: how a project of its own, or a test, brings a part."""
        self._places[name] = part
