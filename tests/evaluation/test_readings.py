"""The evaluation part of docs/readings.md: every line names the tests that show it, and they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_line_names_tests_that_exist():
    text = (ROOT / "docs" / "readings.md").read_text().split("\n## Evaluation\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    assert len(lines) >= 19
    for line in lines:
        named = re.findall(r"`(test_\w+)`", line.replace(r"\|", "").split("|")[-2])
        assert named, line
        assert set(named) <= there, set(named) - there
