"""Stands in for probing a file that never lets go; light, because workers import it within their limit."""

import os
import time
from pathlib import Path

from pipeline.media import probe


def hangs_on_bad(path):
    while "bad" in Path(path).name:
        time.sleep(60)
    return probe(path)


def sleeps(path, seconds):
    """Says by a file who sleeps."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)
