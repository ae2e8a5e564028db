"""The study at its smallest: everything is made, measured and written, and a second run makes nothing again."""

import json
import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from common.errors import InputError
from micro.judge import TITLES, chance
from micro.study import FIGURE3, MFM, SYSTEMS, V2A, Condition, Study, label_given
from micro.study_measure import convergence
from micro.study_parts import mapper_task, mapper_tasks
from micro.study_report import write_report
from micro.study_run import Machine, check_size, parts_of
from micro.study_run import run as run_study
from micro.tasks import Task, Workers
from micro.world.render import KINDS, scene_of, split_of
from tests.commands import run
from tests.tiny import TINY

BASELINE = "v2a-mapper-micro"
SEEDED = ("weights.source=seeded",)


@pytest.mark.slow
def test_the_whole_study_in_parts(tmp_path):
    """By processes, first some parts, then all, then again."""
    arguments = (
        "micro", "study", "--folder", tmp_path / "study", "--preset", TINY, "--baseline", BASELINE, "--clips", 139,
        "--seeds", 1, "--per-class", 2, "--workers", 2, "--device", "cpu",
        "--set", "training.epochs=2", "--set", "generation.steps=2", "--set", "mapper.layers=1",
        "--set", "mapper.sampling_steps=3", "--set", *SEEDED,
        "--points", "DDIMScheduler:2,DPMSolverMultistepScheduler:1",
    )  # fmt: skip
    study = Study(tmp_path / "study", 139, 1, 2, TINY, (*SEEDED, "training.epochs=2"), BASELINE)
    run(*arguments, "--parts", "clips,cache")
    assert not (study.folder / "runs").exists()
    text = run(*arguments, "--parts", "mappers,sounds,report")
    assert "not made yet" not in text
    assert json.loads((study.folder / "results.json").read_text())["figure3"]["lines"] == {}
    text = run(*arguments)
    assert "0 clips rendered" in text
    written = (study.folder / "results.json").read_text()
    assert "NaN" not in written, "a study that is not refused has every figure"
    results = json.loads(written)
    assert {*SYSTEMS, "MFM-Mapper, no label", "label only", "truth"} < {*results["figures"]}
    assert results["figures"]["truth"]["class_accuracy"][0] > 0.9
    assert {name: line[-1]["epoch"] for name, line in results["figure3"]["lines"].items()} == dict.fromkeys(FIGURE3, 5)
    assert [point["name"] for point in results["curve"]["points"]] == ["DDIM 2", "DPM-Solver++ 1"]
    # The study's own MFM-Mapper was made to sound with the same scheduler, steps and start noise.
    same, figures = results["curve"]["points"][0]["figures"], results["figures"][MFM]
    assert same["class_accuracy"] == figures["class_accuracy"]
    assert same["FD"][0] == pytest.approx(figures["FD"][0], rel=1e-3)
    assert results["trained"]["MFM-Mapper-M"]["epochs"] == 5
    assert results["trained"]["MFM-Mapper, 16 % of clips"]["hours"] < 0.2 * results["trained"][MFM]["hours"]
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*") if path.suffix in (".wav", ".mp4")}
    run(*arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_conditions_and_presets(tmp_path):
    study = Study(tmp_path, seeds=2, preset_name=TINY, assignments=(*SEEDED, "training.epochs=40"), baseline=BASELINE)
    places = [c.place for c in (*study.conditions(), *study.figure3_conditions())]
    assert len({*places}) == len(places)
    assert study.epochs("MFM-Mapper-M") == [5, 10, 20, 40, 60, 80, 100]
    assert study.mapper_preset("MFM-Mapper-M", 1).training.epochs == 100
    assert study.mapper_preset(MFM, 1).training.keep_epochs == [5, 10, 20, 40, 60, 80, 100]
    assert study.mapper_preset("cat", 1).training.keep_epochs == []
    assert study.mapper_preset(V2A, 0).mapper.kind == "v2a"
    assert study.mapper_preset("V2A-Mapper, regression", 0).mapper.options["variant"] == "regression"
    assert V2A not in replace(study, baseline="").systems
    given = {kind: label_given(Condition("", label=kind), "world000000_000000") for kind in ("right", "none", "wrong")}
    assert given["right"] == next(iter(KINDS))
    assert given["none"] == ""
    assert given["wrong"] in {*KINDS} - {given["right"]}


def test_a_longer_training_goes_on_where_the_schedule_lets_it(tmp_path):
    study = Study(tmp_path, seeds=1, preset_name=TINY)
    tasks = {task.name: task for task in mapper_tasks(study, "cpu", "cuda")}
    first, longer = tasks[mapper_task(MFM, 0)], tasks[mapper_task("MFM-Mapper-M", 0)]
    assert longer.after == (first.name,)
    assert first.cost > longer.cost > tasks[mapper_task("cat", 0)].cost
    assert [tasks[mapper_task(name, 0)].device for name in (MFM, "cat", "Diff-Mapper")] == ["cuda", "cpu", "cuda"]
    cosine = replace(study, assignments=("training.schedule=cosine",))
    tasks = {task.name: task for task in mapper_tasks(cosine, "cpu", "cuda")}
    assert tasks[mapper_task("MFM-Mapper-M", 0)].after == ()
    assert Machine(1, mapper_device="auto").mapper_devices("cuda") == ("cuda", "cuda")
    assert Machine(8, mapper_device="auto").mapper_devices("cuda") == ("cpu", "cuda")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 0}, "--seeds is 0, and must be at least 1"),
        ({"per_class": 1}, "--per-class is 1, and must be at least 2"),
        ({"clips": 138}, "--clips is 138, and must be at least 139"),
    ],
)
def test_a_study_whose_figures_would_have_no_value_is_refused(tmp_path, change, said):
    study = Study(tmp_path / "study", 139, 1, 2, TINY)
    check_size(study)
    with pytest.raises(InputError, match=said):
        run_study(replace(study, **change), Machine(), print, ())
    assert not study.folder.exists()


