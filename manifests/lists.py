"""Published lists of clips as people have them: any common encoding, and a fault named by file and line."""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from common.errors import InputError
from manifests.names import clip_name, id_fault, parse_clip_name, short_repr

SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
MAX_START = 999_999  # seconds: six digits of a clip id

# The longest first: that of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class ListedClip:
    """One row of a list: ``split`` is train, validation or test."""

    youtube_id: str
    start_s: int
    label: str
    split: str

    @property
    def clip_id(self) -> str:
        return clip_name(self.youtube_id, self.start_s)


@dataclass(frozen=True)
class TextFile:
    """Text of a file; ``note`` says how it was read where that is a guess."""

    text: str
    note: str = ""


def read_text(path: str | Path) -> TextFile:
    """A list's text: by its byte-order mark, else UTF-8, else Windows-1252 (Latin-1's letters), which is noted.

    Raises :class:`InputError` for a file that is missing, cannot be read, or is no text.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} cannot be read: {reason}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    note = ""
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            name = encoding.removesuffix("-sig").upper()
            raise InputError(
                f"{path}: its byte-order mark says {name}, but byte {error.start} is not ({error.reason})"
            ) from None
        text, name = _western(data)
        note = f"{path} is not UTF-8: it was read as {name}"
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        hint = ": UTF-16 without a byte-order mark?" if data[:2].count(0) == 1 else ""
        raise InputError(f"{path}:{line}: a NUL byte, so this is no text{hint}")
    return TextFile(text, note)


def _western(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "Latin-1"


def read_clips(path: str | Path, header: Sequence[str] | None = None) -> tuple[list[ListedClip], list[str]]:
    """Rows of a list (YouTube id, start second, label, split), and notes on how it was read.

    ``header`` is what its first line must be, if it has one. Raises :class:`InputError` that names file and line
    for wrong columns, a start that is no second of a film, an unknown split and an id that can be no file's name.
    """
    file = read_text(path)
    clips = []
    lines = _lines(file.text, path)
    if header is not None:
        _, fields = next(lines, (1, []))
        if [field.strip().lower() for field in fields] != list(header):
            raise InputError(
                f"{path}:1: the first line must be '{','.join(header)}', not {short_repr(','.join(fields))}"
            )
    for number, fields in lines:
        if any(field.strip() for field in fields):
            clips.append(_clip([field.strip() for field in fields], f"{path}:{number}"))
    if not clips:
        raise InputError(f"{path} lists no clips")
    return clips, [file.note] if file.note else []


def published_visualsound() -> list[ListedClip]:
    """The 91,047 clips of VisualSound (V-AURA; facts of VGGSound, CC BY 4.0), its validation clips set aside."""
    table = pq.read_table(Path(__file__).with_name("visualsound.parquet"))
    columns = (table[name].to_pylist() for name in ("youtube_id", "start_s", "label", "split"))
    return [ListedClip(*row) for row in zip(*columns, strict=True)]


def _lines(text: str, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Fields of each row with the number of the line where it begins."""
    reader = csv.reader(io.StringIO(text, newline=""))
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = ", perhaps after a quotation mark that is never closed" if "limit" in str(error) else ""
            raise InputError(f"{path}:{number}: {error}{hint}") from None
        yield number, fields


def _clip(fields: Sequence[str], where: str) -> ListedClip:
    if len(fields) != 4:
        raise InputError(f"{where}: {len(fields)} fields instead of 4 (id, start second, label, split)")
    youtube_id, start, label, split = fields
    try:
        seconds = float(start)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < MAX_START + 1:
        raise InputError(f"{where}: start {short_repr(start)} is not a number of seconds from 0 to {MAX_START}")
    if split.lower() not in SPLIT_NAMES:
        raise InputError(f"{where}: unknown split {short_repr(split)}: there are {', '.join(SPLIT_NAMES)}")
    clip = ListedClip(youtube_id, int(seconds), label, SPLIT_NAMES[split.lower()])
    if fault := "it is empty" if not youtube_id else id_fault(clip.clip_id):
        raise InputError(f"{where}: id {short_repr(youtube_id)} cannot be the name of a file: {fault}")
    return clip


def read_names(path: str | Path) -> tuple[set[tuple[str, int]], list[str]]:
    """(YouTube id, start second) of a list of clip names, one a line, and notes on how it was read.

    Raises :class:`InputError` that names file and line for a line that is no clip's name.
    """
    file = read_text(path)
    names = set()
    for number, line in enumerate(io.StringIO(file.text, newline=None), 1):
        if line := line.strip():
            name = parse_clip_name(line)
            if name is None:
                raise InputError(f"{path}:{number}: {short_repr(line)} is not <id>_<start ms>_<end ms>")
            names.add(name)
    return names, [file.note] if file.note else []
