"""The inputs of several invokes made one, joined along the batch axis.

All tensors of an input have the same number of rows, counted along the axis that the model's rule
states. What is no tensor must be the same in all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import CannotJoinError
from .leaves import Leaf, children, leaves_with_paths, map_with_paths, spell
from .values import describe

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of one call."""

InputAxes = Callable[[Leaf, Tensor], tuple[int, int] | None]
"""Batch axis of an input tensor and rows for each input; `None`: one for the whole run."""

_ABSENT: Final = object()


def axis_zero(leaf: Leaf, tensor: Tensor) -> tuple[int, int] | None:
    """Give the rule of a plain model's inputs: axis 0, one row for each input."""
    del leaf
    return (0, 1) if tensor.dim() else None


@dataclass(frozen=True)
class Joined:
    """One run's inputs, made of those of several invokes.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
        rows: For each invoke its rows, in inputs.
        total: Rows of the batch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: list[slice]
    total: int


def count_rows(inputs: Inputs, axes: InputAxes = axis_zero, number: int = 1) -> int:
    """Count the rows of one invoke's input.

    Args:
        inputs: Positional and keyword inputs.
        axes: Where the batch axes are.
        number: Of the invoke, from 1, for the message.

    Returns:
        The number of rows; 0 if no tensor has a batch axis.

    Raises:
        CannotJoinError: `cannot-join`. Two tensors of the input have different numbers of rows.
    """
    found = 0
    first = ""
    for leaf, tensor in leaves_with_paths(inputs):
        if not isinstance(tensor, Tensor):
            continue
        axis = axes(leaf, tensor)
        if axis is None:
            continue
        rows, rest = divmod(tensor.size(axis[0]), axis[1])
        shown = f"{_where(leaf)} {describe(tensor)}"
        if rest or (first and rows != found):
            raise CannotJoinError(
                f"the tensors of invoke {number} do not have the same number of rows",
                seen=f"{first}\n{shown}" if first else shown,
                why="all tensors of an input are joined along their batch axis, axis 0 unless "
                "the model's `batch_axis` says otherwise",
                fix="give each the same size along it, or state the axis in `batch_axis`",
            )
        found, first = rows, first or shown
    return found


def spelled_alike(function: Callable[..., Any], inputs: Sequence[Inputs]) -> Sequence[Inputs]:
    """Give by keyword what some invokes give by position, and others by keyword or not at all.

    Args:
        function: What is called with the joined inputs.
        inputs: Of each invoke.

    Returns:
        Inputs that mean the same for *function*; as they are, if its signature is not known.
    """
    fewest = min((len(args) for args, _ in inputs), default=0)
    if all(len(args) == fewest for args, _ in inputs):
        return inputs
    try:
        called = function.forward if isinstance(function, torch.nn.Module) else function
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return inputs
    most = max(len(args) for args, _ in inputs)
    names = [p.name for p in parameters[:most] if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(names) < most or any(not _names_free(args, kwargs, names) for args, kwargs in inputs):
        return inputs
    return [
        (args[:fewest], {**dict(zip(names[fewest:], args[fewest:], strict=False)), **kwargs})
        for args, kwargs in inputs
    ]


def _names_free(args: Sequence[Any], kwargs: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether no argument is given both by position and by keyword."""
    return not any(name in kwargs for name in names[: len(args)])


def join(inputs: Sequence[Inputs], axes: InputAxes = axis_zero) -> Joined:
    """Make one input of those of several invokes.

    Equivalent to `torch.cat` of each tensor along its batch axis. What is no tensor must be the
    same in all; a keyword that is no tensor may be given by some only.

    Args:
        inputs: Of each invoke, in written order. At least one.
        axes: Where the batch axes are.

    Returns:
        The joined inputs, and each invoke's rows.

    Raises:
        CannotJoinError: `cannot-join`. Their structure, shapes, dtypes or options differ.
    """
    counts = [count_rows(given, axes, n) for n, given in enumerate(inputs, 1)]
    if len(inputs) > 1 and 0 in counts:
        number = counts.index(0) + 1
        raise CannotJoinError(
            f"the input of invoke {number} has no rows to join",
            seen=f"invoke {number}: {_describe_inputs(inputs[number - 1])}",
            why="several inputs become one run by joining tensors along their batch axis",
            fix="give a tensor with a batch axis, or use `tracer.invoke()` without input to see "
            "all rows",
        )
    rows: list[slice] = []
    start = 0
    for count in counts:
        rows.append(slice(start, start + count))
        start += count
    if len(inputs) == 1:
        args, kwargs = inputs[0]
        return Joined(tuple(args), dict(kwargs), rows, start)
    longest = max(len(args) for args, _ in inputs)
    joined_args = tuple(
        _join_values([args[i] if i < len(args) else _ABSENT for args, _ in inputs], (0, i), axes)
        for i in range(longest)
    )
    names = dict.fromkeys(name for _, kwargs in inputs for name in kwargs)
    joined_kwargs = {
        name: _join_values([kwargs.get(name, _ABSENT) for _, kwargs in inputs], (1, name), axes)
        for name in names
    }
    return Joined(joined_args, joined_kwargs, rows, start)


