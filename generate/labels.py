"""Labels of the videos of a folder: from the names of their folders, or from a table of files and labels."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from common.errors import InputError
from common.words import counted
from manifests.builders import label_of_video
from manifests.lists import read_text
from manifests.names import short_repr

_NAMED = 10
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass
class Labels:
    """A label for each video in turn ("" for none), and ``notes``: sentences on what of a table was of no use."""

    labels: list[str]
    notes: list[str] = field(default_factory=list)


def given_label(label: object) -> str:
    """A label as a user gives it, without white space around it: blanks are no label.

    Raises :class:`InputError` for what is no text, as bytes of a command line that are no UTF-8.
    """
    if not isinstance(label, str):
        raise InputError(f"label is {label!r}, and must be text")
    try:
        label.encode()
    except UnicodeEncodeError:
        raise InputError(f"label is {short_repr(label)}, which is not UTF-8") from None
    return label.strip()


def labels_of_folders(folder: Path, videos: Sequence[PurePath]) -> Labels:
    """The name of the folder right above; ``videos`` are relative to ``folder``, directly in which a video has none."""
    return Labels([label_of_video(folder / video, video) for video in videos])


def labels_of_table(table: str | Path, videos: Sequence[PurePath], folder: Path | None = None) -> Labels:
    """Labels of a CSV or TSV with the columns file and label, in any encoding of :func:`manifests.lists.read_text`.

    A first row ``file,label`` is a header; semicolons or tabs may stand for the commas, as spreadsheets write them. A
    file is named by its path below the folder, by its name alone where only one video has it, or, where ``folder`` is
    given, by its path from there, from the table's folder or from the root. Raises :class:`InputError` that names file
    and line: other columns, a name that several videos have, two labels for one video; and where no row names a video.
    Some rows of no video, and videos without a row, are notes.
    """
    text = read_text(table)
    rows = _rows(text.text, table)
    paths = {_plain(video.as_posix()): index for index, video in enumerate(videos)}
    roots = [] if folder is None else list(dict.fromkeys([os.path.abspath(folder), os.path.realpath(folder)]))
    places = [""] if folder is None else ["", os.path.dirname(os.path.abspath(table))]
    names = defaultdict(list)
    for index, video in enumerate(videos):
        names[_plain(video.name)].append(index)
    found: dict[int, tuple[str, str]] = {}
    notes, unknown = [text.note] if text.note else [], []
    for where, file, label in rows:
        name = _plain(PurePath(file.replace("\\", "/")).as_posix())
        chosen = [paths[name]] if name in paths else names.get(name, [])
        if not chosen:
            whole = [os.path.abspath(os.path.join(place, name)) for place in places]
            below = [_plain(os.path.relpath(path, root)) for root in roots for path in whole]
            chosen = [paths[path] for path in below if path in paths][:1]
        if len(chosen) > 1:
            several = ", ".join(str(videos[index]) for index in chosen[:_NAMED])
            raise InputError(f"{where}: several videos are called {short_repr(file)}: {several}. Give the folder, too")
        if not chosen:
            unknown.append(f"{file} ({where})")
            continue
        first, before = found.setdefault(chosen[0], (where, label))
        if before != label:
            raise InputError(
                f"{where}: {short_repr(file)} has the label {short_repr(label)}, and {short_repr(before)} in {first}"
            )
    if not found:
        raise InputError(
            f"{table}: none of its rows names a video: it has {counted(unknown, 3)}, and the videos are "
            f"{counted([str(video) for video in videos], 3)}"
        )
    if unknown:
        notes.append(f"rows of --labels that name no video: {counted(unknown, _NAMED)}")
    if lacking := [str(video) for index, video in enumerate(videos) if index not in found]:
        notes.append(f"videos without a row in --labels, which have no label: {counted(lacking, _NAMED)}")
    return Labels([found.get(index, ("", ""))[1] for index in range(len(videos))], notes)


def _rows(text: str, table: str | Path) -> list[tuple[str, str, str]]:
    """Where each row is, its file and its label."""
    if Path(table).suffix.lower() in (".tsv", ".tab"):
        return _separated(text, table, "\t")
    if first := re.match(r"sep=([,;\t])\r?\n", text):  # what Excel writes, and asks for
        return _separated(text[first.end() :], table, first[1], 1)
    fault: InputError | None = None
    for separator in _SEPARATORS:
        try:
            return _separated(text, table, separator)
        except InputError as error:
            fault = fault or error
    assert fault is not None
    raise fault


def _separated(text: str, table: str | Path, separator: str, before: int = 0) -> list[tuple[str, str, str]]:
    """The rows where ``separator`` divides them; ``before``: lines of the file in front of ``text``."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[str, str, str]] = []
    while True:
        where = f"{table}:{reader.line_num + 1 + before}"
        try:
            fields = [field.strip() for field in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            raise InputError(f"{where}: {error}") from None
        if not any(fields) or (not rows and [field.lower() for field in fields] == ["file", "label"]):
            continue
        if len(fields) != 2 or not fields[0]:
            raise InputError(
                f"{where}: {len(fields)} fields between {_SEPARATORS[separator]} instead of 2 (file, label); a label "
                f"with a comma stands in quotation marks"
            )
        rows.append((where, fields[0], fields[1]))
    if not rows:
        raise InputError(f"{table} lists no files")
    return rows


def _plain(name: str) -> str:
    """One form of a name: letters with accents are written in two ways by file systems and editors."""
    return unicodedata.normalize("NFC", name)
