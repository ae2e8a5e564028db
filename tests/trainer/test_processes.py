"""Two and three real processes train what one does."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cache import open_store
from tests.tiny import TINY
from tests.trainer.caches import comparable, write_cache
from tests.trainer.several import SETTINGS, work

ROOT = Path(__file__).parents[2]
TORCHRUN = str(Path(sys.executable).parent / "torchrun")

# 20 training clips: batches of 7, 7, 6 and of 9, 9, 2. With two processes these are parts of 4 + 3 and 5 + 4 clips,
# with three of 3 + 2 + 2 and 3 + 3 + 3, and one process has none of the last 2.
ACCUMULATE, BATCHES = (1, 3, 4), (7, 9)
MATRIX = [
    (f"accumulate{parts}-batch{size}", [f"training.accumulate={parts}", f"training.global_batch={size}"], [])
    for parts in ACCUMULATE
    for size in BATCHES
]
MATRIX += [
    (
        "v2a",
        [
            "training.accumulate=3",
            "training.global_batch=9",
            "mapper.kind=v2a",
            "mapper.sampling_steps=2",
            "mapper.options={condition_dropout: 0.0}",
        ],
        ["diffusion"],
    ),
    ("clipped", ["training.accumulate=4", "training.global_batch=9", "training.gradient_clip=0.5"], []),
    (
        "diffusion",
        ["training.accumulate=3", "training.global_batch=9", "mapper.kind=diffusion", "mapper.sampling_steps=2"],
        ["diffusion"],
    ),
]
FEWER = [job for job in MATRIX if job[0] in ("accumulate1-batch9", "accumulate3-batch7", "accumulate4-batch9")]
FEWER += MATRIX[-2:]
DROPOUT = ["mapper.dropout=0.2", "training.global_batch=9"]
RESUMED = ["training.global_batch=9", "training.accumulate=4"]
OTHERS = [
    ("dropout-parts", [*DROPOUT, "training.epochs=1"], []),
    ("dropout-parts", [*DROPOUT, "training.epochs=2"], []),
    ("dropout-whole", [*DROPOUT, "training.epochs=2"], []),
    ("decided", ["training.global_batch=9"], ["little memory on one"]),
    ("nan", ["training.global_batch=9"], ["nan"]),
]


def launch(command):
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def several(processes, cache, folder, jobs):
    """Jobs in so many processes; what each process saw of each job."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [TORCHRUN, "--standalone", "--nproc_per_node", str(processes), "-m", "tests.trainer.several"]
    launch([*command, str(cache), str(folder), str(folder / "jobs.json")])
    return {job[0]: json.loads((folder / f"{number}.json").read_text()) for number, job in enumerate(jobs)}


def readme_line():
    """The command of the README that starts several processes."""
    line = re.search(r"^\.venv/bin/torchrun .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert line, "README.md does not say how to start several processes"
    return shlex.split(line[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Everything trained once: by one process here, by two and by three; and one run that goes 2 -> 3 -> 1."""
    folder = tmp_path_factory.mktemp("runs")
    write_cache(folder / "cache")
    store = open_store(folder / "cache")
    seen = {1: {job[0]: [work(store, folder / "1", *job)] for job in MATRIX}}
    places = {"cache/mine": str(folder / "cache"), "runs/two": str(folder / "resumed")}
    words = [places.get(word, word) for word in readme_line()]
    assert set(places.values()) < set(words)
    settings = [word for each in (*SETTINGS, *RESUMED) for word in ("--set", each)]
    seen["readme"] = launch([TORCHRUN, *words[1:], "--preset", TINY, "--device", "cpu", *settings])
    seen[2] = several(2, folder / "cache", folder / "2", [*MATRIX, *OTHERS])
    seen["state"] = json.loads((folder / "resumed/checkpoints/epoch-00001/state.json").read_text())
    resumed = str(folder / "resumed")
    seen[3] = several(
        3, folder / "cache", folder / "3", [*FEWER, (resumed, [*RESUMED, "training.epochs=2"], ["as it is"])]
    )
    seen["resumed"] = work(store, folder, resumed, [*RESUMED, "training.epochs=3"], ["as it is"])
    seen["whole"] = work(store, folder, "whole", [*RESUMED, "training.epochs=3"], ["as it is"])
    return folder, seen


def differences(one, other):
    """How far each weight of the two mappers is from the other's."""
    first, second = (comparable(load_file(run / "mapper" / "model.safetensors")) for run in (one, other))
    assert first.keys() == second.keys()
    return torch.cat([(first[name] - second[name]).abs().flatten() for name in first])


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_what_one_does(runs, processes):
    folder, seen = runs
    for name, _, _ in MATRIX if processes == 2 else FEWER:
        assert [each["world"] for each in seen[processes][name]] == [processes] * processes
        far = float(differences(folder / "1" / name, folder / str(processes) / name).max())
        print(f"{processes} processes, {name}: {far:.1e}")
        assert far < 1e-5, name
        (one,) = seen[1][name]
        for each in seen[processes][name]:
            assert each["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert each["validation"] == pytest.approx(one["validation"], rel=1e-4)


def test_the_line_of_the_readme_starts_two(runs):
    _, seen = runs
    assert seen["state"]["processes"] == 2
    said = seen["readme"]
    assert re.search(r"processes\s+2 on cpu", said.stdout)
    assert said.stdout.count("written to") == 1  # one of them speaks
    assert "Warning" not in said.stderr


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(runs):
    folder, seen = runs
    for each in seen[3][str(folder / "resumed")]:
        assert "went on with 3 processes after 2" in each["notes"][0]
    assert "went on with 1 processes after 3" in seen["resumed"]["notes"][0]
    far = differences(folder / "resumed", folder / "whole")
    print(f"2 -> 3 -> 1 processes against one throughout: largest {far.max():.1e}, {int((far > 1e-5).sum())} over 1e-5")
    assert far.quantile(0.999) < 1e-5  # the rest: see tests.trainer.several.conditioned
    assert far.max() < 2e-3


def test_every_process_draws_its_own_dropout_and_the_run_is_reproducible(runs):
    folder, seen = runs
    first, second = (each["seed"] for each in seen[2]["dropout-whole"])
    assert first != second
    assert seen[2]["dropout-parts"][0]["notes"] == []
    assert differences(folder / "2/dropout-parts", folder / "2/dropout-whole").max() == 0


def test_memory_or_stream_is_decided_for_all(runs):
    _, seen = runs
    assert all(each["how"].startswith("streamed") for each in seen[2]["decided"])
    assert all(each["how"].startswith("in memory") for each in seen[2]["dropout-whole"])


def test_all_processes_stop_for_the_same_reason(runs):
    _, seen = runs
    first, second = (each["error"] for each in seen[2]["nan"])
    assert first == second
    assert re.match(r"the loss is nan in epoch 1, step \d, clips: .*clip003", first)
