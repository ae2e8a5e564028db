"""Variables of the Makefile reach the commands as they are."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def words(target, folder=ROOT, **variables):
    """What the shell would make of the command, by ``make -n`` in a folder: nothing is run."""
    assignments = [f"{name}={value.replace('$', '$$')}" for name, value in variables.items()]
    result = subprocess.run(
        ["make", "-n", "-f", ROOT / "Makefile", "--no-print-directory", "-o", "pyproject.toml", target, *assignments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (command,) = [
        line for line in result.stdout.replace("\\\n", " ").splitlines() if " -m " in line and "venv .venv" not in line
    ]
    return shlex.split(command)[3:]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("path", ["dir with spaces", "it's", "a;b & c", '"x"', "$HOME", "c(1).parquet", "b*", "-rf"])
def test_paths_of_any_kind(path):
    extract = words("extract", MANIFEST=path, CACHE=f"{path}/cache", PRESET=f"{path}.yaml", ARGS="--a b --c")
    assert extract == [
        "extract", "--preset", f"{path}.yaml", "--manifest", path, "--cache", f"{path}/cache",
        "--stage", "all", "--shards", "all", "--format", "hdf5", "--executor", "local", "--a", "b", "--c",
    ]  # fmt: skip
    generate = words("generate", CACHE=path, RUN=path, OUT=path)
    assert generate == ["--preset", "micro", "--cache", path, "--run", path, "--out", path, "--format", "hdf5"]
    assert words("evaluate", OUT=path, REFERENCE=path) == ["--preset", "micro", "--out", path, "--reference", path]
    assert words("train", CACHE=path, RUN=path)[2:6] == ["--cache", path, "--run", path]
    assert words("app", RUN=path, ARGS="--port 7861") == ["--preset", "micro", "--run", path, "--port", "7861"]
    assert words("status", CACHE=path)[:2] == ["status", path]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("value", ["", "cavp timechat", "all; echo x"])
def test_other_variables_are_one_word_too(value):
    """Empty ones moved every later word, and nothing of them is for the shell."""
    found = words("extract", MANIFEST="", STAGE=value, SHARDS=value, FORMAT=value, EXECUTOR=value)
    assert found[3:] == [
        "--manifest", "", "--cache", "cache/micro", "--stage", value, "--shards", value, "--format", value,
        "--executor", value,
    ]  # fmt: skip
    assert words("status", FORMAT=value)[-2:] == ["--format", value]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_page_takes_the_mapper_of_its_preset_unless_a_run_is_named():
    assert words("app", PRESET="paper") == ["--preset", "paper"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_split_takes_the_run_of_its_preset_where_it_is_there(tmp_path):
    """Else the command decides: the mapper that ships, or an error that says how to get one."""
    (tmp_path / "own.yaml").touch()
    assert "--run" not in words("generate", folder=tmp_path)
    assert "--run" not in words("generate", folder=tmp_path, PRESET="my, own.yaml")
    (tmp_path / "runs/micro").mkdir(parents=True)
    assert words("generate", folder=tmp_path, PRESET="micro,fast")[4:6] == ["--run", "runs/micro"]
    assert words("generate", folder=tmp_path, RUN="runs/mine")[4:6] == ["--run", "runs/mine"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_option_of_the_preset_has_sound_of_its_own_and_nothing_else():
    assert words("generate", PRESET="micro,fast", RUN="r") == [
        "--preset", "micro,fast", "--cache", "cache/micro", "--run", "r", "--out", "outputs/micro,fast",
        "--format", "hdf5",
    ]  # fmt: skip
    assert words("train", PRESET="micro,fast")[4:6] == ["--run", "runs/micro"]
    longer = ["--preset", "paper,mfm-mapper-m", "--cache", "cache/paper", "--run", "runs/paper,mfm-mapper-m"]
    assert words("train", PRESET="paper,mfm-mapper-m")[:6] == longer
    assert words("generate", PRESET="paper,fast,mfm-mapper-m", RUN="r")[2:4] == ["--cache", "cache/paper"]
    assert words("train", PRESET="my, own.yaml")[:4] == ["--preset", "my, own.yaml", "--cache", "cache/my, own.yaml"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("ships", [False, True])
def test_the_demo_has_the_baseline_where_it_ships(ships, tmp_path):
    """Of three of its clips, for Figure 2."""
    installed = tmp_path / ".installed"
    installed.touch()  # newer than pyproject.toml, whatever order a checkout wrote its files in
    words = [
        "make",
        "-n",
        "--no-print-directory",
        "demo",
        "BIN=bin",
        f"INSTALLED={installed}",
        f"DEMO_V2A={'there' if ships else ''}",
    ]
    commands = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    made = [shlex.split(line) for line in commands if "v2a-mapper-micro" in line]
    assert len(made) == ships
    assert ("--beside" in commands[-1]) == ships
    if ships:
        assert made[0][3] == "demo/clips/test"
        assert commands[-1].endswith(f"--beside V2A-Mapper={made[0][made[0].index('-o') + 1]}")
