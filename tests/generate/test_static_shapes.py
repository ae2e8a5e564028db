"""Compiled, or on an accelerator, the UNet is given few shapes, and the sound stays what it is."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from generate import audioldm2
from generate.sampling import Batch, load_sampler
from presets import load_preset
from tests.tiny import TINY

LABELS = ["dog", "a label of more letters", "rain"]  # with the negative prompt all come to 32 bytes


SMALL = [  # the text is attended to in the middle alone
    "audioldm2.unet.block_out_channels=[16,16]",
    "audioldm2.unet.down_block_types=[DownBlock2D,DownBlock2D]",
    "audioldm2.unet.up_block_types=[UpBlock2D,UpBlock2D]",
]


@pytest.fixture(scope="module")
def sampler(run_folder):
    settings = ["generation.steps=2", "generation.batch=2", *SMALL]
    return load_sampler(load_preset(TINY, settings), run_folder / "mapper")


def batches():
    random = torch.Generator().manual_seed(0)
    visual = {"cavp": torch.randn(3, 40, 64, generator=random), "timechat": torch.randn(3, 10, 96, generator=random)}
    for rows in (slice(0, 2), slice(2, 3)):
        yield Batch({name: array[rows] for name, array in visual.items()}, LABELS[rows], ["a", "b", "c"][rows])


def made(sampler):
    return np.concatenate(list(sampler.stream(batches())))


@contextmanager
def compiled(sampler):
    """Traced and guarded as ever, but run as it is. One graph, for CUDA graphs hold nothing that has a break."""
    model = sampler.audio_model
    model.compile(backend="eager", fullgraph=True)
    try:
        yield
    finally:
        model.unet._compiled_call_impl, model.compiled = None, False
        torch._dynamo.reset()


def test_no_batch_is_compiled_again(sampler, monkeypatch):
    """Neither other labels, nor the shorter last batch, nor a second run of them."""
    plain = made(sampler)
    with compiled(sampler):
        first, *_ = sampler.stream(list(batches())[:1])
        with torch.compiler.set_stance("fail_on_recompile"):
            again = made(sampler)
            monkeypatch.setattr(audioldm2, "text_length", lambda tokens: tokens + 1)
            with pytest.raises(RuntimeError, match="recompile"):
                sampler.generate(*vars(next(batches())).values())
        assert np.array_equal(first, again[:2])
    assert np.abs(plain).max() > 1e-3
    assert np.abs(again - plain).max() < 1e-5


@pytest.mark.parametrize(("device", "mode"), [("cuda", "reduce-overhead"), ("cpu", None), ("mps", None)])
def test_compiled_on_cuda_it_is_cuda_graphs(device, mode):
    asked = {}
    unet = SimpleNamespace(
        parameters=lambda: iter([SimpleNamespace(device=torch.device(device))]), compile=asked.update
    )
    model = audioldm2.AudioLDM2(unet, None, None, None, None, None, "")
    assert model.static_shapes == (device != "cpu")
    model.compile()
    assert asked == {"dynamic": False, **({"mode": mode} if mode else {})}
    assert model.static_shapes


@pytest.mark.parametrize(("tokens", "length"), [(1, 16), (16, 16), (17, 32), (30, 32), (33, 64)])
def test_text_has_few_lengths(tokens, length):
    assert audioldm2.text_length(tokens) == length


def test_a_single_window_is_not_filled_up(sampler, monkeypatch):
    """A film of one window costs one, a film of more fills its last batch; a plain CPU fills nothing."""
    model, sizes = sampler.audio_model, []
    handle = model.unet.register_forward_pre_hook(lambda unet, given: sizes.append(len(given[0]) // 2))
    sampler = replace(sampler, preset=load_preset(TINY, ["generation.steps=1", "generation.batch=3"]))
    try:
        for static in (False, True):
            monkeypatch.setattr(model, "compiled", static)
            for windows in (1, 2):
                noise = model.noise([f"film/{n}" for n in range(windows)], 0)
                waves = sampler.synthesise(torch.zeros(windows, 8, 96), ["dog"] * windows, noise, [0] * windows)
                assert waves.shape == (windows, 160_000)
    finally:
        handle.remove()
    assert sizes == [1, 2, 1, 3]
