"""A run and a cache of the tiny preset without training and extraction: what generation does with them is tested."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from generate.__main__ import app
from manifests.manifest import Clip, make_manifest, write_manifest
from pipeline.cache import ShardContent, open_store
from pipeline.cache.selection import clips_digest
from pipeline.encoders import load_encoder
from presets import load_preset
from tests.tiny import TINY
from trainer.mapper import MapperSpec
from trainer.registry import build_mapper

STEPS = {"cavp": (40, 64), "timechat": (10, 96)}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """RUN with a mapper of seeded weights, for the encoders of the tiny preset."""
    folder = tmp_path_factory.mktemp("run")
    preset = load_preset(TINY)
    fingerprints = {name: load_encoder(name, preset=preset).fingerprint for name in STEPS}
    spec = MapperSpec(
        preset.mapper,
        {name: width for name, (_, width) in STEPS.items()},
        {name: steps for name, (steps, _) in STEPS.items()},
        (8, 96),
        provenance={"preset": "tiny", "encoders": fingerprints},
    )
    torch.manual_seed(0)
    build_mapper(spec).save_pretrained(folder / "mapper")
    return folder


@pytest.fixture(scope="session")
def make_cache(run_folder):
    """``make_cache(folder, {clip id: (path, label)})``: a cache of random features with its manifest, split test."""
    preset = load_preset(TINY)
    made_by = {name: load_encoder(name, preset=preset).fingerprint for name in STEPS}

    def make(folder, clips, clips_per_shard=16):
        ids = tuple(sorted(clips))
        labels = tuple(clips[clip_id][1] for clip_id in ids)
        rows = [Clip(clip_id, clip_id[:11], 0, clips[clip_id][1], "test", str(clips[clip_id][0])) for clip_id in ids]
        manifest = make_manifest(rows, clips_per_shard)
        write_manifest(manifest, folder / "manifest.parquet")
        store = open_store(folder, "hdf5")
        for name, shape in STEPS.items():
            features = np.random.default_rng(0).standard_normal((len(ids), *shape)).astype(np.float16)
            for shard in range(manifest.shard_count):
                rows = slice(shard * clips_per_shard, (shard + 1) * clips_per_shard)
                digest = clips_digest(manifest.shard(shard))
                fingerprint = {"stage": name, "weights": made_by[name], "config": {}, "media": {}, "clips": digest}
                splits = ("test",) * len(ids[rows])
                content = ShardContent(ids[rows], labels[rows], splits, fingerprint, {"features": features[rows]})
                store.write(name, shard, content)
        return folder

    return make


@pytest.fixture(autouse=True)
def cache_of_the_user(tmp_path_factory, monkeypatch):
    """Never the real one of who runs the tests; the same for all tests, as a user has it."""
    folder = tmp_path_factory.getbasetemp() / "user-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def generate(run_folder):
    """``generate(*arguments, code=0)``: the command in this process, with one step; returns all that it printed."""

    def run(*arguments, code=0, steps=1):
        words = [*map(str, arguments), "--run", str(run_folder), "--preset", TINY, "--device", "cpu"]
        result = CliRunner().invoke(app, [*words, "--set", f"generation.steps={steps}"], catch_exceptions=False)
        assert result.exit_code == code, f"exit {result.exit_code}, wanted {code}:\n{result.output}"
        return result.output

    return run
