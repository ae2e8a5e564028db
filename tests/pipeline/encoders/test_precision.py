"""Half precision: weights are cast once, to half their bytes, and the numbers are those that autocast gives."""

import numpy as np
import pytest
import torch
from diffusers import AudioLDM2UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import InputError
from common.registry import load_part
from pipeline.encoders import ENCODERS, load_encoder
from pipeline.encoders.base import cast_matrices
from presets import load_preset
from tests.tiny import TINY

RANDOM = np.random.default_rng(0)
INPUTS = {
    "cavp": (RANDOM.integers(0, 255, (1, 8, 3, 224, 224), np.uint8),),
    "timechat": (RANDOM.integers(0, 255, (1, 8, 3, 224, 224), np.uint8), np.arange(8) / 4),
    "audiomae": (RANDOM.standard_normal((1, 160_000), np.float32),),
    "flan_t5": (["dog barking"],),
    "clip": (RANDOM.integers(0, 255, (1, 8, 3, 224, 224), np.uint8),),
    "clap": (RANDOM.standard_normal((1, 480_000), np.float32),),
}


class Casts(TorchDispatchMode):
    """Counts conversions of frozen weights to half precision."""

    def __init__(self, network):
        super().__init__()
        self.weights = {id(p) for p in network.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::to", "aten::_to_copy") and id(args[0]) in self.weights:
            self.count += 1
        return func(*args, **(kwargs or {}))


def encode(encoder, name):
    features = encoder.encode(*INPUTS[name])
    return features[0] if isinstance(features, tuple) else features


@pytest.mark.parametrize("name", list(INPUTS))
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_cast_once_equals_autocast(name, precision):
    full = load_encoder(name, preset=TINY)
    cast = load_encoder(name, preset=TINY, precision=precision)
    assert cast.fingerprint == full.fingerprint
    wanted = encode(full, name)
    full.precision = cast.precision  # as it was before: float32 weights, cast by autocast at every call
    with Casts(full) as casts_before:
        by_autocast = encode(full, name)
    assert casts_before.count > 5 or full.precision == "float32"
    with Casts(cast) as casts:
        ours = encode(cast, name)
    left = sum(1 for kept in cast.full_precision for _ in cast.get_submodule(kept).parameters())
    assert casts.count <= left
    assert ours.dtype == torch.float32
    tolerance = 2e-2 if precision == "bfloat16" else 4e-3
    assert (ours - wanted).norm() / wanted.norm() < tolerance
    assert (ours - wanted).norm() <= 1.5 * (by_autocast - wanted).norm() + 1e-6


@pytest.mark.parametrize("name", list(INPUTS))
def test_half_the_bytes_at_the_published_sizes(name):
    def size(precision):
        with torch.device("meta"):
            encoder = load_part(ENCODERS[name].encoder)(load_preset("paper").encoders[name])
        encoder.set_precision(precision)
        assert not any(
            p.dtype != torch.float32
            for module in encoder.modules()
            if "norm" in type(module).__name__.lower()
            for p in (*module.parameters(recurse=False), *module.buffers(recurse=False))
            if p.is_floating_point()
        )
        return sum(p.nbytes for p in encoder.parameters())

    assert size("bfloat16") < 0.53 * size("float32")


def test_half_the_bytes_of_the_unet():
    with torch.device("meta"):
        unet = AudioLDM2UNet2DConditionModel(**load_preset("paper").audio_models.audioldm2.unet)
    before = sum(p.nbytes for p in unet.parameters())
    cast_matrices(unet, "bfloat16")
    assert sum(p.nbytes for p in unet.parameters()) < 0.51 * before


def test_float16_does_not_reach_t5():
    assert load_encoder("flan_t5", preset=TINY, precision="float16").precision == "float32"


def test_an_unknown_precision_is_named():
    with pytest.raises(InputError, match="unknown precision 'int8'"):
        load_encoder("cavp", preset=TINY, precision="int8")
