import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import ClipError
from pipeline.decoding import Call, DecodePool, Job, decode_job, decode_killable, killable, prefetch
from pipeline.media import decode_clip, probe
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


def test_a_relative_path_is_of_the_folder_where_its_caller_is(tmp_path, monkeypatch):
    """The worker that single calls share was started in another one."""
    killable(os.path.getsize, make_media(tmp_path / "here" / "a.mp4", seconds=1), seconds=20)
    monkeypatch.chdir(tmp_path / "here")
    assert killable(os.path.getsize, "a.mp4", seconds=20) == os.path.getsize("a.mp4")
    (tmp_path / "here" / "a.mp4").unlink()
    (tmp_path / "here").rmdir()
    assert killable(os.path.isabs, "/x", seconds=20)


def sleeps_after(path, seconds, value):
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
    return value


def gone(pid, within=20.0):
    """Whether a process ends in time (a killed child is reaped by whoever started it)."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_one_call_in_the_worker_that_all_share(tmp_path):
    path = make_media(tmp_path / "a.mp4", seconds=1)
    assert killable(probe, path, seconds=20).duration_s == pytest.approx(1, abs=0.1)
    clip = decode_killable(path, MediaConfig(), seconds=20, audio=False)
    np.testing.assert_array_equal(clip.frames, decode_clip(path, MediaConfig(), audio=False).frames)
    assert killable(sleeps_after, tmp_path / "pid", 0, 5, seconds=20) == 5
    first = int((tmp_path / "pid").read_text())
    with pytest.raises(ClipError, match=r"missing_file: .*none\.mp4"):
        killable(probe, tmp_path / "none.mp4", seconds=20)
    with pytest.raises(ClipError, match=r"unreadable: .*TypeError"):
        killable(sleeps_after, tmp_path / "pid", seconds=20)
    with pytest.raises(ClipError) as caught:
        killable(sleeps_after, tmp_path / "pid", 600, 0, seconds=0.5)
    assert caught.value.kind == "timeout"
    assert gone(first)
    assert killable(sleeps_after, tmp_path / "pid", 0, 6, seconds=20) == 6


def test_a_reader_that_leaves_does_not_get_old_results(tmp_path):
    def call(number, seconds):
        return Call(sleeps_after, (str(tmp_path / f"{number}"), seconds, number))

    with DecodePool(MediaConfig(), 2, timeout_seconds=30.0) as pool:
        results = pool.map(call(n, 0 if n == 0 else 600) for n in range(4))
        assert next(results) == 0
        results.close()
        assert list(pool.map([call(10, 0), call(11, 0)])) == [10, 11]
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert all(gone(pid) for pid in pids)


def test_leaving_while_a_decoder_hangs_does_not_wait_for_it(tmp_path):
    with DecodePool(MediaConfig(), 1, timeout_seconds=600.0) as pool:
        results = prefetch(pool.map(Call(sleeps_after, (str(tmp_path / f"{n}"), 600 * n, n)) for n in range(2)), 1)
        assert next(results) == 0
        pool.abandon()
        results.close()
        assert list(pool.map([Call(sleeps_after, (str(tmp_path / "x"), 0, 7))])) == [7]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, how):
    """Also of a script without a ``__main__`` guard, and while the call hangs."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline.decoding import killable\n"
        "from tests.pipeline.test_decoding import sleeps_after\n"
        f"killable(sleeps_after, {str(tmp_path / 'pid')!r}, 600, 0, seconds=1.0 if {how == signal.SIGKILL} else 60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(how)
    parent.wait()
    assert gone(int((tmp_path / "pid").read_text()))


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
