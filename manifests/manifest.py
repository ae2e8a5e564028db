"""Clip records in Parquet: what to extract, in a fixed order, cut into fixed shards.

Clips are sorted by ``clip_id`` and shard k is rows [k * n, (k + 1) * n), with n kept in the file, so
shard k always holds the same clips on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.writing import write_bytes
from manifests.folders import VIDEO_SUFFIXES, find_videos
from manifests.lists import SPLIT_NAMES, ListedClip, published_visualsound, read_clips, read_names
from manifests.names import clip_name, id_fault, ids_of_files, parse_clip_name, short_repr
from manifests.tars import label_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Clip:
    """One clip. ``status`` is ``ok`` or a fault of :data:`common.errors.FAULTS`, with ``reason``.

    ``start_s`` is the clip's place in the original YouTube video; the file itself starts at 0.
    ``file_fingerprint`` is size and modification time in nanoseconds, to notice replaced files.
    """

    clip_id: str
    youtube_id: str
    start_s: int
    label: str
    split: str
    path: str
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    has_audio: bool = False
    audio_rate: int = 0
    bytes: int = 0
    file_fingerprint: str = ""
    status: str = "unprobed"
    reason: str = ""


SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()), ("youtube_id", pa.string()), ("start_s", pa.int64()), ("label", pa.string()),
        ("split", pa.string()), ("path", pa.string()), ("duration_s", pa.float64()), ("fps", pa.float64()),
        ("width", pa.int64()), ("height", pa.int64()), ("has_audio", pa.bool_()), ("audio_rate", pa.int64()),
        ("bytes", pa.int64()), ("file_fingerprint", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    clips: tuple[Clip, ...]
    clips_per_shard: int

    @property
    def shard_count(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def shard(self, index: int) -> tuple[Clip, ...]:
        """Clips of one shard, always the same; raises :class:`InputError` for an unknown index."""
        if not 0 <= index < self.shard_count:
            raise InputError(f"there is no shard {index}: the manifest has shards 0 to {self.shard_count - 1}")
        return self.clips[index * self.clips_per_shard : (index + 1) * self.clips_per_shard]

    @property
    def digest(self) -> str:
        """sha256 over ids, labels, splits and the shard size: what the caches' order depends on."""
        rows = [[clip.clip_id, clip.label, clip.split] for clip in self.clips]
        return hashlib.sha256(json.dumps([self.clips_per_shard, rows]).encode()).hexdigest()

    def counts(self) -> dict[str, Counter[str]]:
        return {
            "split": Counter(clip.split for clip in self.clips),
            "status": Counter(clip.status for clip in self.clips),
        }


