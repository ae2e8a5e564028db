"""Memory and stream hold the same rows of the same caches, whatever a cache lacks."""

import numpy as np
import pytest
import torch

from common.errors import CacheError
from manifests.manifest import Clip, make_manifest
from pipeline.cache import Quarantined, ShardContent, join, keep_manifest, open_store
from pipeline.cache.selection import clips_digest
from trainer.data import StreamData, TensorData, load_data

STAGES = ["cavp", "audiomae"]
SHARDS = 4


def value(stage, clip_id):
    """Features that say whose they are."""
    return int(clip_id[4:]) + (1000 if stage == "audiomae" else 0)


def write(store, lacking, left_out, per_shard=3, keeps_manifest=True):
    """Shards of 12 clips. ``lacking``: (stage, shard) never made; ``left_out``: (stage, clip id) quarantined."""
    clips = [
        Clip(f"clip{n:03d}", "y", 0, f"label {n % 3}", ("train", "validation", "test")[n % 3], "p")
        for n in range(SHARDS * per_shard)
    ]
    manifest = make_manifest(clips, per_shard)
    for stage in STAGES:
        for shard in range(manifest.shard_count):
            if (stage, shard) in lacking:
                continue
            rows = [clip for clip in manifest.shard(shard) if (stage, clip.clip_id) not in left_out]
            faults = [clip for clip in manifest.shard(shard) if (stage, clip.clip_id) in left_out]
            features = [np.full((2, 3), value(stage, clip.clip_id), np.float16) for clip in rows]
            content = ShardContent(
                tuple(clip.clip_id for clip in rows),
                tuple(clip.label for clip in rows),
                tuple(clip.split for clip in rows),
                {"stage": stage, "weights": "w", "clips": clips_digest(manifest.shard(shard))},
                {"features": np.stack(features) if rows else np.zeros((0, 0, 0), np.float16)},
                tuple(Quarantined(clip.clip_id, stage, "silent", "m", "p") for clip in faults),
            )
            store.write(stage, shard, content)
    if keeps_manifest:
        keep_manifest(store, manifest)
    return manifest


def everything(data):
    """clip id -> split and the value of each stage, in whatever order the clips come."""
    found = {}
    for split in ("train", "validation", "test"):
        for order in (None, 5):
            rows = {}
            for batch in data.batches(split, 2, order):
                for row, clip_id in enumerate(batch.clip_ids):
                    assert clip_id not in rows
                    rows[clip_id] = (split, *(float(batch.arrays[stage][row].mean()) for stage in STAGES))
            assert len(rows) == data.count(split)
            assert order is None or rows == {i: r for i, r in found.items() if r[0] == split}
            found |= rows
    return found


FIRST = {("cavp", f"clip{n:03d}") for n in range(3)}


@pytest.mark.parametrize("keeps_manifest", [True, False])
@pytest.mark.parametrize(
    ("lacking", "left_out", "count"),
    [
        (set(), set(), 12),
        ({("cavp", 0)}, set(), 9),
        ({("cavp", 0), ("audiomae", 2)}, set(), 6),
        ({("cavp", 3), ("audiomae", 3)}, set(), 9),
        (set(), FIRST, 9),  # the first shard has no usable clip
        (set(), {("cavp", "clip001"), ("audiomae", "clip001"), ("audiomae", "clip005")}, 10),
        ({("audiomae", 1)}, FIRST | {("audiomae", "clip011")}, 5),
    ],
)
def test_the_same_rows(tmp_path, lacking, left_out, count, keeps_manifest):
    store = open_store(tmp_path)
    write(store, lacking, left_out, keeps_manifest=keeps_manifest)
    memory, stream = TensorData(join(store, STAGES), "cpu"), StreamData(store, STAGES, "cpu")
    found = everything(memory)
    assert found == everything(stream)
    assert len(found) == count
    for clip_id, (split, visual, target) in found.items():
        assert split == ("train", "validation", "test")[int(clip_id[4:]) % 3]
        assert (visual, target) == (value("cavp", clip_id), value("audiomae", clip_id))
    assert memory.left_out == stream.left_out
    unknown = 3 if not keeps_manifest and {("cavp", 3), ("audiomae", 3)} <= lacking else 0  # by nobody without one
    assert len(join(store, STAGES).left_out) == 12 - count - unknown
    assert memory.shapes == stream.shapes == {"cavp": (2, 3), "audiomae": (2, 3)}
    assert memory.provenance == stream.provenance


@pytest.mark.parametrize("how", ["memory", "stream"])
def test_the_same_errors(tmp_path, how):
    store = open_store(tmp_path)
    with pytest.raises(CacheError, match="no complete shard of stage 'cavp'"):
        load_data(store, STAGES, torch.device("cpu"), how)
    write(store, set(), {("cavp", f"clip{n:03d}") for n in range(12)})
    with pytest.raises(CacheError, match=r"no clip .* has all of cavp, audiomae: 12 silent \(cavp\)"):
        load_data(store, STAGES, torch.device("cpu"), how)
