"""Rows of a KV cache: what one invoke sees of an object that belongs to all.

A cache is an object that the model itself changes, so a part of it cannot be a copy. It is a cache
of the same class, whose tensors are views of the invoke's rows: what is edited in them in place is
edited in the model's cache. What would only change the part, assigning a tensor or calling
`update`, is refused.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from tracekit._torch.batch import divide_with
from tracekit.errors import BatchAxisError


def rows_of_cache(cache: Any, rows: slice, total: int) -> Any:
    """Give one invoke's rows of a cache.

    Args:
        cache: The model's own.
        rows: Half-open, counted in prompts.
        total: Prompts in the batch; with beams a prompt has several rows of the cache.

    Returns:
        A cache whose tensors, of shape (batch, ...), are views of those rows.
    """
    part = copy.copy(cache)
    attributes = part.__dict__
    for name, value in list(attributes.items()):
        attributes[name] = _rows(value, rows, total)
    return part


def _rows(value: Any, rows: slice, total: int) -> Any:
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] % total:
            return value
        each = value.shape[0] // total
        return value.narrow(0, rows.start * each, (rows.stop - rows.start) * each)
    if isinstance(value, Cache):
        return rows_of_cache(value, rows, total)
    if isinstance(value, list):
        return [_rows(one, rows, total) for one in value]
    if isinstance(value, dict):
        return {key: _rows(one, rows, total) for key, one in value.items()}
    if type(value).__module__ == Cache.__module__ and hasattr(value, "__dict__"):
        layer = copy.copy(value)
        for name, one in list(layer.__dict__.items()):
            layer.__dict__[name] = _rows(one, rows, total)
        layer.__class__ = _fixed(type(layer))  # type: ignore[arg-type]
        return layer
    return value


@functools.cache
def _fixed(kind: type) -> type:
    """Make a class of *kind* whose tensors can be edited and not replaced."""

    def refuse(self: Any, name: str, value: object) -> None:
        raise BatchAxisError(
            f"`{name}` of one invoke's rows of a cache cannot be replaced",
            why="the cache belongs to all invokes; each sees a view of its own rows",
            fix=f"edit it in place: layer.{name}[:] = ...",
        )

    return type(kind.__name__, (kind,), {"__setattr__": refuse, "__doc__": kind.__doc__})


divide_with(Cache, rows_of_cache)
