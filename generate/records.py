"""The files of OUT that all tasks of a job share: settings.json, made.parquet and report.html.

Each is read and written under one lock of the folder, so tasks that end together lose nothing of each other.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import CacheError
from common.writing import make_folder, replacing, write_error, write_text
from manifests.manifest import Clip
from manifests.names import id_fault
from presets.identity import differences, settings_of

VIDEO_SUFFIXES = (".mp4", ".mkv")  # what a clip's video may be called, in the order of preference
_COLUMNS = ("clip_id", "label", "split", "wav", "video", "reason", "note")


@dataclass
class Outcome:
    """``failed``: clip id -> reason. ``notes``: clip id -> what is to be said of a clip that was made.

    ``changed``: those whose sound was there, made from another video, label or other features.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; without one where the file system has none. Raises :class:`WriteError`."""
    make_folder(folder)
    path = folder / "tasks.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise write_error(path, error) from error
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Record what makes the outputs; raises :class:`CacheError` if others, or files of something else, are there."""
    path = out / "settings.json"
    with locked(out):
        if not path.exists():
            if others := [name for name in ("made.parquet", "report.html") if (out / name).exists()]:
                raise CacheError(f"{out} holds a {others[0]} that this command did not write: use another OUT folder")
            write_text(path, json.dumps(settings, indent=1))
            return
        try:
            saved = json.loads(path.read_text())
        except (OSError, ValueError):
            saved = None
        if not isinstance(saved, dict):
            raise CacheError(f"{path} is damaged, or not of this command: use another OUT folder, or delete it")
        if found := differences(saved, settings, settings_of("generation")):
            names = ", ".join(each.name for each in found)
            raise CacheError(
                f"{out} holds sound made with another {names} ({'; '.join(map(str, found))}): use another OUT folder, "
                f"or delete it"
            )


def video_of(out: Path, clip_id: str) -> str:
    """The clip's video relative to ``out``; empty if it has none."""
    names = (f"mp4/{clip_id}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((name for name in names if (out / name).is_file()), "")


def write_records(
    preset: str, note: str, settings: Mapping[str, Any], clips: Sequence[Clip], outcome: Outcome, out: Path
) -> None:
    """``made.parquet`` and ``report.html`` of all clips of the job, whoever made them."""
    with locked(out):
        _write_made({"preset": preset, **settings}, clips, outcome, out)
        _write_report(note, {"preset": preset, **settings}, clips, out)


def _write_made(settings: Mapping[str, Any], clips: Sequence[Clip], outcome: Outcome, out: Path) -> None:
    """Every clip: wav and video, or the reason that they lack; what other tasks said of theirs is kept."""
    path = out / "made.parquet"
    before = _read_made(path)
    rows = []
    for clip in clips:
        earlier = before.get(clip.clip_id, {})
        wav = f"wav/{clip.clip_id}.wav"
        made = id_fault(clip.clip_id) is None and (out / wav).is_file()
        reason = outcome.failed.get(clip.clip_id) or earlier.get("reason") or "not made yet"
        note = outcome.notes.get(clip.clip_id, "") if clip.clip_id in outcome.done else earlier.get("note") or ""
        found = (wav, video_of(out, clip.clip_id), "", note) if made else ("", "", reason, "")
        rows.append([clip.clip_id, clip.label, clip.split, *found])
    columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
    named = zip(_COLUMNS, columns, strict=True)
    table = pa.table({name: pa.array(list(column), pa.string()) for name, column in named})
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"settings": json.dumps(settings)}), temporary)


def _read_made(path: Path) -> dict[str, dict[str, str]]:
    try:
        return {row["clip_id"]: row for row in pq.read_table(path).to_pylist()}
    except (OSError, pa.ArrowException, KeyError):  # none yet, or damaged: it is made anew
        return {}


def _write_report(note: str, settings: Mapping[str, Any], clips: Sequence[Clip], out: Path, most: int = 50) -> None:
    """One static page: players, frames and spectrograms of at most ``most`` clips."""
    rows: list[dict[str, str]] = []
    for clip in clips:
        if len(rows) == most:
            break
        if id_fault(clip.clip_id) is None and (out / "wav" / f"{clip.clip_id}.wav").is_file():
            links = {"wav": f"wav/{clip.clip_id}.wav", "video": video_of(out, clip.clip_id)}
            for name, suffix in (("png", ".png"), ("truth", ".wav")):
                link = f"{name}/{clip.clip_id}{suffix}"
                links[name] = link if (out / link).is_file() else ""
            rows.append({"clip_id": clip.clip_id, "label": clip.label, **links})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title="MFM-Mapper: generated sound beside the truth", note=note, settings=settings, clips=rows
    )
    write_text(out / "report.html", page)
