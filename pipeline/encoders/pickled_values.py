"""What may come out of a pickle: the functions of ours that answer to the names in a file.

Each checks what it is given, since the file chooses that too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_KEYS = (str, bytes, int, float, complex, type(None), torch.dtype, np.generic)
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_MOST = 1 << 58
_ARRAY_KINDS = "?biufcSU"  # what is bytes and nothing but bytes


class RefusedError(Exception):
    """The file asks for something that is not done; the message says what."""


class StandIn:
    """In place of an object of a class that is not read; ``name`` is that class or function."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}, not read>"


@dataclass(frozen=True)
class Maker:
    """A function of ours that answers to a name in the file."""

    make: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """A torch storage class: the numbers that its bytes are."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """Bytes, and the numbers that they are."""

    untyped: torch.UntypedStorage
    dtype: torch.dtype


class ArrayType:
    """A numpy dtype while it is read; ``dtype`` is None for one that can hold objects."""

    def __init__(self, text: Any, *_: Any):
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(text, str):
            raise RefusedError("a numpy type that is not named by text")
        dtype = np.dtype(text) if text[:1].isalpha() and text.isalnum() else None
        self.dtype = dtype if dtype is not None and dtype.kind in _ARRAY_KINDS else None

    def set_state(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if self.dtype is None or order not in ("<", ">", "|", "="):
            return
        self.dtype = self.dtype.newbyteorder(order)


def _raw(value: Any = b"", *_: Any) -> bytes:
    if not isinstance(value, (str, bytes, bytearray)):
        raise RefusedError("bytes made from something that is no text")
    return value.encode("latin1") if isinstance(value, str) else bytes(value)


def _values(dtype: Any, value: Any, count: int) -> np.ndarray | None:
    """``count`` numbers out of bytes; None where the type is not plain, ValueError for a wrong length."""
    if not isinstance(dtype, ArrayType) or dtype.dtype is None or not isinstance(value, (bytes, bytearray, str)):
        return None
    raw = _raw(value)
    if len(raw) != count * dtype.dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes for {count} values of {dtype.dtype}")
    return np.frombuffer(raw, dtype.dtype, count) if count else np.empty(0, dtype.dtype)


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and value >= 0 for value in values):
        raise RefusedError(f"a {what} that is not a tuple of whole numbers")
    return values


def _array_scalar(dtype: Any, raw: Any = b"") -> Any:
    values = _values(dtype, raw, 1)
    return StandIn("numpy scalar of objects") if values is None else values[0]


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Any:
    shape = _sizes(shape, "shape")
    values = _values(dtype, raw, math.prod(shape))
    if values is None:
        return StandIn("numpy array of objects")
    return values.reshape(shape, order="F" if order == "F" else "C").copy()


def set_array(array: Any, state: Any) -> None:
    """numpy's own way to fill an array, once its type is known to be plain; others become empty arrays."""
    _, shape, dtype, fortran, raw = state if len(state) == 5 else (0, *state)
    shape = _sizes(shape, "shape")
    values = _values(dtype, raw, math.prod(shape))
    if values is None:
        values, shape = np.empty(0, object), (0,)
        array.__setstate__((1, shape, values.dtype, False, []))
        return
    array.__setstate__((1, shape, values.dtype, bool(fortran), values.tobytes()))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """A view of a storage, after it is known to lie inside it."""
    if not isinstance(storage, Storage):
        raise RefusedError("a tensor without a storage")
    size, stride, (offset,) = _sizes(size, "size"), _sizes(stride, "stride"), _sizes((offset,), "storage offset")
    if len(size) != len(stride):
        raise RefusedError(f"a tensor of {len(size)} sizes and {len(stride)} strides")
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if math.prod(size) > _MOST:  # an expanded one is small on the disk
        raise RefusedError("a tensor of more values than there are addresses")
    if (last + 1) * dtype.itemsize > storage.untyped.nbytes():
        raise ValueError("a tensor that reaches beyond its storage")
    if rest and isinstance(rest[-1], dict) and any(rest[-1].get(flag) for flag in ("conj", "neg")):
        raise RefusedError("a tensor that is conjugated or negated lazily")
    return torch.empty(0, dtype=dtype).set_(storage.untyped, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data if isinstance(data, torch.Tensor) else StandIn("torch.nn.Parameter")


def _from_type(make: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if isinstance(make, Maker) and make.make in (_tensor, _parameter) and isinstance(arguments, tuple):
        return make.make(*arguments)
    return StandIn("a tensor of a class of its own")


def as_key(value: Any) -> Any:
    """What may be a key: Python computes the hash of no other object, and of no deep one."""
    plain = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, (*_KEYS, StandIn, Maker)) for part in plain):
        raise RefusedError(f"a key of type {type(value).__name__}")
    return value


def _pairs(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, (list, tuple, dict)):
        raise RefusedError("a dict made from something that is no list")
    listed = items.items() if isinstance(items, dict) else items
    return OrderedDict((as_key(key), value) for key, value in listed)


def as_set(items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise RefusedError("a set made from something that is no list")
    return {as_key(item) for item in items}


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("bytes written in an unknown way")
    return text.encode("latin1")


def _list(items: Any = (), *_: Any) -> list[Any]:
    if not isinstance(items, (list, tuple)):
        raise RefusedError("a list made from something that is no list")
    return list(items)


MAKERS: dict[str, Maker] = {
    "collections.OrderedDict": Maker(_pairs),
    "collections.Counter": Maker(_pairs),
    "collections.defaultdict": Maker(lambda *_: {}),
    "collections.deque": Maker(_list),
    "builtins.dict": Maker(_pairs),
    "builtins.list": Maker(_list),
    "builtins.set": Maker(as_set),
    "builtins.frozenset": Maker(lambda items=(): frozenset(as_set(items))),
    "builtins.bytearray": Maker(lambda *text: bytearray(_raw(*text))),
    "builtins.bytes": Maker(_raw),
    "builtins.complex": Maker(lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary))),
    "_codecs.encode": Maker(_encode),
    "numpy.dtype": Maker(ArrayType),
    "numpy.ndarray": Maker(lambda *_: StandIn("numpy.ndarray")),
    "numpy._core.multiarray._reconstruct": Maker(lambda *_: np.empty(0, np.uint8)),
    "numpy._core.multiarray.scalar": Maker(_array_scalar),
    "numpy._core.numeric._frombuffer": Maker(_array_from_buffer),
    "torch.Size": Maker(lambda sizes=(): _sizes(tuple(_list(sizes)), "size")),
    "torch._utils._rebuild_tensor": Maker(_tensor),
    "torch._utils._rebuild_tensor_v2": Maker(_tensor),
    "torch._utils._rebuild_tensor_v3": Maker(_tensor),
    "torch._utils._rebuild_parameter": Maker(_parameter),
    "torch._utils._rebuild_parameter_with_state": Maker(_parameter),
    "torch._tensor._rebuild_from_type_v2": Maker(_from_type),
}
