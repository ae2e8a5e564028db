"""The files of OUT that all tasks of a job share: settings.json, made.parquet and report.html.

Each is read and written under one lock of the folder, so tasks that end together lose nothing of each other.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import CacheError
from common.writing import make_folder, replacing, write_error, write_text
from generate.clip_files import video_of
from manifests.folders import MADE_FILMS
from manifests.manifest import Clip
from manifests.names import id_fault
from presets import Preset
from presets.config import MediaConfig
from presets.identity import differences, settings_of
from trainer.scale import Fitted

SHOWN = 50  # clips on the page
_COLUMNS = ("clip_id", "label", "split", "wav", "video", "reason", "note", "source")


@dataclass
class Outcome:
    """``failed``: clip id -> reason. ``notes``: clip id -> what is said (or "") of a clip whose files were written.

    ``changed``: those whose sound was there, made from another video, label or other features. ``sampler_seconds``:
    in the sampler alone.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    sampler_seconds: float = 0.0

    def in_order(self, clips: Sequence[Clip]) -> None:
        """Sort all by the order of the clips: workers end in any."""
        place = {clip.clip_id: number for number, clip in enumerate(clips)}
        for ids in (self.done, self.skipped, self.changed):
            ids.sort(key=place.__getitem__)
        self.failed = dict(sorted(self.failed.items(), key=lambda item: place[item[0]]))
        self.notes = dict(sorted(self.notes.items(), key=lambda item: place[item[0]]))


@dataclass(frozen=True)
class About:
    """What made all outputs of a folder; ``settings`` as :meth:`generate.sampling.Sampler.settings` gives them."""

    preset: Preset
    settings: Mapping[str, Any]
    mapper: Fitted | None = None


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
            if (out / MADE_FILMS).exists():
                raise CacheError(f"{out} holds what was made of a folder of videos: use another OUT folder for a split")
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


def write_made(about: About, clips: Sequence[Clip], outcome: Outcome, out: Path) -> None:
    """``made.parquet`` of all clips of the job, whoever made them."""
    with locked(out):
        _write_made(about, clips, outcome, out)


def write_records(about: About, clips: Sequence[Clip], outcome: Outcome, out: Path) -> None:
    """``made.parquet`` and ``report.html`` of all clips of the job, whoever made them."""
    with locked(out):
        _write_made(about, clips, outcome, out)
        _write_report(about.preset.note, {"preset": about.preset.name, **about.settings}, clips, out)


def _write_made(about: About, clips: Sequence[Clip], outcome: Outcome, out: Path) -> None:
    """Every clip: wav, video and note, or the reason that they lack (or are of another video), and its source; what
    others said is kept."""
    path = out / "made.parquet"
    before = _read_made(path)
    rows, there = [], {*outcome.done, *outcome.skipped}
    for clip in clips:
        earlier = before.get(clip.clip_id, {})
        wav = f"wav/{clip.clip_id}.wav"
        made = id_fault(clip.clip_id) is None and (out / wav).is_file()
        reason = outcome.failed.get(clip.clip_id, "")
        if not made:
            reason = reason or earlier.get("reason") or "not made yet"
        elif not reason and earlier.get("wav") and clip.clip_id not in there:
            reason = earlier.get("reason") or ""  # sound that is of another video by now, as another task found
        note = outcome.notes.get(clip.clip_id, "" if clip.clip_id in outcome.done else earlier.get("note") or "")
        found = (wav, video_of(out, clip.clip_id), reason, note) if made else ("", "", reason, "")
        rows.append([clip.clip_id, clip.label, clip.split, *found, _source(clip)])
    columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
    named = zip(_COLUMNS, columns, strict=True)
    table = pa.table({name: pa.array(list(column), pa.string()) for name, column in named})
    said: dict[str, Any] = {
        "settings": {"preset": about.preset.name, **about.settings},
        "media": asdict(about.preset.media),
        **({"mapper": asdict(about.mapper)} if about.mapper is not None else {}),
    }
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({k: json.dumps(v) for k, v in said.items()}), temporary)


def _source(clip: Clip) -> str:
    """The clip's video from anywhere; empty where its folder's name is no text that Parquet takes."""
    path = os.path.abspath(clip.path) if clip.path else ""
    with suppress(UnicodeEncodeError):
        path.encode()
        return path
    return ""


@dataclass(frozen=True)
class Made:
    """What ``made.parquet`` says: clip id -> its video, for all clips of the job, and how the videos were decoded.

    ``sources`` is None where it does not say: those of versions before have ``truth`` and ``mp4`` of every clip.
    ``labels``: by clip id. ``mapper``: what made it; None where versions before wrote it.
    """

    clip_ids: tuple[str, ...]
    sources: Mapping[str, Path] | None
    media: MediaConfig | None
    labels: Mapping[str, str] = field(default_factory=dict)
    mapper: Fitted | None = None


def read_made(out: Path) -> Made | None:
    """The list of OUT; None where there is none. Raises :class:`CacheError` for a damaged one."""
    path = out / "made.parquet"
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
        ids = tuple(str(row["clip_id"]) for row in rows)
        labels = {str(row["clip_id"]): str(row.get("label") or "") for row in rows}
        if "source" not in table.column_names:
            return Made(ids, None, None, labels)
        sources = {str(row["clip_id"]): Path(row["source"]) for row in rows if row["source"]}
        about = table.schema.metadata
        mapper = Fitted(**json.loads(about[b"mapper"])) if b"mapper" in about else None
        return Made(ids, sources, MediaConfig(**json.loads(about[b"media"])), labels, mapper)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is damaged, or not of make generate: run that again ({error})") from error


def _read_made(path: Path) -> dict[str, dict[str, str]]:
    try:
        return {row["clip_id"]: row for row in pq.read_table(path).to_pylist()}
    except (OSError, pa.ArrowException, KeyError):  # none yet, or damaged: it is made anew
        return {}


def _write_report(note: str, settings: Mapping[str, Any], clips: Sequence[Clip], out: Path, most: int = SHOWN) -> None:
    """One static page: players, frames and spectrograms of at most ``most`` clips."""
    rows: list[dict[str, str]] = []
    made = 0
    for clip in clips:
        if id_fault(clip.clip_id) is None and (out / "wav" / f"{clip.clip_id}.wav").is_file():
            made += 1
            if len(rows) == most:
                continue
            links = {"wav": f"wav/{clip.clip_id}.wav", "video": video_of(out, clip.clip_id)}
            for name, suffix in (("png", ".png"), ("truth", ".wav")):
                link = f"{name}/{clip.clip_id}{suffix}"
                links[name] = link if (out / link).is_file() else ""
            rows.append({"clip_id": clip.clip_id, "label": clip.label, **links})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title="MFM-Mapper: generated sound beside the truth", note=note, settings=settings, clips=rows, made=made
    )
    write_text(out / "report.html", page)
