"""Which mapper makes the sound where none is given."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from generate.__main__ import app
from generate.mappers import mapper_source
from presets import load_preset
from tests.generate.test_mux import sound_of
from trainer.registry import shipped_mapper


class TestMapper:
    def test_without_a_run_the_one_that_ships(self, clip, tmp_path, monkeypatch):
        """Nothing is trained and nothing is given but the film."""
        monkeypatch.undo()  # the models of micro
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, [str(clip), "-o", "out.mp4", "--steps", "2", "--device", "cpu"])
        assert result.exit_code == 0, result.output
        assert "the one that ships with preset micro" in result.output
        assert np.abs(sound_of(tmp_path / "out.mp4")).max() > 0.003

    def test_where_none_ships_it_is_said_before_anything_is_loaded(self, clip, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, [str(clip), "-o", "out.mp4", "--preset", "paper", "--device", "cpu"])
        assert result.exit_code == 5
        assert "no trained mapper ships with the preset 'paper'" in result.output
        assert all(word in result.output for word in ("make train", "the hub", "--run"))

    def test_the_run_of_the_preset_comes_first_for_a_split(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        micro, paper = load_preset("micro"), load_preset("paper")
        shipped = shipped_mapper(micro)
        assert [mapper_source(None, micro, split=split) for split in (True, False)] == [shipped, shipped]
        for name in ("micro", "paper"):
            (tmp_path / "runs" / name / "mapper").mkdir(parents=True)
        assert mapper_source(None, micro, split=True) == Path("runs/micro")
        assert mapper_source(None, micro, split=False) == shipped
        assert mapper_source(None, paper, split=False) == Path("runs/paper")
        assert mapper_source("me/mapper", micro, split=True) == "me/mapper"

    def test_a_bucket_is_no_run(self, clip, tmp_path):
        result = CliRunner().invoke(app, [str(clip), "-o", str(tmp_path / "o.mp4"), "--run", "s3://bucket/run"])
        assert (result.exit_code, "must be local" in result.output) == (4, True)
