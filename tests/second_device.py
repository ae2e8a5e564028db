"""A second device on a machine that has only a CPU: it finds what would break, or wait, on a GPU.

torch lets Python define one more kind of device (PrivateUse1; the functions are private to torch and may move). Here
it is called ``gpu``: a tensor on it wraps a CPU tensor and computes with that, so results are real numbers, but it
refuses what CUDA refuses (:class:`DeviceMismatch`: operands on two devices, a generator of the other one; TypeError:
``.numpy()``) and counts what makes the host wait. ``Module.to``, optimizers, autograd, ``torch.inference_mode``,
Accelerate and pickling work as on any device, so the code under test needs no word of it: it is given
``device="gpu"``.

Import this module at the top of a test file: autograd counts the devices once, at the first backward pass of a
process, and pytest imports every file before it runs any test. Not there: ``torch.compile`` and a random generator of
its own (numbers come from the CPU's, which is what makes results comparable).
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"


class DeviceMismatch(RuntimeError):
    """CUDA would refuse these operands."""


@dataclass
class Count:
    """What happened on the device: times the host had to wait for a value or a shape, and copies each way.

    A copy to the host (``downloads``) waits as well; one to the device (``uploads``) does not have to. ``where`` says
    which lines of ours asked for it.
    """

    synchronisations: int = 0
    downloads: int = 0
    uploads: int = 0
    operators: int = 0
    where: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, operator: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        frames = [f for f in traceback.extract_stack() if "site-packages" not in f.filename and f.filename != __file__]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        self.where[f"{kind}: {operator} at {place}"] += 1


_counts: list[Count] = []
_without_float64: list[bool] = []


@contextmanager
def counting() -> Iterator[Count]:
    """Count what happens on the device inside."""
    count = Count()
    _counts.append(count)
    try:
        yield count
    finally:
        _counts.remove(count)


@contextmanager
def no_float64() -> Iterator[None]:
    """Inside, the device refuses float64, as Apple's MPS does."""
    _without_float64.append(True)
    try:
        yield
    finally:
        _without_float64.pop()


def _note(kind: str, operator: str) -> None:
    for count in _counts:
        count.add(kind, operator)


class _Backend:
    """The module ``torch.gpu``."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None: ...

    def manual_seed_all(self, seed: int) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    def empty_cache(self) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, _Backend())
DEVICE = torch.device(NAME, 0)
_CPU = torch.device("cpu")


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on the second device; ``inner`` holds its values."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        if _without_float64 and inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"this device has no {inner.dtype}")
        with torch.inference_mode(False):  # a view of a parameter is no inference tensor, whatever the mode
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=DEVICE,
            )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    # With these two, ``Module.to`` swaps a parameter in place: an optimizer made before it still holds it, as on CUDA.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: Any) -> DeviceTensor:
        return DeviceTensor(parts["inner"])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what it holds, so it loads on the CPU."""
        _note("downloads", "pickle")
        return self.inner.__reduce_ex__(protocol)

    # For their addresses, which tell what shares memory.
    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        _note("synchronisations", "tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


# Operators that CUDA gives operands of both devices, and those whose result or its shape the host waits for.
_BOTH = {"aten::_to_copy", "aten::copy_", "aten::to", "aten::_has_compatible_shallow_copy_type"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_JOINING = {"aten::cat", "aten::stack"}
_WAITING = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
        "repeat_interleave", "bincount",
    )
}  # fmt: skip


def _refuse(name: str, args: Any, kwargs: Any, on: list[Any], off: list[Any], out_on: bool) -> None:
    """Raise where CUDA would."""
    if name not in _JOINING:
        off = [tensor for tensor in off if tensor.dim() > 0]  # CUDA takes single numbers from the CPU
    indices_of_the_host = name in _INDEXING and isinstance(args[0], DeviceTensor)
    if on and off and name not in _BOTH and not indices_of_the_host:
        shapes = [[tuple(tensor.shape) for tensor in some] for some in (on, off)]
        raise DeviceMismatch(f"{name}: {shapes[0]} on {NAME}, {shapes[1]} on cpu")
    generator = kwargs.get("generator")
    if generator is not None and out_on:
        raise DeviceMismatch(f"{name}: a generator on {generator.device} for a tensor on {NAME}")


