import os
import signal
import time

import pytest

from pipeline.decoding import DecodePool, Job, decode_job, prefetch
from pipeline.errors import ClipError
from presets.config import MediaConfig
from tests.media_factory import make_media


def misbehaving(job, config):
    """Stands in for a decoder that never returns, or dies, on files named so."""
    if "hangs" in job.path and job.backend is None:
        while True:
            time.sleep(60)
    if "always" in job.path:
        time.sleep(600)
    if "dies" in job.path and job.backend is None:
        os.kill(os.getpid(), signal.SIGKILL)
    if "raises" in job.path:
        raise MemoryError("no room")
    return decode_job(job, config)


def test_order_faults_and_killed_workers(tmp_path):
    names = ["a", "hangs", "b", "dies", "always_hangs", "raises", "c"]
    jobs = [Job(str(make_media(tmp_path / f"{name}.mp4", seconds=1))) for name in names]
    with DecodePool(MediaConfig(), 2, timeout_seconds=3.0, decoder=misbehaving, startup_seconds=20) as pool:
        results = list(pool.decode(jobs))
        again = list(pool.decode(jobs[:1]))
    kinds = [result.kind if isinstance(result, ClipError) else "ok" for result in results]
    # The hanging and the dying file are saved by the second backend.
    assert kinds == ["ok", "ok", "ok", "ok", "timeout", "unreadable", "ok"]
    assert not isinstance(again[0], ClipError)
    assert "always_hangs.mp4" in str(results[4])


def test_prefetch_keeps_order_bounds_and_errors():
    produced = []

    def items():
        for number in range(100):
            produced.append(number)
            yield number

    reader = prefetch(items(), 3)
    assert next(reader) == 0
    time.sleep(0.2)
    assert len(produced) <= 6
    assert list(reader) == list(range(1, 100))

    def failing():
        yield 1
        raise ValueError("broken")

    reader = prefetch(failing(), 2)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)


def test_prefetch_stops_its_producer():
    reader = prefetch(iter(range(10**9)), 2)
    assert next(reader) == 0
    reader.close()
