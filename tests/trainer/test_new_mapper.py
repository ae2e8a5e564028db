"""A mapper without a GPT-2 and a fusion, of files of their own and a line of a registry each."""

import pytest
import torch

from common.errors import PresetError, WeightsError
from presets import load_preset
from presets.mappers import FUSIONS, MAPPERS
from tests.tiny import TINY
from tests.trainer.caches import write_cache
from trainer.registry import MFMMapper
from trainer.train import Trainer

POOLED = '''
"""The mean of the fused features through one linear layer."""

from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from presets.checks import STRICT, Count
from trainer.fusion import build_fusion
from trainer.mapper import Mapper, MapperSpec, error_per_clip


@dataclass(config=STRICT, frozen=True)
class PooledOptions:
    every: Count = 1


class PooledMapper(Mapper):
    Options = PooledOptions

    def __init__(self, spec: MapperSpec):
        super().__init__(spec)
        self.fusion = build_fusion(spec)
        self.linear = nn.Linear(spec.target[1], spec.target[0] * spec.target[1])

    def predict(self, visual: Mapping[str, Tensor]) -> Tensor:
        fused = self.fusion.fuse(visual)
        return self.linear(fused[:, :: self.options.every].mean(1)).unflatten(1, self.spec.target)

    def losses(self, visual: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return error_per_clip(self.predict(visual), target, self.spec.loss)
'''
MEANS = '''
"""The mean of each stream, one after the other."""

import torch
from torch import nn

from trainer.fusion import Fusion


class MeansFusion(Fusion):
    def __init__(self, dimensions, lengths, width):
        super().__init__(dimensions, lengths, width)
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in dimensions.items()})

    @property
    def length(self):
        return len(self.names)

    def forward(self, streams):
        return torch.stack([self.projections[name](streams[name].mean(1)) for name in self.names], 1)
'''
SETTINGS = ("mapper.kind=pooled", "mapper.fusion=means", "training.epochs=2")


@pytest.fixture
def registered(tmp_path, monkeypatch):
    for name, text, registry in (("pooled", POOLED, MAPPERS), ("means", MEANS, FUSIONS)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(registry, "_places", dict(registry._places))
    monkeypatch.syspath_prepend(tmp_path)
    MAPPERS.add("pooled", "pooled:PooledMapper")
    FUSIONS.add("means", "means:MeansFusion")


def trainer(tmp_path, *assignments, run="run"):
    return Trainer(load_preset(TINY, [*SETTINGS, *assignments]), write_cache(tmp_path / "cache"), tmp_path / run, "cpu")


def test_it_trains_goes_on_and_is_loaded(registered, tmp_path):
    first = trainer(tmp_path, "mapper.options={every: 2}")
    assert first.fit().epochs_now == 2
    assert trainer(tmp_path, "mapper.options={every: 2}", "training.epochs=3").fit().epochs_before == 2
    mapper = MFMMapper.from_pretrained(tmp_path / "run")
    assert mapper.options.every == 2
    assert mapper.spec.mapper.fusion == "means"
    batch = next(first.data.batches("train", 4, None))
    assert mapper.predict(batch.visual).shape == batch.target.shape == (4, 8, 96)

    on = trainer(tmp_path, "mapper.options={every: 2}", f"mapper.initialise={tmp_path / 'run' / 'mapper'}", run="other")
    assert all(torch.equal(tensor, on.model.state_dict()[name]) for name, tensor in mapper.state_dict().items())


def test_it_says_what_it_takes(registered, tmp_path, monkeypatch):
    gpt2 = tmp_path / "language_model"
    gpt2.mkdir()
    with pytest.raises(WeightsError, match=r"a mapper of kind 'pooled' is not filled from .*language_model: it takes"):
        trainer(tmp_path, f"mapper.initialise={gpt2}")
    before = ["weights.source=official", "weights.audioldm2=no/body", "mapper.initialise=audioldm2"]
    monkeypatch.setattr("pipeline.hub.list_repo_files", lambda _: pytest.fail("the hub is asked for what is refused"))
    with pytest.raises(WeightsError, match="a mapper of kind 'pooled' is not filled from audioldm2: it takes"):
        trainer(tmp_path, *before)
    with pytest.raises(PresetError, match=r"mapper\.options: every is 0, and must be a whole number from 1"):
        trainer(tmp_path, "mapper.options={every: 0}")
    with pytest.raises(PresetError, match=r"mapper\.options is .*, and a mapper of kind 'gpt2' has none"):
        trainer(tmp_path, "mapper.kind=gpt2", "mapper.options={every: 1}")
    with pytest.raises(PresetError, match=r"mapper\.kind is pool, and must be one of gpt2, .*, pooled"):
        load_preset(TINY, ["mapper.kind=pool"])
