"""Clip records in Parquet: what to extract, in a fixed order, cut into fixed shards.

Clips are sorted by ``clip_id`` and shard k is rows [k * n, (k + 1) * n), with n kept in the file, so
shard k always holds the same clips on every machine.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ClipError, InputError
from pipeline.media import VIDEO_SUFFIXES, probe
from pipeline.writing import write_bytes

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Clip:
    """One clip. ``status`` is ``ok`` or a fault of :data:`pipeline.errors.FAULTS`, with ``reason``.

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
    """Sort and check: raises :class:`InputError` for no clips or an id that stands twice."""
    ordered = sorted(clips, key=lambda clip: clip.clip_id)
    if not ordered:
        raise InputError("the manifest would be empty: no clips were found")
    if clips_per_shard < 1:
        raise InputError(f"clips per shard must be at least 1, not {clips_per_shard}")
    for before, after in pairwise(ordered):
        if before.clip_id == after.clip_id:
            raise InputError(f"clip id '{after.clip_id}' stands twice ({before.path}, {after.path})")
    return Manifest(tuple(ordered), clips_per_shard)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a Parquet manifest."""
    table = pa.Table.from_pylist([asdict(clip) for clip in manifest.clips], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"clips_per_shard": str(manifest.clips_per_shard)}), sink)
    return sink.getvalue().to_pybytes()


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Raises :class:`InputError` for what is not a manifest of ours; ``name`` is for its message."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name} is not a Parquet manifest ({error})") from error
    metadata = table.schema.metadata or {}
    missing = [column for column in SCHEMA.names if column not in table.schema.names]
    if missing or b"clips_per_shard" not in metadata:
        raise InputError(f"{name} is not a manifest of this project: missing {', '.join(missing) or 'clips_per_shard'}")
    clips = [Clip(**row) for row in table.select(SCHEMA.names).to_pylist()]
    return make_manifest(clips, int(metadata[b"clips_per_shard"]))


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
    except OSError as error:
        raise InputError(f"manifest {path} cannot be read ({error})") from error
    return decode_manifest(data, str(path))


# --- file names -------------------------------------------------------------------------------

_MILLISECONDS = re.compile(r"^(?P<id>.{11})_(?P<start>\d+)_(?P<end>\d+)$")
_SECONDS = re.compile(r"^(?P<id>.{11})_(?P<start>\d{6})$")


def parse_clip_name(stem: str) -> tuple[str, int] | None:
    """(YouTube id, start second) of a VGGSound file name, or None.

    Three conventions: ``<id>_<start ms>_<end ms>`` (V-AURA), ``<id>_<start s, six digits>`` (MMAudio,
    V2A-Mapper, the Hugging Face copies) and ``<id>_<start s>_<end s>``; in the two with an end, the
    length tells seconds from milliseconds (a clip is 10 s, and never 10 ms).
    """
    if match := _SECONDS.match(stem):
        return match["id"], int(match["start"])
    if match := _MILLISECONDS.match(stem):
        start, end = int(match["start"]), int(match["end"])
        if 0 < end - start <= 100:
            return match["id"], start
        return match["id"], round(start / 1000)
    return None


def clip_name(youtube_id: str, start_s: int) -> str:
    """The id used everywhere: ``<youtube id>_<start second, six digits>`` (as MMAudio's evaluation)."""
    return f"{youtube_id}_{start_s:06d}"


def find_videos(folder: str | Path) -> list[Path]:
    """All video files below ``folder`` in a stable order; raises :class:`InputError` if there are none."""
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = [
        Path(root) / name
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
    ]
    if not found:
        raise InputError(f"{folder} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return sorted(found)


def probe_clip(clip: Clip) -> Clip:
    """Fill the media columns, or the status and reason why they cannot be."""
    path = Path(clip.path)
    try:
        info = probe(path)
    except ClipError as error:
        return replace(clip, status=error.kind, reason=error.message)
    stat = path.stat()
    return replace(
        clip,
        **asdict(info),
        bytes=stat.st_size,
        file_fingerprint=f"{stat.st_size}-{stat.st_mtime_ns}",
        status="ok",
        reason="" if info.has_audio else "no audio stream",
    )


def probe_clips(clips: Sequence[Clip], workers: int = 8) -> list[Clip]:
    """Probe each file once, several at a time (headers only: it is waiting for the disk that costs)."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(probe_clip, clips))


# --- builders ---------------------------------------------------------------------------------


def clips_from_folder(folder: str | Path, split: str = "train") -> list[Clip]:
    """Clips from any folder of videos.

    A folder named train, val, valid, validation or test gives the split (else ``split``); another
    folder directly above the file gives the label; VGGSound names give the YouTube id.
    """
    folder = Path(folder)
    paths = find_videos(folder)
    parsed = {path: parse_clip_name(path.stem) for path in paths}
    stems = Counter(path.stem for path in paths)
    clips = []
    for path in paths:
        parts = path.relative_to(folder).parts[:-1]
        splits = [_SPLIT_NAMES[part.lower()] for part in parts if part.lower() in _SPLIT_NAMES]
        label = parts[-1].replace("_", " ") if parts and parts[-1].lower() not in _SPLIT_NAMES else ""
        name = parsed[path]
        clip_id = clip_name(*name) if name else path.stem
        if not name and stems[path.stem] > 1:
            clip_id = "__".join([*parts, path.stem])
        youtube_id, start = name or (path.stem, 0)
        clips.append(Clip(clip_id, youtube_id, start, label, splits[-1] if splits else split, str(path.absolute())))
    return clips


def _index_videos(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    index: dict[str, Path] = {}
    for path in find_videos(folder):
        if name := parse_clip_name(path.stem):
            index.setdefault(clip_name(*name), path)
    return index


def _clips_from_rows(rows: Iterable[tuple[str, int, str, str]], videos: str | Path | None) -> list[Clip]:
    folder = Path(videos) if videos is not None else None
    index = _index_videos(folder)
    clips: dict[str, Clip] = {}
    for youtube_id, start, label, split in rows:
        clip_id = clip_name(youtube_id, start)
        path = index.get(clip_id)
        clip = Clip(clip_id, youtube_id, start, label, split, str(path.absolute()) if path else "")
        if path is None:
            reason = f"no file for it in {folder} under any naming" if folder else "no folder of videos was given"
            clip = replace(clip, status="missing_file", reason=reason)
        clips.setdefault(clip_id, clip)
    return list(clips.values())


def _row(fields: Sequence[str], where: str) -> tuple[str, int, str, str]:
    if len(fields) != 4:
        raise InputError(f"{where}: {len(fields)} fields instead of 4 (id, start second, label, split)")
    try:
        start = int(float(fields[1]))
    except ValueError:
        raise InputError(f"{where}: start '{fields[1]}' is not a number of seconds") from None
    split = _SPLIT_NAMES.get(fields[3].strip().lower())
    if split is None:
        raise InputError(f"{where}: unknown split '{fields[3]}'")
    return fields[0], start, fields[2], split


def _read_rows(path: str | Path, header: Sequence[str] | None) -> list[tuple[str, int, str, str]]:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    first = 0
    if header is not None:
        if not lines or [field.strip() for field in lines[0]] != list(header):
            raise InputError(f"{path}: the first line must be '{','.join(header)}'")
        first = 1
    return [_row(fields, f"{path}:{n}") for n, fields in enumerate(lines[first:], first + 1) if fields]


def clips_from_vggsound(path: str | Path, videos: str | Path | None = None) -> list[Clip]:
    """Clips of ``vggsound.csv`` (no header: id, start second, label, split)."""
    return _clips_from_rows(_read_rows(path, None), videos)


def clips_from_visualsound(
    path: str | Path, videos: str | Path | None = None, validation: str | Path | None = None
) -> list[Clip]:
    """Clips of the published VisualSound list (``filename,start,desc,split``).

    ``validation`` names the authors' list of training clips to set aside (one
    ``<id>_<start ms>_<end ms>`` a line).
    """
    rows = _read_rows(path, ("filename", "start", "desc", "split"))
    held_out: set[tuple[str, int]] = set()
    if validation is not None:
        if not Path(validation).is_file():
            raise InputError(f"{validation} does not exist")
        for number, line in enumerate(Path(validation).read_text().splitlines(), 1):
            if line.strip():
                name = parse_clip_name(line.strip())
                if name is None:
                    raise InputError(f"{validation}:{number}: '{line.strip()}' is not <id>_<start ms>_<end ms>")
                held_out.add(name)
    return _clips_from_rows(
        (
            (clip, start, label, "validation" if split == "train" and (clip, start) in held_out else split)
            for clip, start, label, split in rows
        ),
        videos,
    )
