"""What is said of each clip, for scores that compare sound with text."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

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
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of texts ({error})") from error
    names = list(rows[0]) if rows else []
    clip = next((name for name in _IDS if name in names), None)
    text = next((name for name in _TEXTS if name in names), None)
    if clip is None or text is None:
        raise InputError(f"{path} needs a column of {', '.join(_IDS)} and one of {', '.join(_TEXTS)}")
    return {str(row[clip]): str(row[text]) for row in rows if row[text]}
