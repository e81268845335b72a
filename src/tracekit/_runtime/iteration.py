"""CPython's iteration protocol, in Python, with calls that may suspend.

An iterable is opened by `open_iter`, and asked for one item after the other by `advance`; what
makes a list of one is `drain`, and what takes as many items as an instruction looks at `unpack`.
Each keeps to the order of the C code: when the `length` is asked for, how many items are taken, what
has been kept when an error comes.
"""

from __future__ import annotations

import collections
import operator
from typing import Any, Final

from .._protocol import END, Carrier, Item
from .items import Driven, LazyIterator, ObjectIterator, is_virtual
from .resolve import call_special, call_straight
from .special import MISSING, asks, special, special_asks


def iterates(obj: Any) -> bool:
    """Say whether iterating *obj* may ask."""
    kind = type(obj)
    if is_virtual(kind):
        return True
    method = special(kind, "__iter__")
    if method is MISSING:
        return special(kind, "__iter__") is MISSING and special_asks(kind, "__getitem__")
    return (method is not None and asks(method)) or special_asks(kind, "__next__")


def collects(obj: Any) -> bool:
    """Say whether making a list or tuple of *obj* may ask: its length is asked for, too."""
    kind = type(obj)
    return iterates(obj) or special_asks(kind, "__len__") or special_asks(kind, "__length_hint__")


def open_iter(obj: Any) -> Driven:
    """`iter(obj)`: a `VirtualIterator` where the next items may ask, else an ordinary iterator."""
    kind = type(obj)
    if is_virtual(kind):
        return obj
    method = special(kind, "__iter__")
    if method is MISSING and special_asks(kind, "__getitem__"):
        return LazyIterator(_by_index(obj), _OLD_ITERATOR, sized=obj)
    if method is MISSING or method is None or not (asks(method) or special_asks(kind, "__next__")):
        return wrapped_iterator(call_straight(iter, obj))
    found = yield from call_special(method, obj)
    if special(type(found), "__next__") is MISSING:
        raise TypeError(f"iter() returned non-iterator of type '{type(found).__name__}'")
    return wrapped_iterator(found)


def open_or(obj: Any, message: str) -> Driven:
    """`iter(obj)`, where C says *message* instead of any TypeError of `__iter__`."""
    try:
        return (yield from open_iter(obj))
    except TypeError:
        pass
    raise TypeError(message)


def wrapped_iterator(iterator: Any) -> Any:
    """An iterator as `for` wants it: in an `ObjectIterator` when its `__next__` may ask."""
    kind = type(iterator)
    if is_virtual(kind) or not special_asks(kind, "__next__"):
        return iterator
    method = special(kind, "__next__")
    return ObjectIterator(iterator, lambda: call_special(method, iterator))


class _Old:
    """Gives the class of the iterator over an object that only has `__getitem__`."""

    def __getitem__(self, index: int) -> None:
        raise IndexError


_OLD_ITERATOR: Final = type(iter(_Old()))


def _by_index(obj: Any) -> Driven:
    index = 0
    method = special(type(obj), "__getitem__")
    while True:
        try:
            item = yield from call_special(method, obj, index)
        except (IndexError, Carrier):
            return
        yield Item(item)
        index += 1


def advance(iterator: Any) -> Driven:
    """The next item of what `open_iter` returned, or `END`."""
    if is_virtual(type(iterator)):
        return (yield from iterator.step())
    try:
        return next(iterator)
    except StopIteration:
        return END


def drain(iterable: Any, *, hints: bool = False) -> Driven:
    """`list(iterable)`.

    Args:
        iterable: Any object.
        hints: Whether the length is asked for before the first item, as `list` and `tuple` do.
    """
    iterator = yield from open_iter(iterable)
    if hints:
        yield from _hint(iterable)
    if not is_virtual(type(iterator)):
        return call_straight(list, iterator)
    items = []
    step = iterator.step
    while (item := (yield from step())) is not END:
        items.append(item)
    return items


def length(obj: Any) -> Driven:
    """`len(obj)`."""
    method = special(type(obj), "__len__")
    if method is MISSING or not asks(method):
        return call_straight(len, obj)
    result = operator.index((yield from call_special(method, obj)))
    if result < 0:
        raise ValueError("__len__() should return >= 0")
    return result


def _hint(iterable: Any) -> Driven:
    """`operator.length_hint(iterable)`, for what its methods do on the way."""
    if type(iterable) is LazyIterator and iterable.sized is not None:
        iterable = iterable.sized
    kind = type(iterable)
    if special(kind, "__len__") is not MISSING:
        if special_asks(kind, "__len__"):
            try:
                yield from length(iterable)
            except TypeError:
                pass
    elif special_asks(kind, "__length_hint__"):
        try:
            yield from call_special(special(kind, "__length_hint__"), iterable)
        except TypeError:
            pass


def unpack(iterable: Any, count: int = -1, *, rest: bool = False) -> Driven:
    """A list of the items that an instruction looks at.

    Args:
        iterable: Any object.
        count: How many are wanted; one more is taken, to see that there is none. -1: all, made
            into a list or tuple, with a look at the length first.
        rest: Whether there is a starred target for those after the first *count*.
    """
    if count < 0:
        return (yield from drain(iterable, hints=True))
    iterator = yield from open_iter(iterable)
    items: list[Any] = []
    if rest:
        while len(items) < count:
            item = yield from advance(iterator)
            if item is END:
                return items
            items.append(item)
        # As in C: what is left is made a list of, which takes `iter()` of the iterator again.
        left = iterator.target if type(iterator) is ObjectIterator else iterator
        return items + (yield from drain(left, hints=True))
    while len(items) <= count and (item := (yield from advance(iterator))) is not END:
        items.append(item)
    return items


def extend(target: Any, iterable: Any) -> Driven:
    """`target.extend(iterable)` of a list or deque: what came before an error stays."""
    append = (list if isinstance(target, list) else collections.deque).append
    iterator = yield from open_iter(iterable)
    if isinstance(target, list):
        yield from _hint(iterable)
    while (item := (yield from advance(iterator))) is not END:
        append(target, item)
