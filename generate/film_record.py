"""What a folder of films was made from: a line of JSON a film, so that a rerun makes again only what is of something
else by now."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeGuard

from common.writing import make_folder, sync_folder, write_error
from generate.mux import CONTAINERS
from manifests.folders import MADE_FILMS, read_made_films
from pipeline.sources import SourceFile


@dataclass(frozen=True)
class FilmTask:
    """One video: its path and that below the folder (``name``), its label, and the output with the suffix that was
    asked for, its path and that below the output folder (``asked``)."""

    video: Path
    name: str
    label: str
    out: Path
    asked: str

    @property
    def outputs(self) -> list[Path]:
        """Where its output may get: Matroska takes a picture that the container asked for does not."""
        more = [".mkv"] if self.out.suffix in CONTAINERS else []
        return [self.out.with_name(self.out.stem + suffix) for suffix in dict.fromkeys([self.out.suffix, *more])]


@dataclass(frozen=True)
class MadeFilm:
    """One line. ``asked``, ``video``: of :class:`FilmTask`; ``output``: what is there instead, "" where it failed.

    ``source`` and ``made`` are the :attr:`SourceFile.state` of both files; ``settings``: a digest of all that decides
    the output besides video and label.
    """

    asked: str
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
    """The lines of a folder, the last one for each output; damaged lines (of a killed writer) are none."""

    def __init__(self, out: Path):
        self.out, self.path = out, out / MADE_FILMS
        self.films: dict[str, MadeFilm] = {}
        for line in read_made_films(self.path):
            try:
                film = MadeFilm(**line)
            except TypeError:  # of another version
                continue
            self.films[film.asked] = film

    def made_from(self, task: FilmTask, settings: str) -> MadeFilm | None:
        """The film if its file is there as it was written, of this video, label and settings."""
        film = self.films.get(task.asked)
        if film is None or (film.label, film.settings) != (task.label, settings) or not self.is_ours(film):
            return None
        return film if SourceFile(task.video).same_as(film.source) else None

    def is_ours(self, film: MadeFilm | None) -> TypeGuard[MadeFilm]:
        """Whether the file of a line is there as it was written."""
        if film is None or not film.output:
            return False
        path = self.out / film.output
        return path.is_file() and SourceFile(path).same_as(film.made)

    def remove(self, task: FilmTask, but: str = "") -> None:
        """Remove what was made for a task before, unless its name is ``but``."""
        if self.is_ours(film := self.films.get(task.asked)) and film.output != but:
            (self.out / film.output).unlink(missing_ok=True)

    def add(self, film: MadeFilm) -> None:
        """Append a line and have it on the disk; raises :class:`WriteError`."""
        self.films[film.asked] = film
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