@pytest.mark.parametrize("clips", [138, 139])
def test_the_least_clips_are_two_of_each_class_to_be_compared(clips):
    """Counted in the world itself, and by the figure that has none where no clip has another of its class."""
    scenes = [scene_of(number) for number in range(clips) if split_of(number) == "test"]
    assert (min(Counter(scene.label for scene in scenes).values()) == 2) == (clips == 139)
    assert math.isfinite(chance(scenes))
    one_each = list({scene.label: scene for scene in scenes}.values())
    assert math.isnan(chance(one_each))


def test_parts_are_named():
    assert parts_of("all")[0] == "clips"
    assert parts_of("report, curve") == ["report", "curve"]
    with pytest.raises(InputError, match="no part 'sound' of the study: there are clips, cache"):
        parts_of("clips,sound")


ORDER = []


def note_down(name):
    ORDER.append(name)
    return name.upper()


def test_tasks_the_largest_first_and_each_after_what_it_needs():
    ORDER.clear()
    tasks = [
        Task("small", note_down, ("small",), 1),
        Task("needs", note_down, ("needs",), 9, ("small", "not among them")),
        Task("large", note_down, ("large",), 5),
    ]
    said = []
    with Workers(1) as workers:
        assert workers.through(tasks, said.append)["needs"] == "NEEDS"
        assert ORDER == ["large", "small", "needs"]
        assert said[-1].startswith("3 of 3: needs")
        with pytest.raises(ValueError, match="wait for each other: a, b"):
            workers.through([Task("a", note_down, ("a",), 1, ("b",)), Task("b", note_down, ("b",), 1, ("a",))], print)
        with pytest.raises(AttributeError):
            workers.through([Task("wrong", note_down, (None,))], print)


def test_what_still_falls_is_flagged():
    falling = [[epoch, 10 * 0.97**epoch] for epoch in range(1, 41)]
    flat = [[epoch, 5 + 3 * 0.5**epoch] for epoch in range(1, 41)]
    assert convergence([falling, falling])["fall"] == pytest.approx(0.12, abs=0.02)
    assert abs(convergence([flat])["fall"]) < 1e-3
    assert convergence([[[1, 2.0]]]) == {"error": 2.0, "fall": 0.0}


