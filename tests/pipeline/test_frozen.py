"""What identifies weights: values that stand in shards, mappers and feature files of users."""

import hashlib

import pytest

from common.registry import load_part
from evaluation.networks.base import FeatureNetwork
from pipeline.frozen import Frozen
from presets.encoders import ENCODERS


def test_fingerprints_of_official_files(tmp_path):
    """Of encoders by role and name, folders too; of the evaluation's networks by content alone."""
    (tmp_path / "folder").mkdir()
    for name in ("a.pth", "folder/b.json", "folder/c.bin"):
        (tmp_path / name).write_bytes(name.encode())
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.pth", "folder/b.json", "folder/c.bin")}
    listed = f"one/a.pth={sums['a.pth']};two/b.json={sums['folder/b.json']};two/c.bin={sums['folder/c.bin']};"
    paths = {"two": tmp_path / "folder", "one": tmp_path / "a.pth"}
    assert Frozen.fingerprint_of(paths) == f"official-{hashlib.sha256(listed.encode()).hexdigest()[:32]}"
    files = {"two": tmp_path / "folder" / "b.json", "one": tmp_path / "a.pth"}
    assert FeatureNetwork.fingerprint_of(files) == f"{sums['folder/b.json'][:16]}-{sums['a.pth'][:16]}"


def test_a_network_with_files_says_how_to_load_them():
    class Careless(Frozen):
        name = "careless"

    with pytest.raises(NotImplementedError, match="careless has official files"):
        Careless().load({})


@pytest.mark.parametrize("name", ENCODERS)
def test_every_registered_encoder_is_called_as_its_class_says(name):
    kind = load_part(ENCODERS[name].encoder)
    assert kind.name == name
