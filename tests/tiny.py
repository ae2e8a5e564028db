"""The preset of the tests that ask how things are done, not how they sound."""

from pathlib import Path

TINY = str(Path(__file__).parent / "tiny.yaml")
