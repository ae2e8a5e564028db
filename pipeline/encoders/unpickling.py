"""A pickle reader that runs no code of the file: numbers, text, containers, arrays and tensors come out.

A pickle is a program. Of its instructions only those that make plain values are taken from Python's own reader;
each one that looks up, calls or changes an object is answered here. A name in the file never leads to the object
of that name: it leads to a maker of :mod:`pipeline.encoders.pickled_values`, or to a :class:`StandIn`, which takes
what is done to it and does nothing.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from struct import unpack
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from pipeline.encoders.pickled_values import (
    MAKERS,
    STORAGES,
    ArrayType,
    Maker,
    RefusedError,
    StandIn,
    Storage,
    StorageType,
    as_key,
    as_set,
    set_array,
)

_RENAMED = {"__builtin__": "builtins", "numpy.core.multiarray": "numpy._core.multiarray"}
_RENAMED |= {"numpy.core.numeric": "numpy._core.numeric"}
_PythonUnpickler: Any = pickle._Unpickler  # the one in Python: there every instruction can be answered

# Instructions that only put a plain value on the stack, or move what is there.
_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
    SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET
    PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE GLOBAL STACK_GLOBAL BINPERSID
""".split()  # noqa: SIM905


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...

    def readline(self) -> bytes: ...


class Unpickler(_PythonUnpickler):
    """Reads one pickle of ``file``. ``storage`` answers torch's references to bytes outside the pickle.

    ``not_read`` collects the names that became stand-ins. Raises :class:`RefusedError`, and whatever else a damaged
    pickle leads to.
    """

    def __init__(self, file: Readable, storage: Callable[[tuple[Any, ...]], Storage] | None = None):
        super().__init__(file, encoding="latin1")
        self.storage = storage
        self.not_read: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        module = _RENAMED.get(module, module)
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return StorageType(STORAGES[name])
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        full = f"{module}.{name}"
        if full in MAKERS:
            return MAKERS[full]
        self.not_read.add(full)
        return StandIn(full)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid or self.storage is None:
            raise RefusedError("a reference to something outside the file")
        kind = pid[0].decode("latin1") if isinstance(pid[0], bytes) else pid[0]
        if kind == "module":  # a class whose source code the oldest files carry along
            return StandIn("a module")
        if kind != "storage":
            raise RefusedError("a reference to something outside the file")
        return self.storage(pid[1:])

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, StandIn):
            return StandIn(function.name)
        if not isinstance(function, Maker) or not isinstance(arguments, tuple):
            raise RefusedError(f"a call of a {type(function).__name__}")
        return function.make(*arguments)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._reduce()

    def _object(self) -> None:
        function, *arguments = self.pop_mark()
        self.stack.append(self._call(function, tuple(arguments)))

    def _instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        arguments = tuple(self.pop_mark())
        self.stack.append(self._call(self.find_class(module, name), arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ArrayType):
            target.set_state(state)
        elif type(target) is np.ndarray:
            set_array(target, state)
        elif isinstance(target, torch.Tensor) and isinstance(state, tuple):
            raise RefusedError("a tensor of a torch older than 0.4")
        elif not isinstance(target, (StandIn, dict, torch.Tensor)):
            raise RefusedError(f"a state for a {type(target).__name__}")
        # Attributes of a dict (its _metadata), of a tensor or of a stand-in are not read.

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, StandIn):
            raise RefusedError(f"an item for a {type(target).__name__}")

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) in (dict, OrderedDict):
            target.update((as_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, StandIn):
            raise RefusedError(f"an entry for a {type(target).__name__}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._update(items)

    def _add_items(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is set:
            target.update(as_set(items))
        elif not isinstance(target, StandIn):
            raise RefusedError(f"an item for a {type(target).__name__}")

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(as_set(items)))

    def _bytearray(self) -> None:
        (count,) = unpack("<Q", self.read(8))
        self.stack.append(bytearray(self.read(count)))  # Python's own makes room for all that the file claims

    # Missing on purpose: EXT1, EXT2, EXT4 (a registry of the process), PERSID and the buffers outside the file.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{getattr(pickle, name)[0]: _PythonUnpickler.dispatch[getattr(pickle, name)[0]] for name in _PLAIN},
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.DICT[0]: _dict,
        pickle.FROZENSET[0]: _frozenset,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.OBJ[0]: _object,
        pickle.INST[0]: _instance,
        pickle.BUILD[0]: _build,
    }
