"""What is said of each clip, for scores that compare sound with text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from manifests.lists import read_text

_IDS, _TEXTS = ("clip_id", "id", "name"), ("caption", "text", "label")


def read_texts(path: str | Path) -> dict[str, str]:
    """Clip id -> text, without clips whose text is empty, of a manifest, ``made.parquet``, or a CSV or TSV file.

    Columns: ``clip_id``, ``id`` or ``name``, and ``caption``, ``text`` or ``label``. Raises :class:`InputError`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            text = io.StringIO(read_text(path).text, newline="")
            rows = list(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of texts ({error})") from error
    names = list(rows[0]) if rows else []
    clip_column = next((name for name in _IDS if name in names), None)
    text_column = next((name for name in _TEXTS if name in names), None)
    if clip_column is None or text_column is None:
        raise InputError(f"{path} needs a column of {', '.join(_IDS)} and one of {', '.join(_TEXTS)}")
    return {str(row[clip_column]): str(row[text_column]) for row in rows if row[clip_column] and row[text_column]}
