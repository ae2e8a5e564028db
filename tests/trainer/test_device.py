"""``--device`` of the trainer, which Accelerate would choose by itself."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from common.errors import InputError
from trainer.device import build_accelerator


@pytest.fixture(autouse=True)
def _fresh_state():
    """Accelerate keeps one state a process: none before, none after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def pretend(monkeypatch, kind, count):
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "is_available", lambda: count > 0)
    monkeypatch.setattr(module, "device_count", lambda: count)


def test_a_device_that_is_not_there_is_an_error_and_not_the_cpu(tmp_path):
    with pytest.raises(InputError, match="no CUDA device"):
        build_accelerator("cuda", "no", tmp_path)
    assert build_accelerator("auto", "no", tmp_path).device.type == "cpu"


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_the_device_that_was_asked_for_is_the_one(tmp_path, monkeypatch, name):
    pretend(monkeypatch, name.split(":")[0], 2)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    assert build_accelerator(name, "no", tmp_path).device == torch.device(name)


@pytest.mark.parametrize(("name", "kind"), [("cuda:1", "cuda"), ("mps", "mps")])
def test_with_several_processes_the_launcher_decides(tmp_path, monkeypatch, name, kind):
    pretend(monkeypatch, kind, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched"):
        build_accelerator(name, "no", tmp_path)
    assert PartialState._shared_state == {}


def test_a_process_stays_on_its_device(tmp_path, monkeypatch):
    assert Accelerator(cpu=True).device.type == "cpu"
    pretend(monkeypatch, "mps", 1)
    with pytest.raises(InputError, match="already trains on cpu"):
        build_accelerator("mps", "no", tmp_path)
