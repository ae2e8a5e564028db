"""The shipped weights are what the script makes: its first steps give the shipped logs again."""

import json

import pytest

from micro.fit import Fit
from micro.models import MicroModels, Steps
from presets import load_preset


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["audiomae", "vae", "cavp", "frames", "classifier"])  # those that rest on no other
def test_the_first_steps_are_those_of_the_log(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(Fit, "until", 50)
    getattr(MicroModels(load_preset("micro", ["weights.source=seeded"]), tmp_path, Steps()), stage)
    here = json.loads((tmp_path / f"{stage}.jsonl").read_text().splitlines()[0])
    shipped = load_preset("micro").weights.path / "logs" / f"{stage}.jsonl"
    there = json.loads(shipped.read_text().splitlines()[0])
    assert here["step"] == there["step"] == 50
    for name in here.keys() - {"step", "seconds"}:
        assert here[name] == pytest.approx(there[name], rel=0.02), name  # rounding grows with every step