def _written(func: Any, args: Any, kwargs: Any) -> Any:
    """The arguments that an operator wrote to, which are what it returns; None if it makes new ones."""
    aliases = [r.alias_info.before_set for r in func._schema.returns if r.alias_info and r.alias_info.is_write]
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    written = [
        given[argument.name]
        for alias in aliases
        for argument in func._schema.arguments
        if argument.alias_info and argument.alias_info.before_set == alias
    ]
    return (written[0] if len(written) == 1 else tuple(written)) if written else None


# Made of operators that turn a tensor round in place, which a wrapper cannot follow.
_WHOLE = {"aten::stft", "aten::istft"}


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name
    if name not in _WHOLE:  # under inference mode, what is made of other operators comes whole
        decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    on = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    off = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    out_on = devices[0].type == NAME if devices else bool(on)
    _refuse(name, args, kwargs, on, off, out_on)
    for count in _counts:
        count.operators += 1
    if name in _WAITING or (name in _INDEXING and any(t.dtype == torch.bool for t in tensors[1:])):
        _note("synchronisations", name)
    if name == "aten::copy_" and on and off:
        _note("uploads" if isinstance(args[0], DeviceTensor) else "downloads", name)
    elif on and devices and not out_on:
        _note("downloads", name)
    elif name in _INDEXING and on and off:
        _note("uploads", name)

    def plain(leaf: Any) -> Any:
        return leaf.inner if isinstance(leaf, DeviceTensor) else _CPU if isinstance(leaf, torch.device) else leaf

    inner_args, inner_kwargs = tree_map(plain, (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    written = _written(func, args, kwargs)
    if written is not None:
        if any(isinstance(tensor, DeviceTensor) and tensor.shape != tensor.inner.shape for tensor in tensors):
            raise NotImplementedError(f"{name} changes a tensor's shape in place: this device does not follow")
        return written
    if not out_on:
        return result
    return tree_map(lambda leaf: DeviceTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Where torch copies below Python: ``torch.tensor(..., device=)`` and lists as indices."""
    for tensor, kind in ((source, "downloads"), (target, "uploads")):
        if isinstance(tensor, DeviceTensor) and not (isinstance(source, DeviceTensor) and kind == "uploads"):
            _note(kind, "aten::_copy_from")
    inner = [tensor.inner if isinstance(tensor, DeviceTensor) else tensor for tensor in (source, target)]
    inner[1].copy_(inner[0])
    return target


# What has no tensor to tell the device from (``torch.empty(..., device="gpu")``) comes this way. Kept, for they
# unregister when they are collected.
_LIBRARIES = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_LIBRARIES[0].fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
_LIBRARIES[1].impl("_copy_from", _copy_from, "PrivateUse1")


def _factory(func: Any) -> Any:
    return lambda *args, **kwargs: _run(func, args, kwargs)


# torch makes these by resizing an empty tensor in place; here they are made at once.
for _name, _overload in (
    ("arange", "default"), ("arange", "start"), ("arange", "start_step"), ("linspace", "default"),
    ("randperm", "default"), ("randperm", "generator"), ("eye", "default"), ("eye", "m"),
):  # fmt: skip
    _suffix = "" if _overload == "default" else f".{_overload}"
    _func = getattr(getattr(torch.ops.aten, _name), _overload)
    _LIBRARIES[1].impl(_name + _suffix, _factory(_func), "PrivateUse1")


def _casting(func: Any, dtype_of: Any) -> Any:
    """Under autocast, an operator on operands of one dtype."""

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = dtype_of()

        def cast(leaf: Any) -> Any:
            eligible = isinstance(leaf, DeviceTensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
            return leaf.to(dtype) if eligible else leaf

        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            args, kwargs = tree_map(cast, (args, kwargs))
            return func(*args, **kwargs)

    return run


# As CUDA's: products in half precision, normalisations in float32, everything else in what it is given.
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
_LIBRARIES[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _names, _dtype_of in (
    (
        ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d.default",
         "conv_transpose2d.input", "scaled_dot_product_attention"),
        lambda: torch.get_autocast_dtype(NAME),
    ),
    (("layer_norm", "group_norm"), lambda: torch.float32),
):  # fmt: skip
    for _full_name in _names:
        _name, _, _overload = _full_name.partition(".")
        _func = getattr(getattr(torch.ops.aten, _name), _overload or "default")
        _suffix = "" if _overload in ("", "default") else f".{_overload}"
        _LIBRARIES[1].impl(_name + _suffix, _casting(_func, _dtype_of), "AutocastPrivateUse1")
