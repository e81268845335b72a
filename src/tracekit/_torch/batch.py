"""Several inputs in one forward: joined along the batch axis, each with its own rows.

Two floors of the same idea. Plain functions: `narrow` gives one invoke its rows of a value,
`widen` puts them back, `join_parts` makes a value of everybody's rows (`joining.py` makes one input
of many).
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

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import BatchAxisError, RowsMismatchError, ValueNotKnownError
from .axes import Axes, AxisRule
from .joining import same
from .leaves import Leaf, children, leaves_with_paths, map_with_paths, spell
from .values import describe


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
        if new is not value and not same(new, value):
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

    __slots__ = ("_marks", "_parts", "_plain", "_rows", "_written", "rule", "total", "value")

    def __init__(self, value: Any, rule: AxisRule, total: int) -> None:
        self.value = value
        self.rule = rule
        self.total = total
        self._parts: dict[Hashable, Any] = {}
        self._rows: dict[Hashable, slice] = {}
        # What was handed out, tensor by tensor: itself, whether a view, its version then.
        self._marks: dict[Hashable, dict[Leaf, tuple[Tensor, bool, int | None]]] = {}
        self._written: set[Hashable] = set()
        # Whose tensors all have rows: what they do with them is never refused.
        self._plain: set[Hashable] = set()

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
                axes = self.rule(leaf, item)
                if not axes:
                    self._plain.discard(who)
                mine, is_view = _part(item, rows, axes)
                marks[leaf] = (mine, is_view, _version(mine))
                return mine

            self._plain.add(who)
            self._parts[who] = map_with_paths(self.value, hand_out)
            self._rows[who], self._marks[who] = rows, marks
        return self._parts[who]

    def check(self, who: Hashable) -> None:
        """Refuse what one invoke has made of its part so far; it is left as it was given.

        Raises:
            RowsMismatchError: `rows-mismatch`. An item was replaced by what does not fit.
            BatchAxisError: `batch-axis`. A tensor without a batch axis was edited in place.
        """
        part = self._parts.get(who)
        if part is None or who in self._written or (type(part) is Tensor and who in self._plain):
            return
        try:
            self._check_part(who, self._rows[who], part)
        except Exception:
            # Said once: the value goes on without this part.
            for memory in (self._parts, self._rows, self._marks):
                del memory[who]
            raise

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
        for memory in (self._parts, self._rows, self._marks, self._written, self._plain):
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
