"""Manifests as the commands build them: from a folder of videos, or from a published list and its videos."""

from __future__ import annotations

from pathlib import Path

from common.console import out, shown, summary
from common.errors import InputError
from common.outputs import check_output
from manifests.builders import DATASETS, FoundClips, clips_from_folder, clips_from_visualsound
from manifests.manifest import Manifest, make_manifest, read_manifest, write_manifest
from pipeline.probing import probe_clips
from presets import load_preset

_PUBLISHED = "published"  # in place of a list's file: the one that comes with us
_NAMED = 20  # files that are left out


def build(
    target: Path,
    videos: Path | None,
    dataset: str | None,
    listing: Path | None,
    visualsound: str | None,
    validation: Path | None,
    preset: str,
    clips_per_shard: int | None,
) -> None:
    """Write a manifest and say what is in it; raises :class:`InputError` for what cannot be."""
    check_output(target, [Path(path) for path in (listing, visualsound, validation) if path])
    if visualsound:
        clips = clips_from_visualsound(None if visualsound == _PUBLISHED else visualsound, videos, validation)
    elif dataset:
        if dataset not in DATASETS:
            raise InputError(f"unknown data set '{dataset}': there are {', '.join(DATASETS)}")
        clips = DATASETS[dataset](listing, videos)
    elif videos:
        clips = clips_from_folder(videos)
    else:
        raise InputError("give --videos FOLDER, --vggsound FILE or --visualsound FILE (or published)")
    _show_left_out(clips)
    found = [clip for clip in clips if clip.path]
    check_output(target, [Path(clip.path) for clip in found])
    probed = {clip.clip_id: clip for clip in probe_clips(found)}
    shard = load_preset(preset).cache.clips_per_shard if clips_per_shard is None else clips_per_shard
    made = make_manifest([probed.get(clip.clip_id, clip) for clip in clips], shard)
    write_manifest(made, target)
    counts = made.counts()
    summary(
        "manifest",
        {
            "clips": len(made.clips),
            "splits": ", ".join(f"{name} {n}" for name, n in sorted(counts["split"].items())),
            "labels": len({clip.label for clip in made.clips}),
            "files": ", ".join(f"{name} {n}" for name, n in sorted(counts["status"].items())),
            "without sound": sum(clip.status == "ok" and not clip.has_audio for clip in made.clips),
            "shards": f"{made.shard_count} of {made.clips_per_shard} clips",
            "written to": target,
        },
    )


def read_or_build(path: str, clips_per_shard: int) -> Manifest:
    """A Parquet manifest (path or URL), or that of a folder of videos. The extraction keeps it in the cache."""
    if "://" in path or Path(path).is_file() or path.endswith(".parquet"):
        return read_manifest(path)
    clips = clips_from_folder(path)
    _show_left_out(clips)
    return make_manifest(probe_clips(clips), clips_per_shard)


def _show_left_out(clips: FoundClips) -> None:
    """Say what a builder of clips could not take, and what it noticed."""
    for note in clips.notes:
        out.print(f"note: {shown(note)}")
    for path, reason in list(clips.left_out.items())[:_NAMED]:
        out.print(f"left out: {shown(path)}: {shown(reason)}")
    if len(clips.left_out) > _NAMED:
        out.print(f"left out: {len(clips.left_out) - _NAMED} more")
