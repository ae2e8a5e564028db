"""A feature network with its metric, and a data set, of files of their own and one line each."""

import json

import numpy as np
import pytest

from evaluation.networks import NETWORKS
from evaluation.scores import METRICS
from manifests.builders import DATASETS
from manifests.manifest import read_manifest
from pipeline.media.writing import write_wav
from tests.commands import run_here
from tests.media_factory import make_media

NETWORK = '''
"""How loud a clip is, and how far that is from the truth."""

import numpy as np

from evaluation.metric import Metric
from evaluation.networks.base import FeatureNetwork


class Level(FeatureNetwork):
    name, files, caches = "level", (), ("level.pth",)

    def load(self, paths):
        pass

    def encode(self, waveforms):
        return {"level.pth": {"": waveforms.square().mean(1, keepdim=True).sqrt()}}


def _error(generated, reference, ids):
    values = np.abs(generated.of(ids, "level.pth") - reference.of(ids, "level.pth"))[:, 0]
    return float(values.mean()), values


LEVEL_ERROR = Metric("level_error", "level", False, _error)
'''
DATASET = '''
"""A list of tab-separated names and labels."""

from manifests.builders import FoundClips
from manifests.manifest import Clip


def clips_from_mine(listing, videos):
    rows = [line.split("\\t") for line in listing.read_text().splitlines()]
    return FoundClips(Clip(name, name, 0, label, "test", str(videos / f"{name}.mp4")) for name, label in rows)
'''


@pytest.fixture
def adding(tmp_path, monkeypatch):
    """Writes a module, and one line of a registry for each name."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(module, text, *lines):
        (tmp_path / f"{module}.py").write_text(text)
        for registry, name, part in lines:
            monkeypatch.setattr(registry, "_places", {**registry._places, name: f"{module}:{part}"})

    return add


def test_a_network_and_its_metric(adding, tmp_path):
    adding("level", NETWORK, (NETWORKS, "level", "Level"), (METRICS, "level_error", "LEVEL_ERROR"))
    for number, (made, true) in enumerate([(0.1, 0.3), (0.2, 0.2), (0.4, 0.3)]):
        for folder, level in (("out/wav_8s", made), ("truth", true)):
            write_wav(tmp_path / folder / f"{number}.wav", np.full(128_000, level, np.float32), 16_000)
    said = run_here(
        "evaluation", "--out", tmp_path / "out", "--reference", tmp_path / "truth", "--networks", "level",
        "--preset", "micro", "--workers", "0",
    )  # fmt: skip
    assert "level_error" in said
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())["values"]
    assert values["level_error"] == pytest.approx(0.1, abs=1e-4)
    assert "level_error" in (tmp_path / "out" / "evaluation.md").read_text()


def test_a_data_set(adding, tmp_path):
    adding("mine", DATASET, (DATASETS, "mine", "clips_from_mine"))
    make_media(tmp_path / "videos" / "a.mp4", seconds=1)
    (tmp_path / "list.tsv").write_text("a\tdog barking\nb\train\n")
    out = tmp_path / "m.parquet"
    run_here(
        "pipeline", "manifest", "--dataset", "mine", "--list", tmp_path / "list.tsv", "--videos", tmp_path / "videos",
        "--out", out,
    )  # fmt: skip
    assert [(clip.clip_id, clip.label, clip.status) for clip in read_manifest(out).clips] == [
        ("a", "dog barking", "ok"),
        ("b", "rain", "missing_file"),
    ]
    said = run_here("pipeline", "manifest", "--dataset", "none", "--out", out, code=4)
    assert "there are vggsound, visualsound, mine" in said
