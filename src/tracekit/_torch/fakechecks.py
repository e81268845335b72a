"""What real kernels refuse and fake ones let pass.

A fake kernel computes shapes. It does not look at dtypes where the real one needs equal ones, nor
at the values of indices. Both are among the mistakes that a scan is asked to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

if TYPE_CHECKING:
    from .fakemode import FloatsFake

_aten = torch.ops.aten


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same_dtype(mode: FloatsFake, *args: Any, **kwargs: Any) -> None:
    """Refuse a product of tensors of different dtypes."""
    del mode, kwargs
    dtypes = [a.dtype for a in args[:3] if isinstance(a, Tensor)]
    if len(set(dtypes)) > 1:
        found = " and ".join(_name(dtype) for dtype in dict.fromkeys(dtypes))
        message = f"expected tensors of the same dtype, but got {found}"
        raise RuntimeError(message)


def _in_range(mode: FloatsFake, index: object, size: int, axis: int, *, wraps: bool) -> None:
    values = mode.values(index)
    if values is None or not values.numel():
        return
    with unset_fake_temporarily():
        low, high = (int(bound) for bound in torch.aminmax(values.reshape(-1)))
    worst = high if high >= size else low
    if high >= size or low < (-size if wraps else 0):
        message = f"index {worst} is out of bounds for dimension {axis} with size {size}"
        raise IndexError(message)


def _index(mode: FloatsFake, tensor: Tensor, indices: Any, *rest: Any, **kwargs: Any) -> None:
    for axis, index in enumerate(indices):
        if index is not None and index.device != tensor.device and index.device.type != "cpu":
            message = (
                "indices should be either on cpu or on the same device as the indexed tensor, "
                f"but got {index.device} for one on {tensor.device}"
            )
            raise RuntimeError(message)
        if index is not None and axis < tensor.dim():
            _in_range(mode, index, tensor.size(axis), axis, wraps=True)
    value = rest[0] if rest else kwargs.get("values")
    if isinstance(value, Tensor) and value.dtype != tensor.dtype:
        message = (
            "index put requires the source and destination dtypes to match, but got "
            f"{_name(tensor.dtype)} for the destination and {_name(value.dtype)} for the source"
        )
        raise RuntimeError(message)
    if isinstance(value, Tensor):
        found = mode.run_fake(_aten.index.Tensor, (tensor, indices), {}).shape
        try:
            fits = torch.broadcast_shapes(value.shape, found) == found  # type: ignore[no-untyped-call]
        except RuntimeError:
            fits = False
        if not fits:
            message = (
                f"shape mismatch: value tensor of shape {list(value.shape)} cannot be broadcast "
                f"to indexing result of shape {list(found)}"
            )
            raise RuntimeError(message)


def mask_fits(tensor: Tensor, mask: Tensor, axis: int) -> None:
    """Refuse a mask of other sizes than the axes that it selects from.

    Raises:
        IndexError: As the real kernel.
    """
    for offset, size in enumerate(mask.shape):
        if axis + offset >= tensor.dim():
            message = f"too many indices for tensor of dimension {tensor.dim()}"
            raise IndexError(message)
        if tensor.size(axis + offset) != size:
            message = (
                f"the shape of the mask {list(mask.shape)} at index {offset} does not match the "
                f"shape of the indexed tensor {list(tensor.shape)} at index {axis + offset}"
            )
            raise IndexError(message)


def _embedding(mode: FloatsFake, weight: Tensor, index: Tensor, *rest: Any, **kwargs: Any) -> None:
    del rest, kwargs
    _in_range(mode, index, weight.size(0), 0, wraps=False)


def _counted(mode: FloatsFake, tensor: Tensor, index: Tensor, *rest: Any, **kwargs: Any) -> None:
    """Check the indices of an operation that counts through all axes."""
    del rest, kwargs
    _in_range(mode, index, tensor.numel(), 0, wraps=True)


def _filled(
    mode: FloatsFake, tensor: Tensor, axis: int, index: Tensor, *rest: Any, **kwargs: Any
) -> None:
    del rest, kwargs
    if -tensor.dim() <= axis < tensor.dim():
        _in_range(mode, index, tensor.size(axis), axis, wraps=True)


def _classes(
    mode: FloatsFake,
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    **kwargs: Any,
) -> None:
    """Check the targets of a negative log likelihood; classes are on axis 1, or the only one."""
    del weight, reduction, kwargs
    if target.dtype not in {torch.int64, torch.uint8}:
        message = f"expected target dtype to be Long or Byte, but got {_name(target.dtype)}"
        raise RuntimeError(message)
    values = mode.values(target)
    if values is None or not scores.dim():
        return
    with unset_fake_temporarily():
        values = values[values != ignore_index]
    _in_range(mode, values, scores.size(min(1, scores.dim() - 1)), 1, wraps=False)


def _norm(mode: FloatsFake, tensor: Tensor, *rest: Any, **kwargs: Any) -> None:
    """Refuse weights of another dtype, but for float32 ones of an input of lower precision."""
    del mode
    for other in (*rest, *kwargs.values()):
        if not isinstance(other, Tensor) or other.dtype == tensor.dtype:
            continue
        if other.dtype is torch.float32 and tensor.dtype.itemsize < torch.float32.itemsize:
            continue
        message = (
            f"expected weights of {_name(tensor.dtype)}, as the input, or of float32 for an input "
            f"of lower precision, but got {_name(other.dtype)}"
        )
        raise RuntimeError(message)


def _bits(mode: FloatsFake, *args: Any, **kwargs: Any) -> None:
    """Refuse floats where bits are combined."""
    del mode, kwargs
    for value in args[:2]:
        if isinstance(value, float) or (
            isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        ):
            shown = _name(value.dtype) if isinstance(value, Tensor) else "float"
            message = f"bits are combined of integers and booleans only, but got {shown}"
            raise RuntimeError(message)


def in_place(args: tuple[Any, ...]) -> None:
    """Refuse a complex result of an operation in place on what is not complex.

    Other casts that are refused are refused by the fake kernels.

    Raises:
        RuntimeError: As the real kernel.
    """
    written = args[0]
    if not isinstance(written, Tensor) or written.dtype.is_complex:
        return
    for value in args[1:]:
        if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
            message = f"a complex result can't be cast to the output type {_name(written.dtype)}"
            raise RuntimeError(message)


def _along(
    mode: FloatsFake, tensor: Tensor, axis: int, index: Tensor, *rest: Any, **kwargs: Any
) -> None:
    del rest, kwargs
    if -tensor.dim() <= axis < tensor.dim():
        _in_range(mode, index, tensor.size(axis), axis, wraps=False)


def _of(packets: list[Any]) -> list[Any]:
    return [getattr(packet, name) for packet in packets for name in packet.overloads()]


CHECKS: Final[dict[Any, Callable[..., None]]] = {
    _aten.index.Tensor: _index,
    _aten.index_put_.default: _index,
    _aten.index_put.default: _index,
    _aten.embedding.default: _embedding,
    _aten.gather.default: _along,
    _aten.index_select.default: _along,
    _aten.scatter_add_.default: _along,
    _aten.scatter_add.default: _along,
    _aten.take.default: _counted,
    _aten.put.default: _counted,
    _aten.put_.default: _counted,
}
"""Operation -> what is checked before its fake kernel runs."""

_PRODUCTS = [_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.addbmm, _aten.mv]
_PRODUCTS += [_aten.addmv, _aten.dot, _aten.vdot, _aten.convolution]
_PRODUCTS += [
    getattr(_aten, name)
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(_aten, name)
]
CHECKS.update(dict.fromkeys(_of(_PRODUCTS), _same_dtype))
CHECKS.update(
    dict.fromkeys(
        _of(
            [
                *(_aten.index_add, _aten.index_add_, _aten.index_copy, _aten.index_copy_),
                *(_aten.index_reduce, _aten.index_reduce_),
                *(_aten.scatter_reduce, _aten.scatter_reduce_, _aten.scatter, _aten.scatter_),
            ]
        ),
        _along,
    )
)
CHECKS.update(dict.fromkeys(_of([_aten.index_fill, _aten.index_fill_]), _filled))
CHECKS.update(dict.fromkeys(_of([_aten.nll_loss_forward, _aten.nll_loss2d_forward]), _classes))
CHECKS.update(
    dict.fromkeys(
        _of(
            [
                *(_aten.native_layer_norm, _aten.native_group_norm, _aten.native_batch_norm),
                _aten._native_batch_norm_legit,
                _aten._native_batch_norm_legit_no_training,
            ]
        ),
        _norm,
    )
)
_BITS = [_aten.bitwise_and, _aten.bitwise_or, _aten.bitwise_xor, _aten.__and__, _aten.__or__]
_BITS += [_aten.bitwise_and_, _aten.bitwise_or_, _aten.bitwise_xor_, _aten.__xor__]
CHECKS.update(dict.fromkeys(_of(_BITS), _bits))
