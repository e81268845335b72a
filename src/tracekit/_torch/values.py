"""Find and replace tensors in nested values; say what a value is in a few words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch

LEAVES: Final = frozenset(
    {int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size}
)
_MAX_SHOWN = 4


def tensors(value: object) -> Iterator[torch.Tensor]:
    """Find the tensors in a nested value.

    Looked into are tuples, lists, mappings and dataclasses (`ModelOutput` among them), to any
    depth. A tensor that stands in two places is given twice.

    Args:
        value: Anything.

    Yields:
        The tensors, first to last.
    """
    if isinstance(value, torch.Tensor):
        yield value
        return
    kind = type(value)
    if kind in LEAVES:
        return
    if isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name in _fields(value):
            yield from tensors(getattr(value, name, None))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Rebuild a nested value with each tensor changed.

    Equivalent to `tree_map(change, value)`, except that dataclasses and all mappings are looked
    into, that what holds no changed tensor is given back as it is, and that the kind of each
    container is kept: named tuples, ordered and default dicts, `ModelOutput`.

    Args:
        value: Anything.
        change: Called with each tensor, first to last.

    Returns:
        *value* itself if *change* gave back each tensor it was given; else a new value that
        shares what did not change.
    """
    return map_leaves(value, lambda leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf)


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild a nested value with each leaf changed; a leaf is what is not looked into.

    Args:
        value: Anything.
        change: Called with each leaf.

    Returns:
        As `map_tensors`.
    """
    if isinstance(value, torch.Tensor) or type(value) in LEAVES:
        return change(value)
    if isinstance(value, tuple):
        items = [map_leaves(item, change) for item in value]
        return value if _same(items, value) else _tuple_like(value, items)
    if isinstance(value, list):
        items = [map_leaves(item, change) for item in value]
        return value if _same(items, value) else _refill(value, items)
    if isinstance(value, Mapping):
        pairs = {key: map_leaves(item, change) for key, item in value.items()}
        if all(pairs[key] is item for key, item in value.items()):
            return value
        return mapping_like(value, pairs)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for name in _fields(value):
            before = getattr(value, name, None)
            after = map_leaves(before, change)
            if after is not before:
                changed[name] = after
        return dataclass_like(value, changed) if changed else value
    return change(value)


def _fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]


def _same(items: list[Any], value: Any) -> bool:
    return all(new is old for new, old in zip(items, value, strict=True))


def _tuple_like(value: tuple[Any, ...], items: list[Any]) -> Any:
    kind = type(value)
    if kind is tuple:
        return tuple(items)
    if hasattr(kind, "_make"):
        return kind._make(items)  # a named tuple
    return kind(items)


def _refill(value: list[Any], items: list[Any]) -> Any:
    if type(value) is list:
        return items
    from copy import copy

    new = copy(value)
    new[:] = items
    return new


def mapping_like(value: Mapping[Any, Any], pairs: dict[Any, Any]) -> Any:
    """Give a mapping of the kind of *value* with other values.

    Args:
        value: Any mapping; it is not changed.
        pairs: The new values, by the same keys.

    Returns:
        A new mapping; for a `ModelOutput`, its attributes follow the keys.
    """
    if type(value) is dict:
        return pairs
    from copy import copy

    new: Any = copy(value)
    for key, item in pairs.items():
        new[key] = item
    return new


def dataclass_like(value: Any, changed: dict[str, Any]) -> Any:
    """Give a copy of a dataclass instance with some fields changed; frozen ones as well.

    `__init__` and `__post_init__` do not run again: the copy is what the model made.
    """
    from copy import copy

    new = copy(value)
    for name, item in changed.items():
        object.__setattr__(new, name, item)
    return new


def describe(value: object) -> str:
    """Say what a value is: kinds, dtypes and shapes, never the numbers in a tensor.

    Args:
        value: Anything.

    Returns:
        For example `float32[2, 16, 128]`, `(float32[2, 4], None)`, `{logits: float32[1, 5]}`.
    """
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{dtype}[{', '.join(map(str, value.shape))}]{place}"
    if isinstance(value, Mapping):
        name = "" if type(value) is dict else type(value).__name__
        return f"{name}{{{_shown([f'{k}: {describe(v)}' for k, v in value.items()])}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [f"{n}={describe(v)}" for n, v in zip(value._fields, value, strict=True)]
        return f"{type(value).__name__}({_shown(parts)})"
    if isinstance(value, tuple):
        return f"({_shown([describe(item) for item in value])}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{_shown([describe(item) for item in value])}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [f"{n}={describe(getattr(value, n, None))}" for n in _fields(value)]
        return f"{type(value).__name__}({_shown(parts)})"
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return type(value).__name__


def _shown(parts: list[str]) -> str:
    if len(parts) > _MAX_SHOWN + 1:
        parts = [*parts[:_MAX_SHOWN], f"... {len(parts) - _MAX_SHOWN} more"]
    return ", ".join(parts)


def first_input(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Give the first positional argument, else the first keyword argument.

    Raises:
        ValueError: The module was called without arguments.
    """
    args, kwargs = inputs
    if args:
        return args[0]
    for value in kwargs.values():
        return value
    raise ValueError("the module was called without arguments: it has no `.input`")


def with_first_input(
    inputs: tuple[tuple[Any, ...], dict[str, Any]], new: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the first positional argument, else the first keyword argument.

    Raises:
        ValueError: The module was called without arguments.
    """
    args, kwargs = inputs
    if args:
        return (new, *args[1:]), kwargs
    for key in kwargs:
        return args, {**kwargs, key: new}
    raise ValueError("the module was called without arguments: it has no `.input`")


def checked_inputs(_old: object, new: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take a new pair of arguments.

    Raises:
        TypeError: It is not a pair of a tuple (or list) and a dict.
    """
    if isinstance(new, tuple) and len(new) == 2:
        args, kwargs = new
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return tuple(args), dict(kwargs)
    raise TypeError(
        f"`.inputs` is a pair of arguments and keyword arguments, ((x,), {{}}); got {describe(new)}"
    )
