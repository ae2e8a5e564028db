"""What a command shows: names and labels as they are, whatever they hold."""

import io

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common import console
from common.errors import InputError

NAMES = ["Clip [official].mp4", "[/x]", "[bold]loud[/bold]", ":smile:", "[link=http://x]y[/link]", "cash $x_{$"]


@pytest.mark.parametrize("name", NAMES)
def test_brackets_are_text(name, monkeypatch, capsys):
    console.summary("made", {name: name})
    assert capsys.readouterr().out.split("\n")[1].split("  ") == [name, name]
    for terminal in (True, False):
        screen = Console(file=io.StringIO(), force_terminal=terminal, width=300, markup=False, emoji=False)
        monkeypatch.setattr(console, "console", screen)
        monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
        with console.progress() as bar:
            task = bar.add_task(name, total=2, note="")
            bar.update(task, advance=1, note=name)
        shown = screen.file.getvalue()
        assert shown.count(name) >= 2, shown
        assert terminal or shown.strip() == f"{name}: 1 of 2 after 0 s, {name}"


@given(st.text(max_size=30))
def test_what_is_shown_moves_no_cursor(text):
    shown = console.shown(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown if c not in "\n\t")
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_names_that_are_no_unicode(capsys):
    """A file name of other bytes comes as surrogates, which no stream takes."""
    name = b"caf\xe9 \x1b[2J.mp4".decode("utf-8", "surrogateescape")
    console.summary("made", {"file": name})

    @console.command
    def fail():
        raise InputError(f"{name} is no video")

    with pytest.raises(typer.Exit):
        fail()
    captured = capsys.readouterr()
    assert "\\udce9 \\x1b[2J.mp4" in captured.out
    assert "\\udce9 \\x1b[2J.mp4 is no video" in captured.err
