"""Several inputs in one forward: joined along the batch axis, each with its own rows.

Two floors of the same idea. Plain functions: `join` makes one input of many, `narrow` gives one
invoke its rows of a value, `widen` puts them back, `join_parts` makes a value of everybody's rows.
And `Shared`, the value of one site while several invokes look at it: each gets its part once,
edits it in place or replaces it, and when the model moves on the parts become one value again.

Without gradients a part is a view, so an in-place edit has reached the model's tensor already.
With gradients on a part is a tensor of its own: rows must lie *on* the way from the value to the
loss for `part.grad` to exist, and an in-place edit through a view would change what another
invoke's backward has kept. Those parts are joined out of place, one copy for each edited site.

Rows are counted in inputs, half-open. A leaf with k rows for each input (flattened sequences,
beams) has k times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import BatchAxisError, CannotJoinError, RowsMismatchError, ValueNotKnownError
from .axes import Axes, AxisRule
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


# Inputs.


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
            if not _same(first, value):
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


def _same(left: Any, right: Any) -> bool:
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


# Values.


def rows_of(tensor: Tensor, rows: slice, axes: Axes) -> Tensor:
    """Give a view of one invoke's rows; the tensor itself if it has no batch axis."""
    for axis, per_input in axes:
        tensor = tensor.narrow(axis, rows.start * per_input, (rows.stop - rows.start) * per_input)
    return tensor


def _part(tensor: Tensor, rows: slice, axes: Axes) -> tuple[Tensor, bool]:
    """Give one invoke's rows of a tensor, and whether they are a view."""
    if not axes:
        return tensor.clone(), False
    mine = rows_of(tensor, rows, axes)
    if torch.is_grad_enabled() and (tensor.is_floating_point() or tensor.is_complex()):
        return mine.clone(), False
    return mine, True


Divide = Callable[[Any, slice, int], Any]
"""Object, one invoke's rows, rows of the batch -> the invoke's part of the object."""

_dividing: Final[dict[type, Divide]] = {}


def divide_with(kind: type, divide: Divide) -> None:
    """Say how one invoke gets its rows of an object that is no container, such as a KV cache.

    Args:
        kind: The object's class, or a base of it.
        divide: Gives the part. An edit of the part must reach the object, or be refused.
    """
    _dividing[kind] = divide


def _divided(item: Any, rows: slice, total: int) -> Any:
    if _dividing:
        for kind in type(item).__mro__:
            if kind in _dividing:
                return _dividing[kind](item, rows, total)
    return item


def narrow(value: Any, rows: slice, rule: AxisRule) -> Any:
    """Give one invoke its own rows of a value.

    Equivalent to `value[rows]` in each tensor along its batch axis. Without gradients the rows
    are views, so an in-place write edits the model's tensor; with gradients on they are tensors
    of their own, as are tensors without a batch axis, of which each invoke gets a copy.

    Args:
        value: Anything; tensors of shape (batch, ...).
        rows: Half-open, counted in inputs.
        rule: Where the batch axes are.

    Returns:
        The same structure, new containers.
    """
    return map_with_paths(
        value,
        lambda leaf, item: (
            _part(item, rows, rule(leaf, item))[0] if isinstance(item, Tensor) else item
        ),
    )


