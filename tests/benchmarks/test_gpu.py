"""``benchmarks.gpu`` on a CPU at tiny sizes: its figures mean nothing here, that it has them all does."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import TOTAL_SECONDS, run_section
from benchmarks.gpu_sections import SECTIONS, Settings
from tests.second_device import NAME
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]


def numbers(values):
    if isinstance(values, dict):
        for value in values.values():
            yield from numbers(value)
    elif isinstance(values, int | float):
        yield values


@pytest.fixture
def settings(tmp_path):
    return Settings(TINY, "cpu", True, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("predict", {"prediction", "memory"}),
        ("cache", {"to the device", "batches of 48 a second, no model", "memory"}),
        ("parity", {"mapper", "cavp", "timechat", "audiomae", "waveform after 2 steps", "memory"}),
    ],
)
def test_a_section(settings, name, figures):
    measured = dict(SECTIONS[name].run(settings))
    assert set(measured) == figures
    assert all(math.isfinite(number) for number in numbers(measured))
    if name == "parity":  # a CPU against itself
        assert max(row.get("float32", 0.0) for row in measured.values()) < 1e-6
        assert 0 < measured["cavp"]["bfloat16"] < 0.02


def test_what_fails_is_recorded(tmp_path):
    row = run_section("predict", Settings("no such preset", "cpu", True, str(tmp_path)), 60)
    assert row["status"] == "failed"
    assert "unknown preset" in row["error"]


def test_the_others_go_on_with_the_seconds_that_are_left(settings, monkeypatch):
    limits = {}

    def run(name, _, limit):
        limits[name] = limit
        return {"status": "failed" if name == "predict" else "done", "seconds": 10.0, "results": {}}

    monkeypatch.setattr(gpu, "run_section", run)
    rows = gpu.run_all(settings, ["predict", "cache"])
    assert [row["status"] for row in rows.values()] == ["failed", "done"]
    assert limits["cache"] == SECTIONS["cache"].seconds + SECTIONS["predict"].seconds - 10


def test_a_section_ends_with_its_time(settings):
    row = run_section("extract", settings, 0.3)
    assert (row["status"], row["results"]) == ("out of time", {})


def test_the_sections_fit_into_nine_minutes():
    assert sum(section.seconds for section in SECTIONS.values()) <= TOTAL_SECONDS < 540 - 30


def test_parity_measures_another_device(tmp_path):
    measured = dict(SECTIONS["parity"].run(Settings(TINY, NAME, True, str(tmp_path))))
    assert 0 < measured["timechat"]["float32"] < 1e-5
    assert 0 < measured["waveform after 2 steps"]["float32"] < 1e-4
    assert 1e-3 < measured["waveform after 2 steps"]["bfloat16"] < 0.1


@pytest.mark.slow
def test_the_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--preset", TINY, "--quick"]
    subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, check=True)
    values = json.loads((tmp_path / "gpu_cpu.json").read_text())
    assert {row["status"] for row in values["sections"].values()} == {"done"}
    made = {name: set(row["results"]) for name, row in values["sections"].items()}
    assert {"batch 1", "batch 2", "batch 1, compiled", "batch 2, compiled"} <= made["generate"]
    assert {"batch 1 filled up to 2, compiled", "batches of 2, compiled"} <= made["generate"]
    assert {"all stages", "cavp", "cavp, compiled"} <= made["extract"]
    assert {"ours", "with peers"} <= made["train"]
    assert all(math.isfinite(number) for number in numbers(values["sections"]))
