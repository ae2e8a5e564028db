"""The study at its smallest: everything is made, measured and written, and a second run makes nothing again."""

import json

import pytest

from micro.study import VARIANTS
from micro.study_report import write_report
from tests.commands import run

SMALL = (
    "--clips", 72, "--seeds", 1, "--per-class", 1, "--set", "training.epochs=2", "--set", "generation.steps=2",
    "--points", "DDIMScheduler:2,DPMSolverMultistepScheduler:1",
)  # fmt: skip


@pytest.mark.slow
def test_the_whole_study(tmp_path):
    run("micro", "study", "--folder", tmp_path, *SMALL)
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(VARIANTS) < set(results["figures"])
    assert results["figures"]["truth"]["class_accuracy"][0] > 0.9
    assert [point["name"] for point in results["curve"]["points"]] == ["DDIM 2", "DPM-Solver++ 1"]
    # The study's own MFM-Mapper was made to sound with the same scheduler, steps and start noise.
    same, figures = results["curve"]["points"][0]["figures"], results["figures"]["MFM-Mapper"]
    assert same["class_accuracy"] == figures["class_accuracy"]
    assert same["FD"][0] == pytest.approx(figures["FD"][0], rel=1e-3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    assert len(before) == 12 * (2 + len([c for c in results["figures"] if c != "truth"]))
    text = run("micro", "study", "--folder", tmp_path, *SMALL)
    assert "0 clips rendered" in text
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_report_ranks_and_marks(tmp_path):
    names = ("truth", "ceiling", "oracle", *VARIANTS, "shuffled videos", "label only")
    figures = {
        name: {
            "class_accuracy": [1 - 0.01 * n, 0.0],
            "onset_f1": [0.9 - 0.05 * n, 0.01],
            "onset_recall": [0.9, 0.0],
            "timing_error": [0.05 * n, 0.001],
            "loudness": [0.9, 0.0],
            "FD": [float(n), 0.1],
            **({"token_error": [0.1 * n, 0.0]} if name not in ("truth", "ceiling") else {}),
        }
        for n, name in enumerate(names)
    }
    results = {
        "clips": {"rendered": 72, "test": 12, "with events": 9},
        "seeds": 1,
        "preset": "micro",
        "seconds_of_last_call": 60,
        "chance_timing_error": 0.3,
        "mean_predictor_token_error": 1.0,
        "figures": figures,
        "timing_against": {"label only": {"difference": 0.1, "p": 1e-4}},
        "curves": {"MFM-Mapper": [[3.0, 2.0]], "Diff-Mapper": [[4.0, 3.0]]},
    }
    text = write_report(results, tmp_path).read_text()
    assert "| Table 2 | FD_PaSST | CAVP+TimeChat > CAVP > TimeChat | FD | CAVP+TimeChat > CAVP > TimeChat |" in text
    assert "| Figure 3 | all, at the end | GPT-2 > Diff-Mapper | validation error | GPT-2 > Diff-Mapper |" in text
    assert "curve.md" not in text
    assert "[curve.md](curve.md)" in write_report({**results, "curve": {"points": []}}, tmp_path).read_text()
    assert "| MFM-Mapper | 0.970 | 0.750 ± 0.010 |" in text
    assert (tmp_path / "figure3.png").stat().st_size > 5000