def widen(value: Any, rows: slice, replacement: Any, rule: AxisRule) -> Any:
    """Put what one invoke wrote in the place of its rows.

    Equivalent to `value[rows] = replacement`, except that *value* stays as it is.

    Args:
        value: Anything; tensors of shape (batch, ...).
        rows: Half-open, counted in inputs.
        replacement: Of the structure and shapes that `narrow` gives.
        rule: Where the batch axes are.

    Returns:
        A new value.

    Raises:
        RowsMismatchError: `rows-mismatch`. Structure, shape, dtype or device differ.
        BatchAxisError: `batch-axis`. A tensor without a batch axis was replaced.
    """
    check_fits(value, rows, replacement, rule)
    given = dict(leaves_with_paths(replacement))

    def put(leaf: Leaf, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        axes = rule(leaf, item)
        if not axes:
            return item
        return _splice(item, [(rows, given[leaf])], axes)

    return map_with_paths(value, put)


def _splice(tensor: Tensor, parts: list[tuple[slice, Tensor]], axes: Axes) -> Tensor:
    """Give a tensor with some rows replaced; *tensor* stays as it is."""
    if len(axes) > 1:
        whole = tensor.clone()
        for rows, part in parts:
            rows_of(whole, rows, axes).copy_(part)
        return whole
    axis, per_input = axes[0]
    pieces: list[Tensor] = []
    at = 0
    for rows, part in sorted(parts, key=lambda pair: pair[0].start):
        start, stop = rows.start * per_input, rows.stop * per_input
        if start > at:
            pieces.append(tensor.narrow(axis, at, start - at))
        pieces.append(part)
        at = stop
    if at < tensor.size(axis):
        pieces.append(tensor.narrow(axis, at, tensor.size(axis) - at))
    return torch.cat(pieces, dim=axis)


def check_fits(value: Any, rows: slice, replacement: Any, rule: AxisRule) -> None:
    """Refuse what does not have the structure and the shapes of one invoke's rows.

    Raises:
        RowsMismatchError: `rows-mismatch`. Structure, shape, dtype or device differ.
        BatchAxisError: `batch-axis`. A tensor without a batch axis was replaced.
    """
    _check(value, rows, replacement, rule, ())


def _check(value: Any, rows: slice, new: Any, rule: AxisRule, leaf: Leaf) -> None:
    if isinstance(value, Tensor):
        axes = rule(leaf, value)
        if not axes:
            # A copy of the whole was handed out; giving it back is no edit.
            if not (isinstance(new, Tensor) and (new is value or _equal(new, value))):
                raise _no_batch_axis(leaf, value)
            return
        wanted = rows_of(value, rows, axes)
        if (
            not isinstance(new, Tensor)
            or new.shape != wanted.shape
            or new.dtype != wanted.dtype
            or new.device != wanted.device
        ):
            raise _mismatch(leaf, describe(wanted), describe(new))
        return
    items, others = children(value), children(new)
    if items is None:
        if new is not value and not _same(new, value):
            raise _mismatch(leaf, describe(value), describe(new))
        return
    if others is None or type(new) is not type(value):
        raise _mismatch(leaf, describe(value), describe(new))
    if [key for key, _ in items] != [key for key, _ in others]:
        found = dict(others)
        missing = [key for key, _ in items if key not in found]
        known = {key for key, _ in items}
        extra = [key for key, _ in others if key not in known]
        differing = f"; missing: {missing}" if missing else f"; not there before: {extra}"
        raise _mismatch(leaf, describe(value), describe(new) + differing)
    for (key, item), (_, other) in zip(items, others, strict=True):
        _check(item, rows, other, rule, (*leaf, key))


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    try:
        return torch.equal(left, right)
    except ValueNotKnownError:
        return True  # in a scan, where shapes are all there is


def _mismatch(leaf: Leaf, wanted: str, given: str) -> RowsMismatchError:
    place = f" at {spell(leaf)}" if leaf else ""
    return RowsMismatchError(
        f"what is written{place} does not fit the rows of this invoke",
        seen=f"needed:  {wanted}\nwritten: {given}",
        why="the other rows of the value belong to other invokes and stay as they are",
        fix="write a value of the structure, shape, dtype and device that a read gives",
    )


def _no_batch_axis(leaf: Leaf, tensor: Tensor) -> BatchAxisError:
    place = f" at {spell(leaf)}" if leaf else ""
    return BatchAxisError(
        f"a value without a batch axis{place} cannot be edited through one invoke",
        seen=describe(tensor),
        why="all invokes share it, so the edit would reach the rows of the others",
        fix="edit it in `with tracer.invoke():`, which sees all rows, or state its axis in the "
        "model's `batch_axis`",
    )


def join_parts(parts: Sequence[tuple[slice, Any]], total: int, rule: AxisRule) -> Any:
    """Make one value of what each invoke gave for its rows (skipped modules).

    Args:
        parts: Rows and value of each invoke.
        total: Rows of the batch.
        rule: Where the batch axes of the value are.

    Returns:
        Tensors joined along their batch axes; what is no tensor, from the first.

    Raises:
        RowsMismatchError: `rows-mismatch`. The values do not cover the batch, or differ in
            structure or shape.
    """
    ordered = sorted(parts, key=lambda pair: pair[0].start)
    at = 0
    for rows, _ in ordered:
        if rows.start != at:
            break
        at = rows.stop
    if at != total:
        covered = ", ".join(f"{rows.start}:{rows.stop}" for rows, _ in ordered)
        raise RowsMismatchError(
            "a module is skipped by some invokes only",
            seen=f"rows {covered} of 0:{total}",
            why="a module runs for all rows or for none",
            fix="skip it in all invokes, or replace its output in some",
        )
    first = ordered[0][1]
    found = [dict(leaves_with_paths(value)) for _, value in ordered]
    for (_, value), leaves in zip(ordered[1:], found[1:], strict=True):
        if list(leaves) != list(found[0]):
            raise _mismatch((), describe(first), describe(value))

    def put(leaf: Leaf, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        pieces = [leaves[leaf] for leaves in found]
        if not item.dim():
            return item
        axis = next(iter(_joined_axes(rule, leaf, pieces)), (0, 1))[0]
        try:
            return torch.cat(pieces, dim=axis)
        except RuntimeError as error:
            shown = ", ".join(describe(piece) for piece in pieces)
            raise _mismatch(leaf, f"shapes that differ in axis {axis} only", shown) from error

    return map_with_paths(first, put)


def _joined_axes(rule: AxisRule, leaf: Leaf, pieces: list[Tensor]) -> Axes:
    """Ask the rule about the joined tensor, of which only the shape is known yet."""
    first = pieces[0]
    for axis in range(first.dim()):
        shape = list(first.shape)
        shape[axis] = sum(piece.size(axis) for piece in pieces if piece.dim() == first.dim())
        try:
            axes = rule(leaf, torch.empty(shape, dtype=first.dtype, device="meta"))
        except BatchAxisError:
            continue
        if any(found == axis for found, _ in axes):
            return axes
    return ()


class Shared:
    """The value of one site while several invokes look at it.

    Args:
        value: The model's value.
        rule: Where its batch axes are.
        total: Rows of the batch, in inputs.
    """

    __slots__ = ("_marks", "_parts", "_rows", "_written", "rule", "total", "value")

    def __init__(self, value: Any, rule: AxisRule, total: int) -> None:
        self.value = value
        self.rule = rule
        self.total = total
        self._parts: dict[Hashable, Any] = {}
        self._rows: dict[Hashable, slice] = {}
        # What was handed out, tensor by tensor: itself, whether a view, its version then.
        self._marks: dict[Hashable, dict[Leaf, tuple[Tensor, bool, int | None]]] = {}
        self._written: set[Hashable] = set()

    def read(self, who: Hashable, rows: slice | None) -> Any:
        """Give one invoke its part: always the same object until the value is joined.

        Args:
            who: The invoke.
            rows: Its rows; `None`: all of them, edits of the others included.
        """
        if rows is None:
            self.join()
            return self.value
        if self._is_all(rows) and not self._parts:
            return self.value
        if who not in self._parts:
            marks: dict[Leaf, tuple[Tensor, bool, int | None]] = {}

            def hand_out(leaf: Leaf, item: Any) -> Any:
                if not isinstance(item, Tensor):
                    return _divided(item, rows, self.total)
                mine, is_view = _part(item, rows, self.rule(leaf, item))
                marks[leaf] = (mine, is_view, _version(mine))
                return mine

            self._parts[who] = map_with_paths(self.value, hand_out)
            self._rows[who], self._marks[who] = rows, marks
        return self._parts[who]

    def write(self, who: Hashable, rows: slice | None, new: Any) -> None:
        """Take what one invoke wrote.

        Raises:
            RowsMismatchError: `rows-mismatch`. It does not fit the invoke's rows.
            BatchAxisError: `batch-axis`. It replaces a tensor without a batch axis.
        """
        if rows is None or (self._is_all(rows) and not self._parts):
            self._forget()
            self.value = new
            return
        check_fits(self.value, rows, new, self.rule)
        self._parts[who], self._rows[who] = new, rows
        self._written.add(who)

    def join(self) -> Any:
        """Make one value of the parts and give it; later reads get new parts.

        Returns:
            The model's own value, if nothing was replaced and no part was a copy that counts.

        Raises:
            RowsMismatchError: `rows-mismatch`. An item of a part was replaced by what does not
                fit.
            BatchAxisError: `batch-axis`. A tensor without a batch axis was edited in place.
        """
        edited: dict[Leaf, list[tuple[slice, Tensor]]] = {}
        for who, part in self._parts.items():
            rows = self._rows[who]
            if who not in self._written:
                self._check_part(who, rows, part)
            for leaf, item in leaves_with_paths(part):
                if isinstance(item, Tensor) and self._counts(who, leaf, item):
                    edited.setdefault(leaf, []).append((rows, item))

        def put(leaf: Leaf, item: Any) -> Any:
            parts = edited.get(leaf)
            if not parts or not isinstance(item, Tensor):
                return item
            axes = self.rule(leaf, item)
            return _splice(item, parts, axes) if axes else item

        if edited:
            self.value = map_with_paths(self.value, put)
        self._forget()
        return self.value

    def _forget(self) -> None:
        for memory in (self._parts, self._rows, self._marks, self._written):
            memory.clear()

    def _is_all(self, rows: slice) -> bool:
        return bool(rows.start == 0 and rows.stop == self.total)

    def _check_part(self, who: Hashable, rows: slice, part: Any) -> None:
        """Check items put into a part's containers; and that shared tensors were left alone."""
        marks = self._marks[who]
        whole = dict(leaves_with_paths(self.value))
        replaced = [
            leaf
            for leaf, item in leaves_with_paths(part)
            if leaf not in marks or marks[leaf][0] is not item
        ]
        if any(leaf not in whole or isinstance(whole[leaf], Tensor) for leaf in replaced) or len(
            list(leaves_with_paths(part))
        ) != len(whole):
            check_fits(self.value, rows, part, self.rule)
        for leaf, (item, _, before) in marks.items():
            if not self.rule(leaf, whole[leaf]) and (
                not _equal(item, whole[leaf]) if before is None else _version(item) != before
            ):
                raise _no_batch_axis(leaf, whole[leaf])

    def _counts(self, who: Hashable, leaf: Leaf, item: Tensor) -> bool:
        """Tell whether a part's tensor must be joined: it is not a view as it was handed out."""
        mark = self._marks.get(who, {}).get(leaf)
        if who in self._written or mark is None or mark[0] is not item:
            return True
        _, is_view, before = mark
        if is_view:
            return False  # an edit of it is in the model's tensor already
        return item.requires_grad or before is None or _version(item) != before


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
