"""Files that try to run something while they are read. Whatever they are answered with, nothing of it happens."""

import copyreg
import functools
import io
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import WeightsError
from pipeline.encoders.checkpoints import read_state
from pipeline.encoders.torch_files import read_torch_file
from pipeline.encoders.unpickling import _PLAIN, Unpickler

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Calls:
    """An object whose pickle is a call; it can stand for the function of another call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        raise AssertionError("only for the pickler, which wants a function here")


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def nested(function, *arguments):
    """Bytes of a torch file inside the file, for what loads a file again."""
    buffer = io.BytesIO()
    torch.save(Calls(function, *arguments), buffer)
    return buffer.getvalue()


def legacy(content):
    """A file of the old layout around any pickle."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, content, pickle.dumps([], 2)])


def in_zip(content, extra=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry, value in {"a/data.pkl": content, "a/version": b"3", **dict(extra)}.items():
            archive.writestr(entry, value)
    return buffer.getvalue()


def calls(marker):
    command = f"touch {marker}"
    objects = np.empty(1, dtype=object)
    objects[0] = Calls(os.system, command)
    yield Calls(os.system, command)
    yield Calls(eval, f"__import__('os').system({command!r})")
    yield Calls(exec, f"open({str(marker)!r}, 'w')")
    yield Calls(getattr, Calls(__import__, "os"), "system")
    yield Calls(Calls(functools.partial, os.system, command))
    yield Calls(map, os.system, [command])
    yield Calls(torch.storage._load_from_bytes, nested(os.system, command))
    yield Calls(torch.hub.load_state_dict_from_url, "http://127.0.0.1:9/x", str(marker))
    yield Calls(torch._utils._rebuild_tensor_v2, Calls(os.system, command), 0, (1,), (1,), False, None)
    yield Calls(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (command,), {})
    yield Calls(torch._tensor._rebuild_from_type_v2, torch._tensor._rebuild_from_type_v2, torch.Tensor, (1, 2, 3, 4), 0)
    yield Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")
    yield Calls(np._core.multiarray.scalar, np.dtype("O"), pickle.dumps(Calls(os.system, command)))
    yield objects
    yield {Calls(os.system, command): 1}


@FORMATS
def test_a_call_in_the_file_is_not_made_and_the_tensors_beside_it_come_out(tmp_path, zipped):
    marker = tmp_path / "marker"
    for number, attempt in enumerate(calls(marker)):
        path = tmp_path / f"{number}.pt"
        content = {"model": {"x": torch.ones(3), "y": attempt}, "args": attempt}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert not marker.exists()
        try:
            state = read_state(path)
        except WeightsError:
            state = {"x": torch.ones(3)}  # refused
        assert list(state) == ["x"]
        assert torch.equal(state["x"], torch.ones(3))
        assert not marker.exists(), number
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {marker}")))
    assert marker.exists(), "obeyed, the first of them leaves a file"


def by_hand(command):
    """Pickles that no pickler writes; each begins with its kind of answer."""
    arguments = text(command) + b"\x85"
    system = name("os", "system")
    yield "reduce", system + arguments + b"R."
    yield "stack global", b"\x80\x04" + text("os") + text("system") + b"\x93" + arguments + b"R."
    yield "dotted", b"\x80\x04" + text("torch") + text("serialization.os.system") + b"\x93" + arguments + b"R."
    yield "instance", b"(" + text(command) + b"ios\nsystem\n."
    yield "object", b"(" + system + text(command) + b"o."
    yield "new object", b"\x80\x02" + system + arguments + b"\x81."
    yield "new object with keywords", b"\x80\x04" + system + arguments + b"}\x92."
    yield "no function", b"]" + arguments + b"R."
    yield "call of a text", text("os.system") + arguments + b"R."
    yield "arguments that are none", system + text(command) + b"R."
    yield "state of a maker", name("collections", "OrderedDict") + b"}" + text("make") + system + b"sb."
    yield "slots of a maker", name("torch._utils", "_rebuild_tensor") + b"N}" + text("make") + system + b"s\x86b."
    yield "state of a list", b"]}" + text("__class__") + system + b"sb."
    yield "set state", system + b"}" + text("__setstate__") + system + b"sb" + text(command) + b"b."
    yield "state of a dict", name("collections", "OrderedDict") + b")R}" + text("__reduce__") + system + b"sb."
    yield "extension", b"\x80\x02\x82\xf7" + arguments + b"R."
    yield "persistent name", b"Pos.system\n."
    yield "module of the oldest files", b"\x80\x02" + b"(" + text("module") + system + text("a") + text("b") + b"tQ."
    yield "storage of no kind", b"\x80\x02" + b"(" + text("storage") + system + text("0") + text("cpu") + b"K\x04tQ."
    yield (
        "huge storage",
        (
            b"\x80\x02("
            + text("storage")
            + name("torch", "FloatStorage")
            + text("0")
            + text("cpu")
            + b"\x8a\x07\xff\xff\xff\xff\xff\xff\x7fNtQ."
        ),
    )
    yield "huge bytes", b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x."
    yield "huge frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."
    yield "huge text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."
    yield "deep key", b"}" + b")" + b"\x85" * 100_000 + b"Ns."
    yield "import", name("antigravity", "geohash") + b")R."


def test_instructions_that_no_pickler_writes_do_nothing(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    copyreg.add_extension("os", "system", 0xF7)
    try:
        for kind, content in by_hand(f"touch {marker}"):
            for made in (legacy(content), in_zip(content)):
                path.write_bytes(made)
                try:
                    file = read_torch_file(path)
                except WeightsError:
                    continue
                assert not callable(file.content), kind
                assert "Tensor" not in repr(file.content)
        assert not marker.exists()
        assert "antigravity" not in sys.modules
    finally:
        copyreg.remove_extension("os", "system", 0xF7)


def test_instructions_are_a_list_and_the_registry_of_the_process_is_not_on_it():
    known = {getattr(pickle, attribute)[0] for attribute in _PLAIN}
    answered = set(Unpickler.dispatch) - known
    assert len(answered) == 14
    for attribute in ("EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"):
        assert getattr(pickle, attribute)[0] not in Unpickler.dispatch
    for attribute in ("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ"):
        assert Unpickler.dispatch[getattr(pickle, attribute)[0]].__module__ == "pipeline.encoders.unpickling"


def tensor_pickle(offset, size, stride, count=b"K\x04"):
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + count + b"tQ"
    shape = b"".join(b"(" + b"".join(pickle.dumps(n, 2)[2:-1] for n in values) + b"t" for values in (size, stride))
    call = name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + pickle.dumps(offset, 2)[2:-1] + shape
    return b"\x80\x02}" + text("x") + call + b"\x89" + name("collections", "OrderedDict") + b")RtRs."


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        *[(1, (4,), (1,)), (0, (2, 3), (2, 1)), (-1, (2,), (1,)), (0, (-2,), (1,)), (0, (2,), (-1,))],
        *[
            (2**62, (1,), (1,)),
            (0, (2**40, 2**40), (0, 0)),
            (0, (2,), (2**62,)),
            (0, (2, 2), (1,)),
            (0, (2.0,), (1,)),
            (0, (True,), (1,)),
        ],
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(tmp_path, offset, size, stride):
    path = tmp_path / "a.pt"
    values = struct.pack("<4f", 1, 2, 3, 4)
    path.write_bytes(in_zip(tensor_pickle(0, (4,), (1,)), {"a/data/0": values}))
    assert read_state(path)["x"].tolist() == [1, 2, 3, 4]
    path.write_bytes(in_zip(tensor_pickle(offset, size, stride), {"a/data/0": values}))
    with pytest.raises(WeightsError, match=r"a\.pt cannot be read"):
        read_state(path)
    path.write_bytes(in_zip(tensor_pickle(0, (4,), (1,), b"K\x05"), {"a/data/0": values}))
    with pytest.raises(WeightsError, match="shorter than its tensors"):
        read_state(path)


def test_archives_of_another_kind_are_refused_by_name(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(WeightsError, match="TorchScript archive, a program"):
        read_state(path)
    path.write_bytes(in_zip(b"}.", {"a/byteorder": b"big"}))
    with pytest.raises(WeightsError, match="another byte order"):
        read_state(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"}.")
    with pytest.raises(WeightsError, match="compressed"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("document.xml", b"<a/>")
    with pytest.raises(WeightsError, match="a zip archive of something else"):
        read_state(path)


_OPERATIONS = sorted(bytes([code]) for code in pickle._Unpickler.dispatch)
_PIECES = st.one_of(
    st.sampled_from(_OPERATIONS),
    st.sampled_from([name("os", "system"), name("torch", "FloatStorage"), name("torch._utils", "_rebuild_tensor_v2")]),
    st.sampled_from([text("a"), b"K\x01", b"q\x01", b"h\x01", b"(", b"t", b")R", b"}", b"]"]),
    st.binary(max_size=4),
)


@settings(max_examples=200)
@given(st.lists(_PIECES, max_size=30), st.booleans())
def test_any_sequence_of_instructions_ends_in_a_value_or_a_weights_error(tmp_path_factory, pieces, zipped):
    path = tmp_path_factory.getbasetemp() / "soup.pt"
    path.write_bytes((in_zip if zipped else legacy)(b"\x80\x02" + b"".join(pieces) + b"."))
    try:
        read_torch_file(path)
    except WeightsError:
        return
