"""What a command shows: progress bars, a summary at the end, and errors with their exit codes."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# File names and labels are text, never markup: "Clip [official].mp4" stays as it is.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

LINE_SECONDS = 10.0  # between two lines of progress in a log

F = TypeVar("F", bound=Callable[..., Any])


def shown(text: object) -> str:
    """Text as a terminal may show it: control characters, and what is no Unicode (names of files), as escapes."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else c.encode("unicode_escape").decode()
        for c in str(text)
    )


class _Note(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(shown(task.fields["note"]))


class _Lines(Progress):
    """Where stderr is no terminal, a plain line now and then instead of bars."""

    def __init__(self, *columns: ProgressColumn, **options: Any):
        super().__init__(*columns, **options)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._say()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say()

    def _say(self) -> None:
        if self.console.is_terminal or time.monotonic() - self._said < LINE_SECONDS:
            return
        self._said = time.monotonic()
        for task in self.tasks:
            total = "" if task.total is None else f" of {task.total:g}"
            done = f"{task.description}: {int(task.completed)}{total} after {task.elapsed or 0:.0f} s"
            note = shown(task.fields.get("note", ""))
            self.console.print(f"{done}, {note}" if note else done, soft_wrap=True)


def progress() -> Progress:
    """A progress display on stderr: bars, or a plain line every ``LINE_SECONDS`` where that is no terminal."""
    kind = Progress if console.is_terminal else _Lines
    return kind(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Note("{task.fields[note]}", markup=False),
        console=console,
        transient=not console.is_terminal,
    )


def summary(title: str, rows: Mapping[str, object]) -> None:
    """The last thing a command prints: what was done, skipped and failed, how long, and where it is."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(shown(name), shown(value))
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
            print(f"error: {shown(error)}", file=sys.stderr)
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            print("interrupted: what is complete stays; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]
