"""Leaves of nested values, together with where they stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .values import map_leaves

Leaf = tuple[Hashable, ...]
"""Where a leaf stands in a nested value: `(0,)`, `("logits",)`; `()` is the value itself."""


def children(value: object) -> list[tuple[Hashable, Any]] | None:
    """Give the items of a container by key, in the order of `values.map_leaves`.

    Returns:
        The items, or `None` for what is not looked into.
    """
    if isinstance(value, Tensor):
        return None
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    return None


def leaves_with_paths(value: object, root: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    """Find the leaves of a nested value.

    Args:
        value: Anything.
        root: Put before each place.

    Yields:
        Where the leaf stands, and the leaf; first to last.
    """
    items = children(value)
    if items is None:
        yield root, value
        return
    for key, item in items:
        yield from leaves_with_paths(item, (*root, key))


def map_with_paths(value: Any, change: Callable[[Leaf, Any], Any], root: Leaf = ()) -> Any:
    """Rebuild a nested value with each leaf changed, given where it stands.

    Equivalent to `values.map_leaves(value, change)`, except that *change* gets the place, too.
    """
    places = [leaf for leaf, _ in leaves_with_paths(value, root)]
    remaining = iter(places)
    return map_leaves(value, lambda item: change(next(remaining), item))


def spell(leaf: Leaf) -> str:
    """Write a place as Python: `[0]["logits"]`."""
    return "".join(f"[{key!r}]" for key in leaf)