def _join_values(values: list[Any], leaf: Leaf, axes: InputAxes) -> Any:
    """Join what all invokes give at one place of their inputs."""
    given = [(number, value) for number, value in enumerate(values, 1) if value is not _ABSENT]
    first_number, first = given[0]
    keyword = len(leaf) == 2 and leaf[0] == 1
    for number, value in given[1:]:
        if type(value) is not type(first) and not (
            isinstance(value, Tensor) and isinstance(first, Tensor)
        ):
            raise _cannot_join(leaf, "are of different kinds", first_number, first, number, value)
    if len(given) < len(values):
        number = next(n for n, v in enumerate(values, 1) if v is _ABSENT)
        if not keyword or any(True for _ in _tensors(first)):
            raise CannotJoinError(
                f"{_where(leaf)} is given by some invokes only",
                seen=f"invoke {first_number}: {describe(first)}\ninvoke {number}: not given",
                why="all inputs run in one call",
                fix="give it in all invokes, or in none",
            )
    if isinstance(first, Tensor):
        return _join_tensors(given, leaf, axes)
    items = children(first)
    if items is None or not any(True for _ in _tensors(first)):
        for number, value in given[1:]:
            if not same(first, value):
                raise _cannot_join(leaf, "differ", first_number, first, number, value)
        return first
    all_items = [(number, dict(children(value) or ())) for number, value in given]
    for number, found in all_items[1:]:
        if list(found) != [key for key, _ in items]:
            raise _cannot_join(
                leaf, "have different items", first_number, first, number, values[number - 1]
            )
    joined = {
        key: _join_values([found[key] for _, found in all_items], (*leaf, key), axes)
        for key, _ in items
    }
    return _with_items(first, joined)


def _with_items(value: Any, items: dict[Hashable, Any]) -> Any:
    """Rebuild a container with other items: leaf by leaf, so that its kind is kept."""
    flat = dict(pair for key, item in items.items() for pair in leaves_with_paths(item, (key,)))
    return map_with_paths(value, lambda leaf, _: flat[leaf])


def _join_tensors(given: list[tuple[int, Tensor]], leaf: Leaf, axes: InputAxes) -> Tensor:
    first_number, first = given[0]
    stated = axes(leaf, first)
    if stated is None:
        for number, tensor in given[1:]:
            if tensor is not first and not (
                tensor.shape == first.shape
                and tensor.dtype == first.dtype
                and torch.equal(tensor, first)
            ):
                raise _cannot_join(
                    leaf, "have no batch axis and differ", first_number, first, number, tensor
                )
        return first
    axis = stated[0]
    for number, tensor in given[1:]:
        fits = (
            tensor.dim() == first.dim()
            and tensor.dtype == first.dtype
            and tensor.device == first.device
            and all(
                a == b
                for i, (a, b) in enumerate(zip(tensor.shape, first.shape, strict=True))
                if i != axis
            )
        )
        if not fits:
            raise _cannot_join(
                leaf,
                f"can only be joined if they are alike but for axis {axis}",
                first_number,
                first,
                number,
                tensor,
            )
    return torch.cat([tensor for _, tensor in given], dim=axis)


def _cannot_join(
    leaf: Leaf, how: str, first_number: int, first: Any, number: int, value: Any
) -> CannotJoinError:
    return CannotJoinError(
        f"the inputs of invokes {first_number} and {number} cannot be joined: {_where(leaf)} {how}",
        seen=f"invoke {first_number}: {describe(first)}\ninvoke {number}: {describe(value)}",
        why="all inputs run in one call, so there is one value of each argument",
        fix="pad tensors to one shape, give an option that is the same for all to `trace(...)`, "
        "or use one `trace` for each",
    )


def same(left: Any, right: Any) -> bool:
    """Whether two things are one, or equal as far as that can be asked."""
    if left is right:
        return True
    try:
        return bool(left == right)
    except Exception:  # noqa: BLE001 - what cannot be compared is not known to be the same
        return False


def _tensors(value: Any) -> Iterable[Tensor]:
    return (item for _, item in leaves_with_paths(value) if isinstance(item, Tensor))


def _where(leaf: Leaf) -> str:
    """Name a place in the pair of positional and keyword inputs."""
    kind, key, *rest = leaf
    if kind == 1:
        return f"`{key}{spell(tuple(rest))}`"
    return f"argument {int(str(key)) + 1}{spell(tuple(rest))}"


def _describe_inputs(inputs: Inputs) -> str:
    args, kwargs = inputs
    shown = [describe(value) for value in args]
    shown += [f"{name}={describe(value)}" for name, value in kwargs.items()]
    return f"({', '.join(shown)})"


def split_rows(counts: Sequence[int], max_rows: int | None) -> list[list[int]]:
    """Divide invokes into runs of at most *max_rows* rows, in written order.

    Args:
        counts: Rows of each invoke.
        max_rows: The most rows in one run; `None`: no limit. One invoke larger than that runs
            alone.

    Returns:
        For each run the positions of its invokes in *counts*.

    Raises:
        ValueError: *max_rows* is less than 1.
    """
    if max_rows is None:
        return [list(range(len(counts)))]
    if max_rows < 1:
        message = f"max_rows is at least 1, not {max_rows}"
        raise ValueError(message)
    runs: list[list[int]] = []
    free = 0
    for position, count in enumerate(counts):
        if not runs or count > free:
            runs.append([])
            free = max_rows
        runs[-1].append(position)
        free -= count
    return runs
