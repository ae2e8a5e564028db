"""What a folder of films was made from: a line of JSON a film, so that a rerun makes again only what is of something
else by now."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from manifests.folders import MADE_FILMS, read_made_films
from pipeline.sources import SourceFile
from common.writing import make_folder, sync_folder, write_error


@dataclass(frozen=True)
class MadeFilm:
    """One line. ``video`` and ``output`` are paths below the two folders; ``output`` is "" where it failed.

    ``source`` and ``made`` are the :attr:`SourceFile.state` of both files; ``settings``: a digest of all that decides
    the output besides video and label.
    """

    video: str
    output: str
    label: str = ""
    settings: str = ""
    source: str = ""
    made: str = ""
    seed: int = 0
    score: float = 0.0
    seconds: float = 0.0
    reason: str = ""


class FilmRecord:
    """The lines of a folder, the last one of each video; damaged lines (of a killed writer) are none."""

    def __init__(self, out: Path):
        self.out, self.path = out, out / MADE_FILMS
        self.films: dict[str, MadeFilm] = {}
        for line in read_made_films(self.path):
            try:
                film = MadeFilm(**line)
                self.films[film.video] = film
            except TypeError:  # of another version
                continue

    def made_from(self, video: Path, name: str, label: str, settings: str) -> MadeFilm | None:
        """The film if its file is there as it was written, of this video, label and settings."""
        film = self.films.get(name)
        if film is None or not film.output or not (self.out / film.output).is_file():
            return None
        if (film.label, film.settings) != (label, settings) or not SourceFile(video).same_as(film.source):
            return None
        return film if self.is_ours(film) else None

    def is_ours(self, film: MadeFilm) -> bool:
        """Whether the file of a line is as it was written."""
        return bool(film.output) and SourceFile(self.out / film.output).same_as(film.made)

    def add(self, film: MadeFilm) -> None:
        """Append a line and have it on the disk; raises :class:`WriteError`."""
        self.films[film.video] = film
        line = json.dumps(asdict(film)) + "\n"
        try:
            make_folder(self.out)
            new = not self.path.exists()
            with self.path.open("ab") as file:
                # A line that a killed writer left unfinished must not swallow this one.
                file.write(b"" if new or _ends_a_line(self.path) else b"\n")
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self.out)
        except OSError as error:
            raise write_error(self.path, error) from error


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
