"""Negative conditions kept in the user's cache folder."""

import pytest
import torch

from generate.kept import keep, read_kept, user_cache
from generate.sampling import load_sampler
from presets import load_preset
from tests.tiny import TINY

TENSORS = {"tokens": torch.randn(1, 8, 4), "mask": torch.ones(1, 3, dtype=torch.long), "half": torch.ones(2).bfloat16()}


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    keep(path, TENSORS)
    read = read_kept(path)
    assert read is not None
    for name, tensor in TENSORS.items():
        assert torch.equal(read[name], tensor)
    data = path.read_bytes()
    for place in range(8, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        again = read_kept(path)
        if again is not None:  # a letter of the header that says nothing
            assert all(torch.equal(again[name], tensor) for name, tensor in TENSORS.items())
    for length in (0, 7, 100, len(data) - 1):
        path.write_bytes(data[:length])
        assert read_kept(path) is None


@pytest.mark.parametrize("given", ["", "relative/folder"])
def test_where_it_is(monkeypatch, tmp_path, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert user_cache() == tmp_path / ".cache" / "mfm-mapper"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert user_cache() == tmp_path / "x" / "mfm-mapper"


def test_nothing_is_written_beside_the_mapper(run_folder, tmp_path, monkeypatch):
    """The shipped mapper lies in the installed package, which may be read-only; so may the home be."""
    before = {path for path in run_folder.rglob("*") if path.is_file()}
    preset = load_preset(TINY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = load_sampler(preset, run_folder / "mapper").audio_model.negative("low quality")
    assert len(list((tmp_path / "cache/mfm-mapper/negatives").iterdir())) == 1
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    second = load_sampler(preset, run_folder / "mapper").audio_model.negative("low quality")
    assert torch.equal(first.tokens, second.tokens)
    assert {path for path in run_folder.rglob("*") if path.is_file()} == before
