"""Synthetic caches for the trainer's tests."""

from __future__ import annotations

import numpy as np
import torch

from manifests.manifest import Clip, make_manifest
from pipeline.cache import ShardContent, Store, keep_manifest, open_store
from pipeline.cache.selection import clips_digest
from presets import load_preset
from tests.tiny import TINY


def write_cache(
    folder, clips=24, shards=2, seed=0, widths=None, stages=("cavp", "timechat", "audiomae"), lengths=None
) -> Store:
    """A micro cache of random features; the target follows from the visual streams.

    ``lengths``: seconds of each clip's file, for the manifest, which is kept where they are given.
    """
    random = np.random.default_rng(seed)
    preset = load_preset(TINY)
    widths = {"cavp": preset.encoders.cavp.embedding, "timechat": 96, "audiomae": 96, **(widths or {})}
    arrays = {
        "cavp": random.standard_normal((clips, 40, widths["cavp"])),
        "timechat": random.standard_normal((clips, 10, widths["timechat"])),
    }
    mixing = random.standard_normal((widths["cavp"] * 5, widths["audiomae"])) / 16
    arrays["audiomae"] = arrays["cavp"].reshape(clips, 8, -1) @ mixing
    store = open_store(folder)
    splits = np.array(["validation" if n % 6 == 5 else "train" for n in range(clips)])
    manifest = None
    if lengths is not None:
        rows = [
            Clip(f"clip{n:03d}", "", 0, f"label {n % 3}", splits[n], "", duration_s=lengths[n]) for n in range(clips)
        ]
        manifest = make_manifest(rows, clips // shards)
        keep_manifest(store, manifest)
    for stage in stages:
        for shard, rows in enumerate(np.array_split(np.arange(clips), shards)):
            fingerprint = {
                "stage": stage,
                "weights": f"{stage}-weights",
                "media": {},
                "config": {},
                "dtype": "float16",
                "preset": "tiny",
            }
            if manifest is not None:
                fingerprint["clips"] = clips_digest(manifest.shard(shard))
            content = ShardContent(
                tuple(f"clip{n:03d}" for n in rows),
                tuple(f"label {n % 3}" for n in rows),
                tuple(splits[rows].tolist()),
                fingerprint,
                {"features": arrays[stage][rows].astype(np.float16)},
            )
            store.write(stage, shard, content)
    return store


def comparable(state):
    """A state dict without GPT-2's key biases.

    Softmax does not see them, so their gradient is zero up to rounding, which Adam blows up to whole steps:
    after any change in the order of a sum they differ, and nothing else does.
    """
    kept = {}
    for name, tensor in state.items():
        if name.endswith("c_attn.bias"):
            query, _, value = tensor.chunk(3)
            kept[name] = torch.cat([query, value])
        else:
            kept[name] = tensor
    return kept