def figures_of(n, told=None):
    return {
        "class_accuracy": [1 - 0.01 * n, 0.0],
        "class_probability": [1 - 0.02 * n, 0.0],
        "onset_f1": [0.9 - 0.05 * n, 0.01],
        "onset_recall": [0.9, 0.0],
        "timing_error": [0.05 * n, 0.001],
        "loudness": [0.9, 0.0],
        "FD": [float(n), 0.1],
        "token_error": [0.1 * n, 0.0],
        **({} if told is None else {"heard_as_told": [told, 0.0]}),
    }


def test_the_report_ranks_and_marks(tmp_path):
    names = ("truth", "ceiling", "oracle", *SYSTEMS, "MFM-Mapper, no label", "label only")
    figures = {name: figures_of(n) for n, name in enumerate(names)}
    figures["MFM-Mapper, wrong label"] = figures_of(4, told=0.25)
    lines = [{"epoch": 5, "figures": figures_of(3)}, {"epoch": 100, "figures": figures_of(2)}]
    results = {
        "clips": {"rendered": 72, "test": 12, "with events": 9},
        "seeds": 2,
        "preset": "micro",
        "baseline": "other",
        "missing": ["cat, seed 1"],
        "chance_timing_error": 0.3,
        "mean_predictor_token_error": 1.0,
        "figures": figures,
        "trained": {MFM: {"parameters": 475_488, "hours": 2.61, "scale": 104.4, "epochs": 40}},
        "tests": [{"row": MFM, "other": V2A, "figure": "timing_error", "better": 0.1, "p": 1e-4}],
        "curves": {
            "MFM-Mapper-M": [[[n, 2 + 1 / n] for n in range(1, 101)]] * 2,
            "Diff-Mapper-M": [[[n, 9 - 0.08 * n] for n in range(2, 101, 2)]] * 2,
        },
        "figure3": {"clips": 24, "lines": {"MFM-Mapper-M": lines, "Diff-Mapper-M": lines[:1]}},
        "curve": None,
    }
    text = write_report(results, tmp_path).read_text()
    assert (
        "| Table 2 | FD_PaSST | CAVP+TimeChat > CAVP > TimeChat | FD | CAVP+TimeChat > CAVP > TimeChat | yes |" in text
    )
    assert "| Table 2 | IB-score | CAVP+TimeChat > TimeChat > CAVP | class probability |" in text
    assert re.search(r"\| Table 2 \| IB-score .* \| no \|", text)
    assert re.search(r"\| Figure 3 \|.*\| validation error \| Diff-Mapper > GPT-2 \| no \|", text)
    assert "| MFM-Mapper | 0.970 | 0.940 | 0.750 ± 0.010 |" in text
    assert "| 0.475 | 2.61 | 104.4 |" in text
    assert "| MFM-Mapper | V2A-Mapper | timing error, s | +0.100 | 1.0e-04 |" in text
    assert "cat, seed 1" in text
    assert "with the right label 97.0%, with an empty prompt" in text
    assert "another class 96.0% (and 25.0% as the label says)" in text
    assert re.search(r"Diff-Mapper-M \| 100 \| 1.000 \| \+80.0 % \| still falls", text)
    assert re.search(r"MFM-Mapper-M \| 100 \| 2.010 \| \+0.1 % \|  \|", text)
    assert "curve.md" not in text
    assert "Reasons" not in text
    assert (tmp_path / "figure3.png").stat().st_size > 10_000
    assert all(title in text for title in TITLES.values())
    (tmp_path / "reasons.md").write_text("Because.\n")
    probes = {"timechat": {"class_accuracy": 0.5}, "tokens of cavp-0": {"class_accuracy": 0.75}, "other": {}}
    (tmp_path / "probe.json").write_text(json.dumps({"probes": probes}))
    text = write_report({**results, "curve": {"points": []}}, tmp_path).read_text()
    assert "## Reasons\n\nBecause." in text
    found = "class accuracy by linear probes of timechat 0.500, tokens of cavp-0 0.750."
    assert f"- Table 2, IB-score: {found}\n" in text
    assert "[curve.md](curve.md)" in text
