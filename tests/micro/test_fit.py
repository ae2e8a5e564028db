import json

import pytest
import torch
from torch import nn

from micro.fit import Fit


def train(folder, steps, until=None):
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def step(number):
        if number == until:
            raise KeyboardInterrupt
        inputs = torch.randn(16, 3)
        return {"loss": (module(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    Fit("toy", folder, steps, 0.05, warmup=2, average=0.9).run(module, step, every=5)
    return module


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole", 20)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halves", 20, until=12)
    halves = train(tmp_path / "halves", 20)
    assert torch.equal(whole.weight, halves.weight)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "toy.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
