"""The public commands, run in this process: what they print and their exit code, without importing torch again."""

import importlib

from typer.testing import CliRunner


def run_here(package, *arguments, code=0):
    """Run ``python -m package arguments``; returns all that it prints. A defect (a traceback) is raised."""
    app = importlib.import_module(f"{package}.__main__").app
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output
