"""The weights that ship are those of their card, small enough, and complete."""

import re
import tomllib
from pathlib import Path

from common.hashing import sha256_file
from micro.models import STAGES
from presets import load_preset
from presets.config import HERE

FOLDER = load_preset("micro").weights.path
MOST = 25_000_000  # bytes, all files together


def test_every_file_has_the_hash_that_the_card_gives():
    rows = re.findall(
        r"^\| `([^`]+\.safetensors)` \| [^|]+ \| `([0-9a-f]{64})` \|$", (FOLDER / "README.md").read_text(), re.M
    )
    files = {path.relative_to(FOLDER).as_posix(): sha256_file(path) for path in FOLDER.rglob("*.safetensors")}
    assert dict(rows) == files
    assert len(files) >= 11


def test_they_stay_small_and_travel_with_the_package():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST
    packaged = tomllib.loads((Path(HERE).parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {"*.yaml", "micro/*", "micro/**/*"} <= set(packaged["presets"])


def test_every_stage_has_its_log():
    for stage in STAGES:
        assert (FOLDER / "logs" / f"{stage}.jsonl").read_text().count("\n") > 3, stage
