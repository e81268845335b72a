"""Tensor methods made of the operations that they stand for.

QUESTION: may a tensor that claims a CUDA device be indexed with `x[...]`?
  torch built with CUDA, GPU or not: yes.   Built without: `x[...]` and the methods in `STAND_INS`
  ask in C++ for the guard of the device, and there is none ("PyTorch is not linked with support
  for cuda devices"), though each single operation works.
So in a fake run on such a build they are taken apart here. Goes when
`torch._C._ensureCUDADeviceGuardSet` sets a guard on CPU builds too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

_aten = torch.ops.aten


def _dims_taken(item: object) -> int:
    """Count the axes of the tensor that one item of a subscript consumes."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item.dtype in {torch.bool, torch.uint8}:
        return item.dim()
    return 1


def _plain_steps(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None] | None]:
    """Apply all of a subscript but its index tensors.

    Returns:
        The view, and the index tensors for each of its axes, or None if there are none.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    missing = tensor.dim() - sum(_dims_taken(item) for item in items)
    if missing < 0:
        message = f"too many indices for tensor of dimension {tensor.dim()}"
        raise IndexError(message)
    axis = 0
    tensors: dict[int, Tensor] = {}
    for item in items:
        if item is Ellipsis:
            axis += missing
        elif item is None:
            tensor = _aten.unsqueeze.default(tensor, axis)
            axis += 1
        elif isinstance(item, slice):
            start, stop, step = (
                None if bound is None else operator.index(bound)
                for bound in (item.start, item.stop, item.step)
            )
            if step is not None and step <= 0:
                message = "step must be greater than zero"
                raise ValueError(message)
            tensor = _aten.slice.Tensor(tensor, axis, start, stop, 1 if step is None else step)
            axis += 1
        elif isinstance(item, bool):
            tensor = _aten.unsqueeze.default(tensor, axis)
            tensors[axis] = torch.tensor([item], device=tensor.device)
            axis += 1
        elif isinstance(item, Tensor) and (item.dim() > 0 or item.dtype is torch.bool):
            if item.dim() == 0:
                tensor = _aten.unsqueeze.default(tensor, axis)
                item = item.unsqueeze(0)
            tensors[axis] = item
            axis += max(1, _dims_taken(item))
        elif hasattr(item, "__index__"):
            tensor = _aten.select.int(tensor, axis, operator.index(item))
        else:
            tensors[axis] = torch.as_tensor(item, device=tensor.device)
            axis += 1
    if not tensors:
        return tensor, None
    # A mask stands for several axes: `index` expects it once.
    indices: list[Tensor | None] = []
    axis = 0
    while axis <= max(tensors):
        found = tensors.get(axis)
        indices.append(found)
        axis += 1 if found is None else max(1, _dims_taken(found))
    return tensor, indices


def get(tensor: Tensor, index: Any) -> Tensor:
    """Equivalent to `tensor[index]`."""
    view, indices = _plain_steps(tensor, index)
    if indices is None:
        return _aten.alias.default(view) if view is tensor else view
    return _aten.index.Tensor(view, indices)  # type: ignore[no-any-return]


def put(tensor: Tensor, index: Any, value: Any) -> None:
    """Equivalent to `tensor[index] = value`."""
    view, indices = _plain_steps(tensor, index)
    if not isinstance(value, Tensor):
        if indices is None:
            _aten.fill_.Scalar(view, value)
            return
        value = torch.tensor(value, dtype=view.dtype, device=view.device)
    if indices is not None:
        if value.device != view.device and value.dim() == 0:
            value = value.to(view.device)
        _aten.index_put_.default(view, indices, value.to(view.dtype))
        return
    while value.dim() > view.dim() and value.size(0) == 1:
        value = value.squeeze(0)
    _aten.copy_.default(view, value)


def contiguous(
    tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Equivalent to `tensor.contiguous(memory_format=...)`."""
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return _aten.clone.default(tensor, memory_format=memory_format)  # type: ignore[no-any-return]


def copy(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Equivalent to `tensor.copy_(source)`."""
    return _aten.copy_.default(tensor, source, non_blocking)  # type: ignore[no-any-return]


def to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    """Equivalent to `tensor.to(...)`."""
    device: Any = options.pop("device", None)
    dtype: torch.dtype | None = options.pop("dtype", None)
    copies = options.pop("copy", False)
    other: Tensor | None = options.pop("other", None)
    for argument in args:
        if isinstance(argument, Tensor):
            other = argument
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, (str, int, torch.device)) and not isinstance(argument, bool):
            device = argument
    if other is not None:
        device, dtype = other.device, other.dtype
    target: torch.device = tensor.device if device is None else torch.device(device)
    if str(target) == "cuda":
        target = torch.device("cuda", 0)
    if target == tensor.device and dtype in {None, tensor.dtype} and not copies:
        return tensor
    memory_format = options.get("memory_format")
    made: Tensor = _aten._to_copy.default(
        tensor,
        dtype=dtype or tensor.dtype,
        device=target,
        **({} if memory_format is None else {"memory_format": memory_format}),
    )
    return made


def to_cpu(tensor: Tensor, **options: Any) -> Tensor:
    """Equivalent to `tensor.cpu()`."""
    return to(tensor, "cpu", **options)


def to_cuda(tensor: Tensor, device: Any = None, **options: Any) -> Tensor:
    """Equivalent to `tensor.cuda(device)`."""
    options.pop("non_blocking", None)
    index = device.index if isinstance(device, torch.device) else device
    return to(tensor, torch.device("cuda", index or 0), **options)


def _to_dtype(dtype: torch.dtype) -> Callable[..., Tensor]:
    def convert(tensor: Tensor, **options: Any) -> Tensor:
        return to(tensor, dtype, **options)

    return convert


def convolve_1d(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """Equivalent to `aten.convolution` in one dimension, by way of two.

    torch's fake kernel does the same, by way of `.contiguous()`.
    """
    made = _aten.convolution.default(
        _aten.unsqueeze.default(inputs, 2),
        _aten.unsqueeze.default(weight, 2),
        bias,
        [1, *stride],
        [0, *padding],
        [1, *dilation],
        transposed,
        [0, *output_padding],
        groups,
    )
    return _aten.squeeze.dim(made, 2)  # type: ignore[no-any-return]


STAND_INS: Final[dict[Any, Callable[..., Any]]] = {
    Tensor.__getitem__: get,
    Tensor.__setitem__: put,
    Tensor.contiguous: contiguous,
    Tensor.copy_: copy,
    Tensor.cpu: to_cpu,
    Tensor.cuda: to_cuda,
    Tensor.to: to,
    Tensor.__invert__: torch.bitwise_not,
    Tensor.bool: _to_dtype(torch.bool),
    Tensor.int: _to_dtype(torch.int32),
    Tensor.long: _to_dtype(torch.int64),
    Tensor.half: _to_dtype(torch.float16),
    Tensor.bfloat16: _to_dtype(torch.bfloat16),
    Tensor.float: _to_dtype(torch.float32),
    Tensor.double: _to_dtype(torch.float64),
}
"""Method -> what is called instead, on a build without CUDA, for tensors that claim it."""
