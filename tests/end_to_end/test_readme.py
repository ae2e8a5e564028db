"""Every command of the README, run as it stands there, with its example paths put in place."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from micro.world.render import render_world

ROOT = Path(__file__).parents[2]
EXIT_CODES = {"weights": 5}  # the official files are not here: the command says so
IN_CI = ("make demo", "make test")
SERVES = ("make app",)  # until it is stopped: tests/end_to_end/test_app.py


def readme_commands():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", ".venv/bin/"))]


def test_the_two_commands_are_run_by_ci():
    script = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"^{command}\b", script, re.MULTILINE) for command in IN_CI)
    assert all(command in readme_commands() for command in IN_CI)
    assert "test_readme.py" in script


@pytest.mark.slow
def test_every_other_command(tmp_path):
    for path, _ in render_world(tmp_path / "videos", 36):
        if int(path.stem[5:11]) not in (0, 1, 2, 24, 30):
            path.unlink()
    (tmp_path / "vggsound.csv").write_text("world000000,0,ball bouncing,train\n")
    (tmp_path / "visualsound.csv").write_text("filename,start,desc,split\nworld000000,0,ball bouncing,train\n")
    (tmp_path / "validation.txt").write_text("world000000_0_10000\n")
    (tmp_path / ".installed").touch()
    places = {
        "path/to/videos": "videos",
        "clip.mp4": next((tmp_path / "videos").rglob("*.mp4")).relative_to(tmp_path).as_posix(),
        **{name: name for name in ("vggsound.csv", "visualsound.csv", "validation.txt", "out.mp4")},
        **{name: name for name in ("data/vggsound.parquet", "data/visualsound.parquet")},
        "published": "visualsound.csv",  # the list of what we rendered
    }
    commands = [command for command in readme_commands() if command not in (*IN_CI, *SERVES)]
    assert len(commands) >= 12
    for command in commands:
        words = []
        for word in shlex.split(command):
            variable, separator, value = word.rpartition("=") if not word.startswith("ARGS=") else ("", "", word)
            if value in places or value.startswith(("cache/", "runs/", "outputs/")):
                value = str(tmp_path / places.get(value, value))
            words.append(f"{variable}{separator}{value}")
        if words[0] == "make":
            # The environment that runs this test stands in for .venv, so nothing is installed.
            words += [f"BIN={Path(sys.executable).parent}", f"INSTALLED={tmp_path / '.installed'}"]
            if words[1] == "train":
                words = [w.replace("ARGS=", "ARGS=--set training.epochs=1 ") for w in words]
        else:
            words[0] = str(Path(sys.executable).parent / Path(words[0]).name)
            if "trainer" in words:
                words += ["--set", "training.epochs=1"]
        if words[1] == "setup":
            continue
        result = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        wanted = next((code for name, code in EXIT_CODES.items() if name in command.split()), 0)
        assert result.returncode == wanted, f"{command}\n{result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr
