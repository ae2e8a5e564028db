"""Files of the authors' training scripts, written by torch itself, and damaged ones."""

import argparse
import io
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WeightsError
from pipeline.encoders.checkpoints import read_state
from pipeline.encoders.torch_files import read_torch_file
from tests import layouts

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def model():
    whole = torch.arange(24.0)
    return OrderedDict(
        weight=whole.view(4, 6),
        tied=whole.view(4, 6),
        transposed=whole.view(4, 6).t(),
        part=whole[6:12],
        half=torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
        count=torch.tensor(3),
        mask=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float16)),
        nothing=torch.empty(0, 3),
    )


def same(read, wanted):
    assert list(read) == list(wanted)
    for name, tensor in wanted.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name


@FORMATS
@pytest.mark.parametrize("layout", ["panns", "mae", "lavis", "open_clip", "lightning", "bare"])
def test_the_tensors_of_each_training_script_come_out(tmp_path, layout, zipped):
    path, wanted = tmp_path / "model.pth", model()
    with layouts.ForeignPackage() as package:
        if layout == "bare":
            content = wanted
        elif layout == "lightning":
            content = layouts.lightning(wanted, package)
        else:
            content = getattr(layouts, layout)(wanted)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_state(path)
    same(read, wanted)
    assert read["weight"].data_ptr() == read["tied"].data_ptr(), "a shared storage stays shared"
    assert read["part"].data_ptr() == read["weight"].data_ptr() + 24


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_out_and_others_are_stand_ins(tmp_path, protocol, zipped):
    plain = {
        "arrays": [np.arange(5), np.ones((2, 3), order="F"), np.array(["a", "bc"]), np.array([1, 2], ">i4"), np.eye(0)],
        "scalars": [np.float64(3.5), np.int64(-2), np.bool_(True), 2**100, 3 + 4j, None, True, b"\xff\x00"],
        "containers": [{1, 2}, frozenset([3]), (1, (2,)), bytearray(b"x"), defaultdict(list, {1: 2}), deque([1])],
        ("a", 1): [torch.Size([2, 3]), torch.float16, Counter("aab")],
    }
    path = tmp_path / "values.pt"
    other = {
        "args": argparse.Namespace(x=1),
        "objects": np.array([None, {}], dtype=object),
        "device": torch.device("cpu"),
    }
    torch.save(plain | other, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    file = read_torch_file(path)
    for read, wanted in zip(file.content["arrays"], plain["arrays"], strict=True):
        assert read.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
        assert np.array_equal(read, wanted)
    assert file.content["scalars"] == plain["scalars"]
    assert file.content["containers"] == [{1, 2}, frozenset([3]), (1, (2,)), bytearray(b"x"), {1: 2}, [1]]
    assert file.content["a", 1] == [(2, 3), torch.float16, {"a": 2, "b": 1}]
    assert file.content["objects"].shape == (0,), "an array of objects is not read"
    assert file.not_read == {"argparse.Namespace", "torch.device"}


def test_zip_files_are_mapped_not_copied(tmp_path):
    path = tmp_path / "large.pt"
    torch.save({"x": torch.arange(1000.0), "y": torch.zeros(1000)}, path)
    read = read_state(path)
    assert read["x"].untyped_storage().nbytes() == 4000
    with pytest.raises(RuntimeError):
        read["x"].untyped_storage().resize_(8000)  # not memory of its own
    read["x"].zero_()
    assert torch.equal(read_state(path)["x"], torch.arange(1000.0)), "the file never changes"


@FORMATS
def test_cut_short_is_told_from_something_else_at_every_length(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save(layouts.mae(model()), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"model\.pth cannot be read as a checkpoint: it is cut short"):
            read_state(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>", "it is not one .it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"some text", "first bytes"),
        (b"\x80\x04}.", "a pickle of something else"),
    ],
)
def test_what_is_no_checkpoint_is_called_so(tmp_path, content, reason):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        read_state(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)


def _saved(zipped):
    buffer = io.BytesIO()
    content = layouts.mae({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)})
    torch.save(content | {"n": np.arange(3)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


SAVED = {zipped: _saved(zipped) for zipped in (True, False)}


def read_or_say(path):
    """Tensors, or a WeightsError: anything else is a failure of the test."""
    try:
        state = read_state(path)
    except WeightsError:
        return
    assert all(isinstance(tensor.sum(), torch.Tensor) for tensor in state.values())


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_gives_tensors_or_a_weights_error(tmp_path_factory, data):
    content = bytearray(SAVED[data.draw(st.booleans(), "zipped")])
    for _ in range(data.draw(st.integers(1, 4), "flips")):
        content[data.draw(st.integers(0, len(content) - 1), "where")] ^= data.draw(st.integers(1, 255), "how")
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))), "cut")
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(content if cut is None else content[:cut])
    read_or_say(path)
