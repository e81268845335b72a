"""A device guard for CUDA where torch was built without CUDA, or is too old to do without a GPU.

QUESTION: may a tensor that only claims a CUDA device be used?
  torch built with CUDA, GPU or not: yes; `FakeTensorMode` sets a guard that does nothing.
  The same in torch 2.6, which has no such guard: with a GPU only. Without one, CUDA's own guard
  asks the driver, and the process ends as below.
  Built without: no guard is there. Subscripts and a dozen methods raise ("PyTorch is not linked
  with support for cuda devices"), and a graph of gradients ends the process, since the error
  leaves a C++ function that may not throw.
  Goes when `torch._C._ensureCUDADeviceGuardSet` sets a guard on such builds too.
So on such builds the guard of the CPU, which does nothing either, is registered for CUDA for as
long as a fake run lasts, and what was registered before after it. It is done by the registrar that
torch's own backends use; the C++ names are looked up, and where they are not found (Windows), such
tensors are refused. A guard is also asked which device is the current one, and this one says the
CPU, so `cuda` without an index is spelt out. Fused attention asks the driver which kernel to take,
so the one without kernels is called.

Things that don't work: taking the methods apart in Python into operations that need no guard (one
more is found with each model, and none of them helps gradients); the guard of the meta device (the
engine of gradients counts it as one with threads of its own, and starts one).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

_CPU: Final = 0
_CUDA: Final = 1  # c10::DeviceType, in which numbers never change
_REGISTRY: Final = "_ZN3c104impl26device_guard_impl_registryE"
_REGISTRAR: Final = (
    "_ZN3c104impl24DeviceGuardImplRegistrarC1ENS_10DeviceTypeEPKNS0_24DeviceGuardImplInterfaceE"
)
_LIBRARIES: Final = {"darwin": "libc10.dylib", "linux": "libc10.so"}


class _Names:
    """What is needed of torch's C++ library."""

    def __init__(self, library: Any) -> None:
        self.registry = (ctypes.c_void_p * (_CUDA + 1)).in_dll(library, _REGISTRY)
        self.register = library[_REGISTRAR]
        self.register.argtypes = [ctypes.c_void_p, ctypes.c_int8, ctypes.c_void_p]
        self.register.restype = None


@lru_cache(maxsize=1)
def _names() -> _Names | None:
    name = _LIBRARIES.get(sys.platform)
    if name is None:
        return None
    try:
        names = _Names(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name)))
    except (OSError, ValueError, AttributeError):
        return None
    return names if names.registry[_CPU] else None


def is_needed() -> bool:
    """Tell whether torch has no guard for CUDA that needs no GPU."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return True
    return not hasattr(torch._C, "_ensureCUDADeviceGuardSet") and not torch.cuda.is_available()


def is_usable() -> bool:
    """Tell whether tensors in a fake run may claim a CUDA device."""
    return not is_needed() or _names() is not None


@contextmanager
def guard() -> Iterator[None]:
    """Have a guard for CUDA, if torch brings none; nested ones leave the outermost's alone."""
    names = _names() if is_needed() else None
    if names is None or names.registry[_CUDA] == names.registry[_CPU]:
        yield
        return
    before = names.registry[_CUDA]
    # The registrar is a C++ object without members; it wants a place to be.
    place = ctypes.create_string_buffer(8)
    names.register(place, _CUDA, names.registry[_CPU])
    try:
        yield
    finally:
        names.register(place, _CUDA, before)


def _spelt_out(value: Any) -> Any:
    if isinstance(value, (str, torch.device)) and str(value) == "cuda":
        return torch.device("cuda", 0)
    return value


def _to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """Equivalent to `tensor.to(...)`."""
    named = {name: _spelt_out(value) for name, value in options.items()}
    return tensor.to(*map(_spelt_out, args), **named)


def _to_cuda(tensor: Tensor, device: Any = None, *args: Any, **options: Any) -> Tensor:
    """Equivalent to `tensor.cuda(...)`."""
    if device is None or isinstance(device, int):
        device = torch.device("cuda", device or 0)
    return tensor.to(_spelt_out(device), None, *args, **options)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Equivalent to `torch.nn.functional.scaled_dot_product_attention(...)`."""
    result: Tensor = torch._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, **options
    )[0]
    return result


STAND_INS: Final[dict[Any, Callable[..., Any]]] = (
    {
        Tensor.to: _to,
        Tensor.cuda: _to_cuda,
        torch.nn.functional.scaled_dot_product_attention: _attend,
    }
    if is_needed()
    else {}
)
"""Method -> what is called instead, where the guard is needed."""
