"""Generate for a whole split from cached features; rerunning goes on where it stopped.

OUT/wav/<clip id>.wav (10 s), OUT/wav_8s (the crop that evaluation reads), OUT/mp4, OUT/png, OUT/truth,
OUT/report.html, OUT/made.parquet (every clip, made or not, and why) and OUT/settings.json.
The wav is written last: a clip that has it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from generate.mux import mux
from generate.pictures import draw_clip
from generate.sampling import Sampler
from pipeline.cache import Store, join
from pipeline.decoding import decode_killable
from pipeline.errors import CacheError, ClipError, InputError
from pipeline.manifest import Clip, Manifest
from pipeline.media import DecodedClip, is_silent
from pipeline.media_writing import replacing, write_wav

EVALUATION_SECONDS = 8  # paper section 4.2


@dataclass
class Outcome:
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # clip id -> reason


def choose_clips(manifest: Manifest, split: str) -> list[Clip]:
    """Clips of a split; ``auto`` is test, else whatever is not train, else all.

    Raises :class:`InputError` for a split without clips.
    """
    if split != "auto":
        chosen = [clip for clip in manifest.clips if split in ("all", clip.split)]
        if not chosen:
            counts = ", ".join(f"{name} {n}" for name, n in sorted(manifest.counts()["split"].items()))
            raise InputError(f"the manifest has no clip of split '{split}': it has {counts}")
        return chosen
    for wanted in (("test",), ("validation", "test"), ("train", "validation", "test")):
        chosen = [clip for clip in manifest.clips if clip.split in wanted]
        if chosen:
            return chosen
    raise InputError("the manifest has no clips")


def prepare_folder(out: Path, settings: dict[str, Any]) -> None:
    """Record what makes the outputs; raises :class:`CacheError` if others are already there."""
    path = out / "settings.json"
    if path.is_file():
        saved = json.loads(path.read_text())
        different = [name for name, value in settings.items() if saved.get(name) != value]
        if different:
            raise CacheError(
                f"{out} holds sound made with another {', '.join(different)}: use another OUT folder, or delete it"
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1))


def generate_split(
    sampler: Sampler,
    store: Store,
    clips: Sequence[Clip],
    out: str | Path,
    on_clip: Callable[[int, str], None] = lambda clips, note: None,
    listed: Sequence[Clip] | None = None,
) -> Outcome:
    """Generate every clip that is not there yet; a clip that cannot be made is named, not fatal.

    ``listed``: all clips of the job where ``clips`` are one task's, for the page and the list of what was made.
    """
    out = Path(out)
    joined = join(store, sampler.encoders)
    sampler.check_encoders(joined.provenance)
    prepare_folder(out, sampler.settings())
    take_cached_labels(sampler, store)
    outcome = Outcome()
    rows = {clip_id: row for row, clip_id in enumerate(joined.clip_ids)}
    todo: list[Clip] = []
    for clip in clips:
        if (out / "wav" / f"{clip.clip_id}.wav").is_file():
            outcome.skipped.append(clip.clip_id)
        elif clip.clip_id not in rows:
            outcome.failed[clip.clip_id] = joined.left_out.get(clip.clip_id, "no cached visual features")
        else:
            todo.append(clip)
    on_clip(len(clips) - len(todo), "")
    size = sampler.preset.generation.batch
    for first in range(0, len(todo), size):
        batch = todo[first : first + size]
        visual = {
            name: torch.from_numpy(joined.arrays[name][[rows[clip.clip_id] for clip in batch]]).float()
            for name in sampler.encoders
        }
        waveforms = sampler.generate(visual, [clip.label for clip in batch], [clip.clip_id for clip in batch])
        for clip, waveform in zip(batch, waveforms, strict=True):
            try:
                write_clip(sampler, clip, waveform, out)
                outcome.done.append(clip.clip_id)
            except ClipError as error:
                outcome.failed[clip.clip_id] = str(error)
        on_clip(len(batch), batch[-1].label)
    write_report(sampler, listed or clips, out)
    write_made(sampler, listed or clips, outcome, out)
    return outcome


def take_cached_labels(sampler: Sampler, store: Store) -> None:
    """Label embeddings of the stage flan_t5, if the same weights made them; what lacks is computed."""
    if not store.exists("flan_t5", 0):
        return
    content = store.read("flan_t5", 0)
    if content.fingerprint["weights"] == sampler.audioldm2.flan_t5.fingerprint:
        sampler.audioldm2.remember_labels(content.clip_ids, content.features, content.arrays["lengths"])


def write_made(sampler: Sampler, clips: Sequence[Clip], outcome: Outcome, out: Path) -> Path:
    """``made.parquet``: clip id, label, split, wav, reason it is missing; the settings in its metadata."""
    rows = []
    for clip in clips:
        wav = f"wav/{clip.clip_id}.wav"
        made = (out / wav).is_file()
        reason = "" if made else outcome.failed.get(clip.clip_id, "not made yet")
        rows.append([clip.clip_id, clip.label, clip.split, wav if made else "", reason])
    names = ("clip_id", "label", "split", "wav", "reason")
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    table = pa.table({name: pa.array(list(column), pa.string()) for name, column in zip(names, columns, strict=True)})
    settings = {"preset": sampler.preset.name, **sampler.settings()}
    path = out / "made.parquet"
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"settings": json.dumps(settings)}), temporary)
    return path


def write_clip(sampler: Sampler, clip: Clip, waveform: np.ndarray, out: Path) -> None:
    """All files of one clip, the wav last."""
    media, rate = sampler.preset.media, sampler.audioldm2.sample_rate
    if is_silent(waveform, media):
        raise ClipError("silent", f"the generated waveform stays under {media.silence_threshold_db:g} dB")
    limit = sampler.preset.cache.decode_timeout_seconds
    decoded: DecodedClip = decode_killable(clip.path, media, seconds=limit)
    truth = decoded.waveform
    (out / "mp4").mkdir(parents=True, exist_ok=True)
    mux(clip.path, waveform, rate, out / "mp4" / f"{clip.clip_id}.mp4")
    title = f"{clip.label or 'no label'} ({clip.clip_id})"
    draw_clip(out / "png" / f"{clip.clip_id}.png", title, decoded.frames, waveform, truth, media.seconds)
    if truth is not None:
        write_wav(out / "truth" / f"{clip.clip_id}.wav", truth, media.sample_rate)
    write_wav(out / "wav_8s" / f"{clip.clip_id}.wav", waveform[: EVALUATION_SECONDS * rate], rate)
    write_wav(out / "wav" / f"{clip.clip_id}.wav", waveform, rate)


def write_report(sampler: Sampler, clips: Sequence[Clip], out: Path, most: int = 50) -> Path:
    """One static page: players, frames and spectrograms of at most ``most`` clips."""
    rows: list[dict[str, str]] = []
    for clip in clips:
        files = {
            "wav": out / "wav" / f"{clip.clip_id}.wav",
            "mp4": out / "mp4" / f"{clip.clip_id}.mp4",
            "png": out / "png" / f"{clip.clip_id}.png",
            "truth": out / "truth" / f"{clip.clip_id}.wav",
        }
        if files["wav"].is_file() and len(rows) < most:
            links = {name: path.relative_to(out).as_posix() if path.is_file() else "" for name, path in files.items()}
            rows.append({"clip_id": clip.clip_id, "label": clip.label, **links})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title="MFM-Mapper: generated sound beside the truth",
        note=sampler.preset.note,
        settings={"preset": sampler.preset.name, **sampler.settings()},
        clips=rows,
    )
    path = out / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
