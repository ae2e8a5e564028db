"""A cache, a run and an OUT of commit a5f5f45, as users have them, are taken by all that came after it."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from generate.records import prepare_folder
from generate.sampling import load_sampler
from generate.split import take_cached_labels
from pipeline.cache import join, open_store
from pipeline.extract import Extractor
from presets import load_preset
from tests.commands import run_here
from tests.recipe import GOLDEN

BEFORE = GOLDEN / "before_house"
FORMATS = {"hdf5": "cache", "webdataset": "cache_webdataset"}
SETTINGS = (
    "mapper.layers=1", "mapper.initialise=scratch", "mapper.max_positions=64", "training.global_batch=2",
    "mapper.standardise=false", "training.schedule=constant",
)  # fmt: skip
STAGES = ("cavp", "timechat", "audiomae")


@pytest.fixture
def run(tmp_path):
    """The run as the trainer left it: its mapper has the weights of its last checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(BEFORE / "run", folder)
    shutil.copy(folder / "checkpoints" / "epoch-00002" / "model.safetensors", folder / "mapper")
    return folder


@pytest.fixture
def weights_of_then(monkeypatch):
    """The encoders are those that made it: the preset ships others now, and had all of BERT's words."""
    store = open_store(BEFORE / FORMATS["hdf5"], "hdf5")

    def encoder(self, stage):
        return SimpleNamespace(fingerprint=store.header(stage, 0).fingerprint["weights"])

    monkeypatch.setattr(Extractor, "encoder", encoder)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_cache_is_whole_and_joins(kind):
    cache = BEFORE / FORMATS[kind]
    words = ("--format", kind)
    assert " 0 " in next(line for line in run_here("pipeline", "verify", cache, *words).splitlines() if "wrong" in line)
    stages = json.loads(run_here("pipeline", "status", cache, *words, "--json"))["stages"]
    assert {name: (row["clips"], row["quarantined"], row["done"]) for name, row in stages.items()} == {
        **dict.fromkeys(STAGES, (8, 1, 3)),
        "flan_t5": (9, 0, 1),
    }
    joined = join(open_store(cache, kind), STAGES)
    assert joined.left_out == {"world000008_000000": "unreadable (cavp)"}
    assert sorted(joined.splits) == ["test"] * 2 + ["train"] * 4 + ["validation"] * 2
    other = join(open_store(BEFORE / FORMATS["hdf5"]), STAGES)
    assert all((joined.arrays[stage] == other.arrays[stage]).all() for stage in STAGES)


@pytest.mark.parametrize("kind", FORMATS)
def test_extraction_finds_nothing_to_do(tmp_path, kind, weights_of_then):
    """Same clips, weights and settings: no shard is refused or made again."""
    cache = tmp_path / "cache"
    shutil.copytree(BEFORE / FORMATS[kind], cache)
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    said = run_here(
        "pipeline", "extract", "--manifest", cache / "manifest.parquet", "--cache", cache, "--format", kind,
        "--preset", "micro", "--device", "cpu", "--set", "encoders.timechat.vocabulary=18926",
    )  # fmt: skip
    assert "0 made, 10 already there" in said
    assert {path: path.read_bytes() for path in before} == before


def test_training_goes_on(run):
    """From the other format, too: what is joined is the same."""
    (run / "mapper" / "model.safetensors").unlink()  # as after a kill: it follows from the checkpoint
    words = [word for setting in (*SETTINGS, "training.epochs=3") for word in ("--set", setting)]
    said = run_here(
        "trainer", "--preset", "micro", "--cache", BEFORE / "cache_webdataset", "--format", "webdataset",
        "--run", run, "--device", "cpu", *words,
    )  # fmt: skip
    assert "1 now, 2 before, 3 in all" in said
    made, then = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (run, BEFORE))
    assert made[:2] == then[:2]
    assert json.loads(made[2]) == pytest.approx(json.loads(then[2]), rel=1e-3)


def test_the_mapper_predicts_the_same_tokens_for_generation(run, tmp_path):
    preset = load_preset("micro")
    sampler = load_sampler(preset, run / "mapper")
    for kind, name in FORMATS.items():
        store = open_store(BEFORE / name, kind)
        joined = join(store, sampler.encoders)
        sampler.check_encoders(joined.provenance)
        sampler.audio_model.label_encoder.fingerprint = store.header("flan_t5", 0).fingerprint["weights"]
        take_cached_labels(sampler, store)
        visual = {stage: torch.from_numpy(joined.arrays[stage]).float() for stage in sampler.encoders}
        tokens = load_file(BEFORE / "tokens.safetensors")["tokens"]
        torch.testing.assert_close(sampler.predict(visual, joined.clip_ids), tokens, rtol=1e-4, atol=1e-4)
    shutil.copytree(BEFORE / "out", tmp_path / "out")
    then = json.loads((tmp_path / "out" / "settings.json").read_text())
    sampler.audio_model.fingerprint = then["audioldm2"]  # the preset ships another now
    prepare_folder(tmp_path / "out", sampler.settings())  # raises for sound made with other settings


def test_no_path_of_a_machine_is_kept():
    for path in BEFORE.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in (b"/tmp", b"/work", b"/root", b"/home")), path
