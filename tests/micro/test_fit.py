import json

import pytest
import torch
from torch import nn

from micro.fit import Fit, Machine
from trainer.train import TrainingError


def train(folder, steps, until=None, recorded=False):
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    kept = torch.zeros(16, 3)

    def step(number):
        if number == until:
            raise KeyboardInterrupt
        inputs = torch.randn(16, 3)
        return {"loss": (module(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    def fill(number):
        kept.copy_(torch.randn(16, 3))
        return {}

    def of_kept():
        return {"loss": (module(kept) - kept.sum(1, keepdim=True)).square().mean()}

    fit = Fit("toy", folder, steps, 0.05, warmup=2, average=0.9)
    if recorded:
        fit.run(module, fill, every=5, graph=of_kept)
    else:
        fit.run(module, step, every=5)
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


def test_a_step_on_tensors_that_stay_is_the_same_step(tmp_path):
    assert torch.equal(train(tmp_path / "a", 12).weight, train(tmp_path / "b", 12, recorded=True).weight)


def test_the_average_lags_behind_as_its_decay_says(tmp_path):
    seen = []
    module = nn.Linear(1, 1, bias=False)

    def step(number):
        seen.append(float(module.weight.detach()))
        return {"loss": module.weight.square().sum()}

    Fit("toy", tmp_path, 6, 0.1, warmup=1, average=0.9).run(module, step)
    state = torch.load(tmp_path / "toy.pt", weights_only=True)
    weights = [*seen[1:], float(state["module"]["weight"])]
    average = seen[0]
    for done, weight in enumerate(weights, 1):
        average += (weight - average) * (1 - min(0.9, done / (done + 9)))
    assert float(module.weight.detach()) == pytest.approx(average)


def test_bfloat16_is_near_float32(tmp_path):
    def trained(precision):
        torch.manual_seed(1)
        module = nn.Linear(8, 4)

        def step(number):
            inputs = torch.randn(16, 8)
            output = module(inputs)
            assert output.dtype == getattr(torch, precision)
            return {"loss": (output.float() - inputs[:, :4]).square().mean()}

        Fit("toy", tmp_path / precision, 20, 0.05, machine=Machine(precision=precision)).run(module, step)
        return module.weight.detach()

    exact, near = trained("float32"), trained("bfloat16")
    assert not torch.equal(exact, near)
    assert (exact - near).abs().max() < 0.05


def test_a_step_that_bfloat16_spoils_is_done_again_in_float32(tmp_path):
    """As torch's strided convolutions do on some CPUs; batch normalisation keeps nothing of it."""

    def trained(spoilt):
        torch.manual_seed(2)
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

        def step(number):
            inputs = torch.randn(16, 4)
            bad = spoilt and number == 3 and torch.is_autocast_enabled("cpu")
            output = module(inputs * torch.nan if bad else inputs)
            return {"loss": (output.float() - inputs[:, :1]).square().mean()}

        Fit("toy", tmp_path / str(spoilt), 6, 0.01, machine=Machine(precision="bfloat16")).run(module, step)
        return module

    whole, mended = trained(False), trained(True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(mended.state_dict()[name], value, atol=0.02, rtol=0, msg=name)


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    module = nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="toy: the loss is not finite at step 5"):
        Fit("toy", tmp_path, 20).run(module, lambda number: {"loss": module.weight.sum() * torch.inf}, every=5)
    assert not (tmp_path / "toy.pt").exists()


def test_on_a_cpu_bfloat16_is_for_the_stages_that_it_makes_faster(tmp_path):
    machine = Machine(precision="bfloat16", where_it_pays=True)
    assert Fit("vae", tmp_path, 1, machine=machine).precision == "bfloat16"
    assert Fit("frames", tmp_path, 1, machine=machine).precision == "float32"
    assert Fit("frames", tmp_path, 1, machine=Machine(precision="bfloat16")).precision == "bfloat16"
