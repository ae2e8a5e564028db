"""What a command shows: progress bars, a summary at the end, and errors with their exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(stderr=True, highlight=False)
out = Console(highlight=False, soft_wrap=True)

F = TypeVar("F", bound=Callable[..., Any])


def progress() -> Progress:
    """A progress display on stderr (plain lines where that is no terminal)."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=not console.is_terminal,
    )


def summary(title: str, rows: Mapping[str, object]) -> None:
    """The last thing a command prints: what was done, skipped and failed, how long, and where it is."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    out.print(table)


def command(function: F) -> F:
    """Turn the project's typed errors into one message on stderr and their exit code."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            code = getattr(error, "exit_code", None)
            if not isinstance(code, int) or isinstance(error, typer.Exit):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            print("interrupted: what is complete stays; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]
