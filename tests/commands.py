"""The public commands, on the tiny preset unless another is named; the exit code must be ``code``.

Here, without importing torch again, wherever a process is not what a test is about.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from tests.tiny import TINY

ROOT = Path(__file__).parents[1]


def _words(arguments):
    takes_preset = arguments[0] in ("trainer", "generate") or arguments[:2] == ("pipeline", "extract")
    if takes_preset and "--preset" not in arguments:
        arguments = (*arguments, "--preset", TINY)
    return [str(argument) for argument in arguments]


def run_here(*arguments, code=0):
    """Run ``python -m arguments`` in this process; returns all that it prints. A defect (a traceback) is raised."""
    package, *words = _words(arguments)
    app = importlib.import_module(f"{package}.__main__").app
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def run(*arguments, code=0, cwd=ROOT):
    """Run ``python -m arguments`` in a process of its own, as users do; returns all that it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "300"}
    result = subprocess.run(
        [sys.executable, "-m", *_words(arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    text = result.stdout + result.stderr
    assert result.returncode == code, f"exit {result.returncode}, wanted {code}:\n{text}"
    assert "Traceback" not in text
    return text
