"""VisualSound's filter for one's own clips: how well sound and picture of each fit, by ImageBind (paper section 4.1.1).

VisualSound is VGGSound filtered so. Its authors' published settings try thresholds from 0 to 0.4 on normalised scores
and do not say which made it; ours is a reading (docs/readings.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import InputError
from common.writing import replacing
from evaluation.evaluate import Work, gather
from evaluation.extract import extract
from evaluation.metrics import cosine_per_clip
from evaluation.networks import NETWORKS, load_network
from manifests.manifest import SCHEMA, Clip, Manifest, make_manifest

THRESHOLD = 0.3
COLUMN = "imagebind_similarity"


@dataclass(frozen=True)
class Filtered:
    """What the filter found: cosine by clip id, what passes, and why each other clip does not."""

    scores: dict[str, float]
    kept: Manifest
    left_out: tuple[Clip, ...]  # ``reason`` says why


def filter_manifest(
    manifest: Manifest, folder: Path, weights: Path, threshold: float = THRESHOLD, work: Work | None = None
) -> Filtered:
    """Score every clip that has a file, and keep those whose cosine is at least ``threshold``.

    Features go to ``folder`` by parts, and only what lacks is computed. Raises :class:`WeightsError` without
    ImageBind's weights and :class:`InputError` where no clip passes.
    """
    work = work or Work()
    kind = NETWORKS["imagebind"]
    network = load_network(kind, weights, work.device)
    files = {clip.clip_id: Path(clip.path) for clip in manifest.clips if clip.path and clip.status == "ok"}
    reasons = {clip.clip_id: f"{clip.status}: {clip.reason}" for clip in manifest.clips if clip.clip_id not in files}
    for video in (False, True):
        found = extract(
            network, files, folder, work.device, video, _counter(work, video, len(files)), work.reading, work.batch
        )
        reasons |= found
        files = {clip_id: path for clip_id, path in files.items() if clip_id not in found}
    features = gather([*kind.caches, *kind.video_caches], folder, files)
    reasons |= features.excluded
    ids = sorted(set(files) - set(features.excluded))
    scores: dict[str, float] = {}
    if ids:
        seen, heard = features.of(ids, *kind.video_caches), features.of(ids, *kind.caches)
        scores = {clip_id: float(value) for clip_id, value in zip(ids, cosine_per_clip(seen, heard), strict=True)}
    for clip_id, score in scores.items():
        if score < threshold:
            reasons[clip_id] = f"similarity {score:.3f} is under {threshold:g}"
    kept = [clip for clip in manifest.clips if clip.clip_id not in reasons]
    left_out = tuple(replace(clip, reason=reasons[clip.clip_id]) for clip in manifest.clips if clip.clip_id in reasons)
    if not kept:
        examples = "".join(f"\n  {clip.clip_id}: {clip.reason}" for clip in left_out[:5])
        raise InputError(f"no clip of {len(left_out)} passes the filter:{examples}")
    return Filtered(scores, make_manifest(kept, manifest.clips_per_shard), left_out)


def _counter(work: Work, video: bool, total: int) -> Callable[[int], None]:
    done = 0

    def count(clips: int) -> None:
        nonlocal done
        done += clips
        work.on_step(f"imagebind, {'picture' if video else 'sound'}", done, total)

    return count


def beside(path: str | Path) -> Path:
    """The file of the clips that do not pass: ``mine-fit.left_out.parquet`` for ``mine-fit.parquet``."""
    return Path(path).with_suffix(f".left_out{Path(path).suffix}")


def write_filtered(found: Filtered, path: str | Path) -> Path:
    """A manifest of what passes, and beside it ``*.left_out.parquet`` of what does not; both with the scores.

    Returns the second path.
    """
    path, others = Path(path), beside(path)
    for target, clips in ((others, found.left_out), (path, found.kept.clips)):
        rows = [{**asdict(clip), COLUMN: found.scores.get(clip.clip_id)} for clip in clips]
        table = pa.Table.from_pylist(rows, schema=SCHEMA.append(pa.field(COLUMN, pa.float64())))
        table = table.replace_schema_metadata({"clips_per_shard": str(found.kept.clips_per_shard)})
        with replacing(target) as temporary:
            pq.write_table(table, temporary)
    return others
