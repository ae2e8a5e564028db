"""Synthetic caches for the trainer's tests."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.cache import ShardContent, Store, open_store
from presets import load_preset
from tests.tiny import TINY


def write_cache(folder, clips=24, shards=2, seed=0, widths=None, stages=("cavp", "timechat", "audiomae")) -> Store:
    """A micro cache of random features; the target follows from the visual streams."""
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
