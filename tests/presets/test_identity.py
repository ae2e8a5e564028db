"""A setting that did not exist when a shard, a run, a mapper or a folder of sound was made refuses none of them."""

import json
import shutil
from dataclasses import is_dataclass, replace
from types import SimpleNamespace

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from common.errors import CacheError
from generate.records import prepare_folder
from generate.sampling import Sampler
from pipeline.cache import join, open_store
from pipeline.cache.shard import differing_identity
from pipeline.stages import fingerprint
from presets import config, load_preset
from presets.checks import STRICT, fields_of
from presets.encoders import ENCODERS
from presets.identity import differences, settings_of
from tests.recipe import GOLDEN
from trainer.mapper import read_spec
from trainer.train import Trainer

BEFORE = GOLDEN / "before_house"
RUN = (
    "mapper.layers=1", "mapper.initialise=scratch", "mapper.max_positions=64", "training.global_batch=2",
    "mapper.standardise=false", "training.schedule=constant",
    "training.epochs=2",
)  # fmt: skip


def later(kind):
    """A section with one more setting, and so its sections."""
    sections = {
        name: later(field.annotation) for name, field in fields_of(kind).items() if is_dataclass(field.annotation)
    }
    fields = {name: Field(default_factory=section) for name, section in sections.items()}
    values = {"__annotations__": {**sections, "newer": int}, **fields, "newer": 3, "__module__": kind.__module__}
    return dataclass(config=STRICT, frozen=True)(type(kind.__name__, (kind,), values))


@pytest.fixture
def load_later(monkeypatch):
    """The presets of a later version of this project, each section of which has a setting ``newer``, 3 by default."""
    monkeypatch.setattr(ENCODERS, "_places", {name: later(settings) for name, settings in ENCODERS.items()})
    monkeypatch.setattr(config, "Preset", later(config.Preset))
    assert settings_of("encoders", "cavp")().newer == 3
    # The preset had all of BERT's words then.
    return lambda *assignments: load_preset("micro", ["encoders.timechat.vocabulary=18926", *assignments])


def made_later(preset, made, stage):
    """The fingerprint that the same encoder gives in the later version."""
    return fingerprint(stage, preset, made["weights"], made["clips"], made["manifest"], "float32")


@pytest.mark.parametrize("stage", ["cavp", "timechat", "audiomae", "flan_t5"])
def test_shards(load_later, stage):
    made = open_store(BEFORE / "cache").header(stage, 0).fingerprint
    now = made_later(load_later(), made, stage)
    assert now["config"]["newer"] == 3
    assert "newer" not in made["config"]
    assert differing_identity(made, now) == differing_identity(now, made) == ""
    other = made_later(load_later(f"encoders.{stage}.newer=4"), made, stage)
    assert differing_identity(made, other) == "config (config.newer: 3 there, 4 here)"
    if stage != "flan_t5":
        other = made_later(load_later("media.newer=4", "weights.seed=2"), {**made, "weights": "w"}, stage)
        said = differing_identity(made, other)
        assert said.startswith("media, weights (media.newer: 3 there, 4 here; weights: shipped-")


def test_old_and_new_shards_of_one_cache(load_later, tmp_path):
    shutil.copytree(BEFORE / "cache", tmp_path / "cache")
    store = open_store(tmp_path / "cache")
    for setting in (3, 4):
        content = store.read("timechat", 1)
        made = made_later(load_later(f"encoders.timechat.newer={setting}"), content.fingerprint, "timechat")
        store.write("timechat", 1, replace(content, fingerprint=made))
        if setting == 3:
            assert len(join(store, ["cavp", "timechat"])) == 8
    with pytest.raises(CacheError, match=r"timechat/shard-00001.* another config \(config\.newer: 3 there, 4 here\)"):
        join(store, ["cavp", "timechat"])


def test_runs(load_later, tmp_path):
    shutil.copytree(BEFORE / "run", tmp_path / "run")
    store = open_store(BEFORE / "cache")

    def trainer(*assignments):
        return Trainer(load_later(*RUN, *assignments), store, tmp_path / "run", "cpu")

    going_on = trainer()
    going_on.prepare_folder()
    assert going_on.epoch == 2
    shutil.rmtree(tmp_path / "run" / "mapper")
    for name in ("training.newer", "mapper.newer"):
        with pytest.raises(CacheError, match=rf"other settings or clips \({name}: 3 there, 4 here\)"):
            trainer(f"{name}=4").prepare_folder()


def test_mappers(load_later):
    spec = read_spec(BEFORE / "run" / "mapper")
    store = open_store(BEFORE / "cache")
    sampler = Sampler(SimpleNamespace(spec=spec), None, load_later(), "")

    def check(*assignments):
        made = {stage: store.header(stage, 0).fingerprint for stage in sampler.encoders}
        sampler.check_encoders({name: made_later(load_later(*assignments), made[name], name) for name in made})

    check()
    for name in ("encoders.timechat.newer", "media.newer"):
        with pytest.raises(CacheError, match=rf"another kind than these \({name}: 3 there, 4 here\)"):
            check(f"{name}=4")


def test_folders_of_sound(load_later, tmp_path):
    shutil.copytree(BEFORE / "out", tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "settings.json").read_text())

    def settings(*assignments):
        audioldm2 = SimpleNamespace(fingerprint=saved["audioldm2"])
        return Sampler(None, audioldm2, load_later(*assignments), saved["mapper"]).settings()

    assert settings()["newer"] == 3
    prepare_folder(tmp_path / "out", settings())
    with pytest.raises(CacheError, match=r"another newer, steps \(newer: 3 there, 4 here; steps: 12 there, 5 here\)"):
        prepare_folder(tmp_path / "out", settings("generation.newer=4", "generation.steps=5"))


def test_what_nobody_here_knows_is_another_setting():
    """A newer version wrote it: what its default means is not known here."""
    kind = settings_of("encoders", "cavp")
    assert [*map(str, differences({"width": 64, "newest": 1}, {}, kind))] == ["newest: 1 there, None here"]
    assert differences({"newest": 1}, {"newest": 1, "blocks": [3, 4, 6, 3]}, kind) == []
    assert differences({"blocks": (3, 4, 6, 3)}, {}, kind) == []
    assert settings_of("encoders", "another") is None


def test_nested_records():
    there, here = {"a": {"b": 1, "c": 2}, "d": "x" * 100}, {"a": {"b": 1, "c": 3}, "e": None}
    assert [*map(str, differences(there, here))] == ["a.c: 2 there, 3 here", f"d: {'x' * 45}... there, None here"]
    assert differences({"a": 1, "b": 2}, {"a": 2, "b": 2}, None, ("a",)) == []
