"""The benchmarks of generation and evaluation run and compare equal things; their figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import TINY

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "result"),
    [
        ("generate", ["--preset", TINY, "--clips", "2", "--steps", "2", "--rounds", "1"], "generate_tiny_cpu"),
        ("predict", ["--preset", "micro", "--batch", "4", "--rounds", "1"], "predict_micro_cpu"),
        (
            "evaluation",
            ["--clips", "200", "--width", "32", "--networks", "vggish", "--device", "cpu", "--file-clips", "2"],
            "evaluation_cpu",
        ),
    ],
)
def test_benchmark(name, options, result, tmp_path):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options, "--out", str(tmp_path)], cwd=ROOT, check=True)
    values = json.loads((tmp_path / f"{result}.json").read_text())
    assert values.get("frechet_distance", values)["relative_difference"] < 1e-4
    assert values["machine"]["device"]
    if name == "generate":
        assert values["ours"]["seconds, wav and wav_8s"]["wall_over_sampler"] >= 1
        for contender in ("ours", "AudioLDM2Pipeline loop"):
            hours = values[contender]["hours_for_15000_clips"]
            assert 0 < hours["sampler"] < hours["all"]
    if name == "evaluation":
        assert values["from_files"]["hours_for_15000_clips"]["generated"] > 0
