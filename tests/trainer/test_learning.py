"""The mapper can learn: a target that is a known function of both streams, at known times."""

import json

import numpy as np
import pytest
import torch

from pipeline.cache import ShardContent, open_store
from presets import load_preset
from tests.tiny import TINY
from trainer.train import Trainer

CLIPS, WIDTH = 3600, 96


def known_target(cavp, timechat, mixing):
    """c_i mixes the CAVP steps 5i .. 5i+4 with the TimeChat step under them: time order matters."""
    left, right = mixing
    seen = cavp.reshape(len(cavp), 8, 5, -1).mean(axis=2) @ left
    semantic = timechat[:, np.arange(8) * 10 // 8] @ right
    return seen + semantic


def write(folder):
    random = np.random.default_rng(5)
    cavp = random.standard_normal((CLIPS, 40, 4))
    timechat = random.standard_normal((CLIPS, 10, 4))
    mixing = random.standard_normal((4, WIDTH)) * 5**0.5, random.standard_normal((4, WIDTH))
    streams = {
        "cavp": np.pad(cavp, ((0, 0), (0, 0), (0, 60))),
        "timechat": timechat,
        "audiomae": known_target(cavp, timechat, mixing),
    }
    splits = tuple("validation" if n % 6 == 5 else "train" for n in range(CLIPS))
    store = open_store(folder)
    for stage, features in streams.items():
        made = {"stage": stage, "weights": stage, "media": {}, "config": {}, "preset": "micro"}
        ids = tuple(f"clip{n:04d}" for n in range(CLIPS))
        store.write(stage, 0, ShardContent(ids, ids, splits, made, {"features": features.astype(np.float16)}))
    validation = streams["audiomae"][[split == "validation" for split in splits]]
    return store, float((validation - validation.mean(axis=(0, 1))).__pow__(2).sum(axis=-1).mean())


SETTINGS = [
    "training.global_batch=48",
    "training.learning_rate=2e-3",
    "training.warmup_steps=200",
    "mapper.dropout=0.0",
    "mapper.layers=2",
    "training.epochs=12",
]


@pytest.mark.slow
def test_free_running_error_falls_and_needs_both_streams_and_time_order(tmp_path):
    store, variance = write(tmp_path / "cache")

    def share(name, *assignments, shuffle=False):
        trainer = Trainer(load_preset(TINY, [*SETTINGS, *assignments]), store, tmp_path / name, "cpu")
        if shuffle:
            generator = torch.Generator().manual_seed(0)
            for stage in ("cavp", "timechat"):
                array = trainer.data.arrays[stage]
                for row in range(len(array)):
                    array[row] = array[row][torch.randperm(array.shape[1], generator=generator)]
        return trainer.fit().metrics["validation_free_running"] / variance

    shares = {
        "both": share("both", "training.epochs=70"),
        "cavp": share("cavp", "mapper.encoders=[cavp]"),
        "timechat": share("timechat", "mapper.encoders=[timechat]"),
        "time order shuffled": share("shuffled", shuffle=True),
    }
    print(json.dumps(shares))
    assert shares["both"] < 0.05, shares
    for name in ("cavp", "timechat", "time order shuffled"):
        assert shares[name] > 4 * shares["both"], shares
        assert shares[name] > 0.2, shares
