import pytest
import torch

from presets.mappers import FUSIONS
from trainer.fusion import upsample

DIMENSIONS, LENGTHS = {"cavp": 5, "timechat": 7}, {"cavp": 40, "timechat": 10}


def test_upsampling_repeats_each_step():
    steps = torch.arange(10.0).view(1, 10, 1)
    assert upsample(steps, 40).flatten().tolist() == [float(n // 4) for n in range(40)]
    assert upsample(steps, 10) is steps
    assert upsample(steps[:, :2], 40).flatten().tolist() == [0.0] * 20 + [1.0] * 20


@pytest.mark.parametrize(("name", "length"), [("concat", 40), ("add", 40), ("cat", 50)])
def test_lengths(name, length):
    fusion = FUSIONS[name](DIMENSIONS, LENGTHS, 6)
    streams = {stage: torch.randn(2, LENGTHS[stage], DIMENSIONS[stage]) for stage in DIMENSIONS}
    assert fusion(streams).shape == (2, length, 6)
    assert fusion.length == length


def test_concat_is_algorithm_1():
    fusion = FUSIONS["concat"](DIMENSIONS, LENGTHS, 6)
    streams = {stage: torch.randn(2, LENGTHS[stage], DIMENSIONS[stage]) for stage in DIMENSIONS}
    aligned = torch.cat([streams["cavp"], streams["timechat"].repeat_interleave(4, dim=1)], dim=-1)
    expected = aligned @ fusion.projection.weight.T + fusion.projection.bias
    torch.testing.assert_close(fusion(streams), expected)


@pytest.mark.parametrize("name", ["concat", "add", "cat"])
def test_a_standardised_stream_weighs_the_same_whatever_its_scale(name):
    fusion = FUSIONS[name](DIMENSIONS, LENGTHS, 6)
    streams = {stage: torch.randn(2, LENGTHS[stage], DIMENSIONS[stage]) for stage in DIMENSIONS}
    larger = {"cavp": streams["cavp"].half(), "timechat": 30 * streams["timechat"]}
    assert not torch.allclose(fusion.fuse(streams), fusion.fuse(larger), atol=0.1)
    fusion.standardise = True
    torch.testing.assert_close(fusion.fuse(streams), fusion.fuse(larger), rtol=0, atol=0.01)
    assert torch.isfinite(fusion.fuse({stage: torch.zeros_like(x) for stage, x in streams.items()})).all()
