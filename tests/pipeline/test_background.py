"""Calls beside other work: bounded, in any order, killed with their context."""

import os
import time

import pytest

from common.errors import ClipError
from pipeline.background import Background
from pipeline.decoding import Call
from tests.pipeline.hanging import sleeps


def test_results_and_errors_come_to_who_asked():
    with Background(2, 20.0, 8) as background:
        good = [background.submit(Call(divmod, (number, 3))) for number in range(6)]
        bad = background.submit(Call(int, ("x",), path="x.mp4"), ahead=True)
        assert [future.result() for future in good] == [divmod(number, 3) for number in range(6)]
        with pytest.raises(ClipError, match=r"unreadable: x\.mp4: ValueError"):
            bad.result()


def test_one_that_hangs_is_ended_and_those_that_wait_are_bounded(tmp_path):
    """More than half of the queue waits: a second worker starts, and goes past the one that hangs."""
    with Background(2, 20.0, 3) as background:
        hangs = background.submit(Call(sleeps, (str(tmp_path / "pid"), 600), seconds=3.0))
        others = [background.submit(Call(len, ("abc",))) for _ in range(5)]
        assert background._open <= 3
        assert [future.result() for future in others] == [3] * 5
        with pytest.raises(ClipError, match="timeout"):
            hangs.result()


def test_leaving_ends_the_workers(tmp_path):
    pid = tmp_path / "pid"
    with Background(1, 600.0, 4) as background:
        background.submit(Call(sleeps, (str(pid), 600)))
        waiting = background.submit(Call(len, ("abc",)))
        limit = time.monotonic() + 60
        while not (pid.is_file() and pid.read_text()) and time.monotonic() < limit:
            time.sleep(0.05)
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