def make_manifest(clips: Iterable[Clip], clips_per_shard: int) -> Manifest:
    """Sort and check: raises :class:`InputError` for no clips, an id that stands twice or that names no file."""
    given = list(clips)
    faults = [
        f"row {row}: {short_repr(clip.clip_id)}: {fault}"
        for row, clip in enumerate(given, 1)
        if (fault := id_fault(clip.clip_id)) is not None
    ]
    if faults:
        raise InputError(f"{_listed(faults, 'clip ids')} cannot be the names of files:\n  " + "\n  ".join(faults[:10]))
    ordered = sorted(given, key=lambda clip: clip.clip_id)
    if not ordered:
        raise InputError("the manifest would be empty: no clips were found")
    if clips_per_shard < 1:
        raise InputError(f"clips per shard must be at least 1, not {clips_per_shard}")
    for before, after in pairwise(ordered):
        if before.clip_id == after.clip_id:
            raise InputError(f"clip id {short_repr(after.clip_id)} stands twice ({before.path}, {after.path})")
    return Manifest(tuple(ordered), clips_per_shard)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a Parquet manifest."""
    table = pa.Table.from_pylist([asdict(clip) for clip in manifest.clips], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({"clips_per_shard": str(manifest.clips_per_shard)})
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Raises :class:`InputError` for what is not a manifest of ours; ``name`` is for its message."""
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        names, metadata = table.schema.names, table.schema.metadata or {}  # damaged ones may be no text
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{name} is not a Parquet manifest, or is damaged ({error})") from error
    missing = [column for column in SCHEMA.names if column not in names]
    if missing or b"clips_per_shard" not in metadata:
        raise InputError(f"{name} is not a manifest of this project: missing {', '.join(missing) or 'clips_per_shard'}")
    try:
        clips_per_shard = int(metadata[b"clips_per_shard"])
    except ValueError:
        raise InputError(f"{name} is not a manifest of this project: clips_per_shard is no number") from None
    try:
        return make_manifest(_clips_of(table), clips_per_shard)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _clips_of(table: pa.Table) -> list[Clip]:
    """Rows as clips; raises :class:`InputError` that names the column and row of what is no manifest's."""
    columns = {}
    for field in SCHEMA:
        column = table.column(field.name)
        try:
            column.validate(full=True)  # text that is no UTF-8
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            raise InputError(
                f"column {field.name} must hold {field.type}, and its {column.type} cannot be read as that "
                f"({str(error).splitlines()[0]})"
            ) from None
        if column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise InputError(f"column {field.name} has no value in row {row}")
    clips = [Clip(**row) for row in pa.table(columns).to_pylist()]
    for row, clip in enumerate(clips, 1):
        if clip.split not in SPLITS:
            raise InputError(f"row {row}: split {short_repr(clip.split)} is none of {', '.join(SPLITS)}")
        if "\0" in clip.path:
            raise InputError(f"row {row}: the path {short_repr(clip.path)} has a NUL, which no file's has")
    return clips


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write Parquet whole; raises :class:`WriteError` where the file cannot be written."""
    write_bytes(path, encode_manifest(manifest))


def read_manifest(path: str | Path) -> Manifest:
    """Read Parquet from a path or an fsspec URL; raises :class:`InputError` if it is missing or is no manifest."""
    try:
        if "://" in str(path):
            with fsspec.open(str(path), "rb") as file:
                data = file.read()
        else:
            data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"manifest {path} does not exist (make one: python -m pipeline manifest --help)") from None
    except (OSError, ValueError, ImportError) as error:  # the last two: a URL that fsspec does not know
        raise InputError(f"manifest {path} cannot be read ({error})") from error
    return decode_manifest(data, str(path))


# --- files -----------------------------------------------------------------------------------


# --- builders ---------------------------------------------------------------------------------


class FoundClips(list[Clip]):
    """Clips of a builder. ``left_out``: files and folders that could not be taken, and why; ``notes``: sentences."""

    def __init__(
        self, clips: Iterable[Clip] = (), left_out: Mapping[str, str] | None = None, notes: Sequence[str] = ()
    ):
        super().__init__(clips)
        self.left_out, self.notes = dict(left_out or {}), list(notes)


def clips_from_folder(folder: str | Path, split: str = "train") -> FoundClips:
    """Clips from any folder of videos.

    A folder named train, val, valid, validation or test gives the split (else ``split``); another
    folder directly above the file gives the label, or what lies beside a file in a tar does; VGGSound names give
    the YouTube id. Ids are made by :func:`manifests.names.ids_of_files`. Raises :class:`InputError` for a folder
    without videos.
    """
    folder = Path(folder)
    found = find_videos(folder)
    inside = [path.relative_to(folder) for path in found.paths]
    clips = FoundClips(left_out=found.left_out)
    for path, below, clip_id in zip(found.paths, inside, ids_of_files(inside, VIDEO_SUFFIXES), strict=True):
        parts, _ = _folders_above(path, below)
        splits = [SPLIT_NAMES[part.lower()] for part in parts if part.lower() in SPLIT_NAMES]
        youtube_id, start = parse_clip_name(path.stem) or (path.stem, 0)
        label, its_split = label_of_video(path, below), splits[-1] if splits else split
        clips.append(Clip(clip_id, youtube_id, start, label, its_split, str(path.absolute())))
    return clips


def label_of_video(path: Path, below: PurePath) -> str:
    """What lies beside a video in a tar says, else the folder right above; ``below``: its path below the folder of
    all."""
    parts, in_tar = _folders_above(path, below)
    folder = parts[-1] if parts and parts[-1].lower() not in SPLIT_NAMES else ""
    return (label_of(path) if in_tar else "") or folder.replace("_", " ")


def _folders_above(path: Path, below: PurePath) -> tuple[list[str], bool]:
    """The folders of a video without the tar that it lies in, and whether it lies in one."""
    in_tar = any(part.lower().endswith(".tar") for part in below.parts[:-1]) and not path.is_file()
    return [part for part in below.parts[:-1] if not (in_tar and part.lower().endswith(".tar"))], in_tar


def _clips_from_list(listed: Sequence[ListedClip], videos: str | Path | None, notes: Sequence[str]) -> FoundClips:
    """Clips of a list, each with its file of ``videos`` if there is one; of rows of one clip the first counts."""
    found = FoundClips(notes=notes)
    files: dict[str, Path] = {}
    others: list[str] = []
    if videos is not None:
        there = find_videos(videos)
        found.left_out = there.left_out
        for path in there.paths:
            if (name := parse_clip_name(path.stem)) and files.setdefault(clip_name(*name), path) is not path:
                others.append(str(path))
    rows: dict[str, ListedClip] = {}
    again: list[str] = []
    for row in listed:
        first = rows.setdefault(row.clip_id, row)
        if first is not row:
            again.append(row.clip_id if first == row else f"{row.clip_id} (with another label or split)")
    if again:
        found.notes.append(f"not counted, as an earlier row names the clip: {_listed(again, 'rows')}: {_some(again)}")
    if others:
        found.notes.append(f"not used, as another file is of the clip: {_listed(others, 'files')}: {_some(others)}")
    reason = f"no file for it in {videos} under any naming" if videos else "no folder of videos was given"
    for clip_id, row in rows.items():
        clip = Clip(
            clip_id, row.youtube_id, row.start_s, row.label, row.split, "", status="missing_file", reason=reason
        )
        if clip_id in files:
            clip = replace(clip, path=str(files[clip_id].absolute()), status="unprobed", reason="")
        found.append(clip)
    return found


def _listed(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what if len(things) != 1 else what.removesuffix('s')}"


def _some(things: Sequence[str], most: int = 5) -> str:
    return ", ".join(things[:most]) + (f" and {len(things) - most} more" if len(things) > most else "")


def clips_from_vggsound(path: str | Path, videos: str | Path | None = None) -> FoundClips:
    """Clips of ``vggsound.csv`` (no header: id, start second, label, split).

    Raises :class:`InputError` that names file and line; see :func:`manifests.lists.read_clips`.
    """
    listed, notes = read_clips(path)
    return _clips_from_list(listed, videos, notes)


def clips_from_visualsound(
    path: str | Path | None, videos: str | Path | None = None, validation: str | Path | None = None
) -> FoundClips:
    """Clips of the published VisualSound list (``filename,start,desc,split``); None: the one that comes with us.

    ``validation`` names the authors' list of training clips to set aside (one
    ``<id>_<start ms>_<end ms>`` a line); ours has them set aside. Raises :class:`InputError` that names file and line.
    """
    if path is None:
        if validation is not None:
            raise InputError(f"{validation}: the VisualSound list that comes with us has its validation clips already")
        return _clips_from_list(published_visualsound(), videos, [])
    listed, notes = read_clips(path, ("filename", "start", "desc", "split"))
    if validation is not None:
        held_out, more = read_names(validation)
        notes += more
        training = {(row.youtube_id, row.start_s) for row in listed if row.split == "train"}
        if lost := sorted(clip_name(*name) for name in held_out - training):
            notes.append(
                f"not in the training clips of {path}: {_listed(lost, 'names')} of {validation}: {_some(lost)}"
            )
        listed = [
            replace(row, split="validation")
            if row.split == "train" and (row.youtube_id, row.start_s) in held_out
            else row
            for row in listed
        ]
    return _clips_from_list(listed, videos, notes)
