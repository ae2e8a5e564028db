"""Training in a real process, interrupted or killed, and resumed. Several at once: tests/trainer/test_processes.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import ROOT, run_here
from tests.tiny import TINY
from tests.trainer.caches import write_cache

QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def arguments(cache, run, *assignments):
    command = ["--cache", str(cache), "--run", str(run), "--device", "cpu", "--preset", TINY]
    for assignment in assignments:
        command += ["--set", assignment]
    return command


def weights(run):
    return load_file(Path(run) / "mapper" / "model.safetensors")


INTERRUPTED = ("training.epochs=10", "mapper.layers=1")


def train(cache, run):
    """In this process, with one thread as the interrupted one: sums of more threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_here("trainer", *arguments(cache, run, *INTERRUPTED))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache, and a run that nothing interrupted beside it."""
    folder = tmp_path_factory.mktemp("whole")
    write_cache(folder / "cache", clips=48)
    train(folder / "cache", folder / "run")
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_training_resumes_to_the_same_weights(whole, tmp_path, how):
    command = [sys.executable, "-m", "trainer", *arguments(whole / "cache", tmp_path, *INTERRUPTED)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("epoch-0000[3-9]")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(how)
    text = process.communicate()[0]
    assert process.returncode in ({130} if how == signal.SIGINT else {-signal.SIGKILL}), text
    assert "Traceback" not in text
    assert " 0 before" not in train(whole / "cache", tmp_path)
    for name, tensor in weights(whole / "run").items():
        assert torch.equal(tensor, weights(tmp_path)[name]), name
