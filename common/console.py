"""What a command shows: progress bars, a summary at the end, and errors with their exit codes."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from common.errors import InputError
from common.writing import remove_own_temporaries

# File names and labels are text, never markup: "Clip [official].mp4" stays as it is.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

LINE_SECONDS = 10.0  # between two lines of progress in a log

# The option that all commands with a cache have, so that they take the same places. A string: a Path makes
# ``s3:/bucket`` of ``s3://bucket``.
CACHE = typer.Option(help="feature cache: a folder, or an fsspec URL such as s3://bucket/cache")
CacheOption = Annotated[str, CACHE]
PresetOption = Annotated[
    str,
    typer.Option(
        help="micro, paper, or the path of a YAML file; with ,fast after it: fewer steps; ,mfm-mapper-m: 100 epochs"
    ),
]

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


def transfers() -> Progress:
    """A progress display of bytes: how many of how many, how fast."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def summary(title: str, rows: Mapping[str, object]) -> None:
    """The last thing a command prints: what was done, skipped and failed, how long, and where it is."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(shown(name), shown(value))
    out.print(table)


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as a scheduler or a closed terminal sends them: unwinds like Ctrl-C."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def signals_unwind() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into :class:`Stopped`, so that claims are released and temporary files removed.

    A signal that is ignored (``nohup``) or handled by somebody else is left as it is.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        yield
        return
    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: object) -> None:
        for each in ours:  # a second one must not cut the cleaning up short; SIGKILL always can
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def command(function: F) -> F:
    """Turn the project's typed errors into one message on stderr and their exit code.

    Ctrl-C, SIGTERM and SIGHUP end the command in order, with 128 + the number of the signal.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            _check_places(kwargs)
            with signals_unwind():
                return function(*args, **kwargs)
        except Exception as error:
            code = getattr(error, "exit_code", None)
            if not isinstance(code, int) or isinstance(error, typer.Exit):
                raise
            print(f"error: {shown(error)}", file=sys.stderr)
            raise typer.Exit(code) from None
        except KeyboardInterrupt as error:
            remove_own_temporaries()
            number = error.number if isinstance(error, Stopped) else signal.SIGINT
            name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
            print(f"interrupted{name}: what is complete stays; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(128 + number) from None

    return run  # type: ignore[return-value]


def _check_places(options: Mapping[str, Any]) -> None:
    """``Path("s3://bucket/run")`` is the folder ``s3:/bucket/run`` of this machine, which nobody means.

    Nor does anybody mean this folder by a cache or manifest without a name (``make extract CACHE=$UNSET``).
    """
    for name, value in options.items():
        if name in ("cache", "manifest") and value == "":
            raise InputError(f"the {name} has no name: it is an empty text")
        local = isinstance(value, Path) or (name == "run" and isinstance(value, str))  # a run may be a hub's id
        if local and re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
            raise InputError(f"{name} '{value}' must be local: only caches and Parquet manifests may be URLs")
