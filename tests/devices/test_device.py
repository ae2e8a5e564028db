"""The second device itself: it computes like the CPU, refuses what CUDA refuses, and counts what the host waits for."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from tests.second_device import DEVICE, NAME, DeviceMismatch, DeviceTensor, counting, no_float64


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_computes_like_the_cpu(x, mode):
    layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)).eval()
    with mode():
        wanted = layers(x) + torch.arange(2) + torch.tensor([1.0, 2.0])
    layers.to(NAME)
    with mode():
        ours = layers(x.to(DEVICE)) + torch.arange(2, device=NAME) + torch.tensor([1.0, 2.0], device=NAME)
    assert ours.device == DEVICE
    torch.testing.assert_close(ours.cpu(), wanted, atol=1e-6, rtol=0)


def test_an_optimizer_made_before_the_move_trains_what_was_moved(x):
    steps = {}
    for name in ("cpu", NAME):
        torch.manual_seed(0)
        layer = nn.Linear(4, 2)
        optimizer = torch.optim.AdamW(layer.parameters(), 0.1, fused=True)
        layer.to(name)
        for _ in range(3):
            layer(x.to(name)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        steps[name] = layer.weight.detach().cpu()
    torch.testing.assert_close(steps[NAME], steps["cpu"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.to(NAME) + x,
        lambda x: torch.cat([x.to(NAME), x]),
        lambda x: nn.Linear(4, 4)(x.to(NAME)),
        lambda x: nn.Linear(4, 4).to(NAME)(x),
        lambda x: x.to(NAME).index_select(0, torch.tensor([0])),
        lambda x: torch.empty(3, device=NAME).normal_(generator=torch.Generator()),
    ],
)
def test_it_refuses_what_cuda_refuses(x, wrong):
    with pytest.raises(DeviceMismatch):
        wrong(x)


def test_it_takes_what_cuda_takes(x):
    on = x.to(NAME)
    assert isinstance(on * torch.tensor(2.0), DeviceTensor)
    torch.testing.assert_close(on[torch.tensor([2, 0])].cpu(), x[[2, 0]])
    on[0] = x[1]
    torch.testing.assert_close(on[0].cpu(), x[1])
    assert x.clone().copy_(on).device.type == "cpu"


def test_no_numpy_without_a_copy(x):
    for wrong in (lambda: x.to(NAME).numpy(), lambda: np.asarray(x.to(NAME))):
        with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
            wrong()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_the_host_waits_for_is_counted(x, mode):
    waiting = (
        lambda on: on.sum().item(),
        lambda on: bool(on[0, 0] > 0),
        lambda on: float(on[0, 0]),
        lambda on: on.tolist(),
        lambda on: on.nonzero(),
        lambda on: on[on > 0],
        lambda on: torch.equal(on, on),
        lambda on: x[on[0, 0].long()],
    )
    with mode():
        for wait in waiting:
            on = x.to(NAME).abs().clamp(max=1)
            with counting() as count:
                wait(on)
            assert count.synchronisations == 1, count.where
        on = x.to(NAME)
        with counting() as count:
            (on @ on.T).softmax(-1)[:2].repeat(2, 1).masked_fill(on[:1, :1] > 0, 0.0)
        assert (count.synchronisations, count.downloads, count.uploads) == (0, 0, 0)
        with counting() as count:
            on.cpu(), on.to("cpu"), x.to(NAME), torch.tensor([1.0], device=NAME)
        assert (count.synchronisations, count.downloads, count.uploads) == (0, 2, 2)
        assert any("test_device.py" in place for place in count.where)


def test_it_can_lack_float64(x):
    with no_float64():
        for wrong in (lambda: x.double().to(NAME), lambda: x.to(NAME).double()):
            with pytest.raises(TypeError, match="float64"):
                wrong()
    assert x.to(NAME).double().dtype == torch.float64


def test_it_is_saved_by_value(x):
    file = io.BytesIO()
    torch.save({"x": x.to(NAME)}, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file)["x"], x)


def test_autocast_computes_products_in_half_precision_and_norms_in_float32(x):
    layers = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = layers(x)
    layers.to(NAME)
    with torch.autocast(NAME, torch.bfloat16):
        assert layers[0](x.to(NAME)).dtype == torch.bfloat16
        assert layers[:2](x.to(NAME)).dtype == torch.float32
        ours = layers(x.to(NAME))
    torch.testing.assert_close(ours.cpu(), wanted, atol=2e-2, rtol=0)
    ours.float().sum().backward()
    assert layers[0].weight.grad.dtype == torch.float32
