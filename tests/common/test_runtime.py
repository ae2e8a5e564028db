import pytest
import torch

from common.errors import InputError
from common.runtime import choose_device


@pytest.fixture
def machine(monkeypatch):
    """A machine that says it has so many devices of a kind, and no other but its CPU."""

    def pretend(**counts):
        for kind in ("cuda", "mps"):
            module = torch.get_device_module(kind)
            monkeypatch.setattr(module, "is_available", lambda kind=kind: counts.get(kind, 0) > 0)
            monkeypatch.setattr(module, "device_count", lambda kind=kind: counts.get(kind, 0))

    return pretend


def test_auto_takes_the_best_there_is(machine):
    for counts, best in (({}, "cpu"), ({"mps": 1}, "mps"), ({"cuda": 2, "mps": 1}, "cuda")):
        machine(**counts)
        assert choose_device() == best


def test_a_device_that_is_there_is_taken_as_it_was_named(machine):
    machine(cuda=8, mps=1)
    for name in ("cpu", "cuda", "cuda:0", "cuda:7", "mps", "mps:0"):
        assert choose_device(name) == name
    assert choose_device("cpu:0") == "cpu"


@pytest.mark.parametrize(
    ("counts", "name", "message"),
    [
        ({}, "cuda", "no CUDA device"),
        ({}, "mps", "no MPS device"),
        ({"cuda": 1}, "cuda:7", "there is only cuda:0"),
        ({"cuda": 2}, "cuda:2", "only cuda:0 to cuda:1"),
        ({}, "cpu:3", "there is only cpu:0"),
        ({}, "meta", "unknown device"),
        ({}, "gpu please", "unknown device"),
        ({}, "cuda:-1", "unknown device"),
        ({}, "", "unknown device"),
    ],
)
def test_what_is_not_there_is_an_error(machine, counts, name, message):
    machine(**counts)
    with pytest.raises(InputError, match=message):
        choose_device(name)
