"""What the commands of these tests are given, and what they leave."""

import json

from manifests.folders import MADE_FILMS

SMALL = ("--set", "media.frame_size=56")


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MADE_FILMS}


def lines(out):
    return [json.loads(line) for line in (out / MADE_FILMS).read_text().splitlines()]
