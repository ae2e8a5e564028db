"""Words for messages."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of them: ``a, b, c, ...``."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def counted(names: Sequence[str], most: int = 3) -> str:
    """How many, and the first of them: ``4 (a, b, c, ...)``."""
    return f"{len(names)} ({some(names, most)})"
