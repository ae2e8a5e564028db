"""Table 1's Scale and Param. of a mapper, against what was in the cache and in the optimiser."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from manifests.manifest import Clip, make_manifest
from presets import load_preset
from tests.tiny import TINY
from tests.trainer.caches import write_cache
from trainer.mapper import read_spec
from trainer.registry import default_mapper
from trainer.scale import fitted, seconds_of_sound
from trainer.train import Trainer

SETTINGS = ["mapper.layers=1", "training.log_every=1"]


def fit(store, run, *assignments):
    trainer = Trainer(load_preset(TINY, [*SETTINGS, *assignments]), store, run, "cpu")
    trainer.fit()
    return trainer


def test_a_run_says_what_it_was_trained_on_and_so_does_what_goes_on_from_it(tmp_path):
    """Of 24 clips 20 are trained on: three short ones, one long one, and one of which nobody knows."""
    lengths = [4.0, 4.0, 4.0, 3600.0, 0.0, 1.0, *[10.0] * 18]  # the sixth is for validation
    store, seconds = write_cache(tmp_path / "cache", lengths=lengths), 3 * 4 + 17 * 10
    first = fit(store, tmp_path / "run", "training.epochs=2")
    found = fitted(read_spec(tmp_path / "run/mapper"))
    assert found.hours == pytest.approx(2 * seconds / 3600)
    assert (found.kind, found.epochs) == ("gpt2", 2)
    assert found.parameters == first.parameters
    assert (
        f"| hours of sound trained on | {2 * seconds / 3600:.4g} |" in (tmp_path / "run/mapper/README.md").read_text()
    )
    tensors = load_file(tmp_path / "run/mapper/model.safetensors")
    assert found.parameters == sum(tensor.numel() for name, tensor in tensors.items() if "wte" not in name)
    fit(store, tmp_path / "run", "training.epochs=3")
    assert fitted(read_spec(tmp_path / "run/mapper")).hours == pytest.approx(3 * seconds / 3600)
    fit(store, tmp_path / "on", "training.epochs=1", f"mapper.initialise={tmp_path / 'run/mapper'}")
    assert fitted(read_spec(tmp_path / "on/mapper")).hours == pytest.approx(4 * seconds / 3600)


def test_clips_count_as_long_as_they_are():
    lengths = {"a": 3.0, "b": 12.0, "c": 0.0, "d": 10.0, "test": 5.0}
    clips = [Clip(name, "", 0, "", "train", "", duration_s=seconds) for name, seconds in lengths.items()]
    assert seconds_of_sound(make_manifest(clips, 16), list("abcd"), 10.0) == 3 + 10 + 10 + 10
    assert seconds_of_sound(None, list("abcd"), 8.0) == 32


def test_mappers_of_versions_before():
    """Clips of the full length; with another mapper before, it is not known."""
    spec = read_spec(default_mapper(load_preset("micro")))
    said = {"train_clips": 72_000, "epochs": 40, "media": {"seconds": 10.0}}
    before = replace(spec, provenance=said, mapper=replace(spec.mapper, initialise="audioldm2"))
    assert fitted(before).hours == 8000
    assert fitted(replace(before, mapper=replace(spec.mapper, initialise="shipped"))).hours is None
    assert fitted(replace(before, provenance={})).hours is None
    assert fitted(replace(before, provenance={**said, "train_seconds": 36_000.0})).hours is None
    known = {**said, "train_seconds": 36_000.0, "hours_before": 5.0}
    assert fitted(replace(before, provenance=json.loads(json.dumps(known)))).hours == 405
