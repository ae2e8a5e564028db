"""What a mapper's folder from somebody else may hold: a sentence, before memory is asked for."""

import json
import resource
import shutil
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WeightsError
from tests.trainer.test_mapper import make_spec
from trainer.registry import MFMMapper, build_mapper


@pytest.fixture(scope="module", params=["gpt2", "diffusion"])
def saved(request, tmp_path_factory):
    """A saved mapper without checksums: its author can make those fit anything."""
    folder = tmp_path_factory.mktemp(request.param)
    build_mapper(make_spec(kind=request.param)).save_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    return folder


CHANGES = [
    {"mapper.layers": 1_000_000},
    {"mapper.layers": -2},
    {"mapper.layers": 0},
    {"mapper.layers": "2"},
    {"mapper.layers": 2.5},
    {"mapper.layers": True},
    {"mapper.layers": 10**400},
    {"mapper.layers": 512, "mapper.width": 65_536, "mapper.heads": 1, "target": [8, 65_536]},
    {"mapper.width": -24},
    {"mapper.heads": 0},
    {"mapper.heads": 7},
    {"mapper.max_positions": 65_536},
    {"mapper.max_positions": 10},
    {"mapper.dropout": float("nan")},
    {"mapper.dropout": 1.5},
    {"mapper.diffusion_steps": 10**12},
    {"mapper.kind": "__class__"},
    {"mapper.fusion": ["concat"]},
    {"mapper.encoders": []},
    {"mapper.encoders": ["cavp", "cavp"]},
    {"mapper.encoders": ["stranger"]},
    {"mapper.encoders": "cavp"},
    {"mapper.__class__": "os.system"},
    {"mapper": None},
    {"mapper": 5},
    {"dimensions": {"cavp": 10**15, "timechat": 7}},
    {"dimensions": {"cavp": 1_000_000, "timechat": 1_000_000}},
    {"dimensions": {"cavp": -5, "timechat": 7}},
    {"dimensions": {}},
    {"dimensions": []},
    {"lengths": {"cavp": 10**30, "timechat": 10}},
    {"lengths": {"cavp": 0, "timechat": 10}},
    {"lengths": None},
    {"target": [8]},
    {"target": [8, 24, 1]},
    {"target": [10**9, 24]},
    {"target": "8x24"},
    {"loss": "hinge"},
    {"statistics": {"mean": "zero"}},
    {"statistics": {"std": float("inf")}},
    {"provenance": []},
    {"provenance": {"encoders": ["cavp"]}},
    {"provenance": {"encoder_configs": {"cavp": 3}}},
    {"provenance": {"media": 10}},
    {"provenance": {"metrics": {"train_loss": "low"}}},
    {"surprise": 1},
]


def changed(config, change):
    config = json.loads(json.dumps(config))
    for path, value in change.items():
        section, _, name = path.rpartition(".")
        (config[section] if section else config)[name] = value
    return config


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change)[:60])
def test_hostile_values_are_refused_before_memory_is_asked_for(saved, tmp_path, change):
    folder = shutil.copytree(saved, tmp_path / "mapper")
    config = json.loads((saved / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(changed(config, change)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        MFMMapper.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "null", "[]", '"text"', "\ufeff{}", "{} {}"])
def test_what_is_no_json_of_a_mapper(saved, tmp_path, text):
    folder = shutil.copytree(saved, tmp_path / "mapper")
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="does not describe a mapper"):
        MFMMapper.from_pretrained(folder)


def test_the_change_is_what_is_refused(saved):
    assert MFMMapper.from_pretrained(saved).spec.mapper.layers == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["mapper", "dimensions", "lengths", "target", "loss", "statistics", "provenance"]
FIELDS += ["mapper.layers", "mapper.width", "mapper.encoders", "mapper.max_positions", "provenance.encoders"]


@settings(max_examples=60)
@given(st.sampled_from(FIELDS), JSON)
def test_any_value_gives_a_mapper_or_a_sentence(tmp_path_factory, field, value):
    folder = tmp_path_factory.mktemp("any")
    torch.manual_seed(0)
    build_mapper(make_spec(layers=1)).save_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(changed(config, {field: value})))
    with suppress(WeightsError):
        MFMMapper.from_pretrained(folder)


def test_a_flipped_bit_of_a_mapper_is_found(tmp_path):
    build_mapper(make_spec(layers=1)).save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for place in range(7, len(whole), len(whole) // 25):
            (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(WeightsError, match="damaged"):
                MFMMapper.from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(whole)
    MFMMapper.from_pretrained(tmp_path)
