"""Stand-ins for what is made of an iterable: lists, sets, dictionaries, bytes, joined text.

As in C, no more is taken than the original would take: it stops at the first item that it refuses
(`bytes`, `set`), or once its answer is known (`isdisjoint`), and a generator may be endless.
"""

from __future__ import annotations

import collections
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from .._protocol import END, Carrier
from . import iteration
from . import operations as do
from .items import Driven, ObjectIterator
from .iteration import advance, collects, drain, iterates, open_iter, open_or
from .registry import register
from .resolve import call_special
from .special import MISSING, special, special_asks

Stop = Callable[[Any], bool]


def iterable_first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether the first argument may ask when it is iterated."""
    return bool(args) and iterates(args[0])


def second_iterable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether the second argument may ask when it is iterated."""
    return len(args) > 1 and iterates(args[1])


def _never(item: object) -> bool:
    return False


def _hashable(item: object) -> bool:
    hash(item)
    return False


def _accepted_by(target: Any) -> Stop:
    def stop(item: object) -> bool:
        target((item,))
        return False

    return stop


def _taken(iterable: Any, stop: Stop) -> Driven:
    """The items of *iterable*, up to and with the first at which *stop* says so, or raises."""
    iterator = yield from open_iter(iterable)
    items = []
    while (item := (yield from advance(iterator))) is not END:
        items.append(item)
        if stop(item):
            break
    return items


def draining(
    target: Callable[..., Any], *places: int, stop: Stop = _never, hints: bool = False
) -> None:
    """Register a stand-in that makes lists of suspending arguments, then calls the original.

    Right for C functions that read an iterable before they do anything else.

    Args:
        target: The function, class or method.
        places: Positions of the arguments to look at; all positional ones by default.
        stop: Called with each item; raises where the original refuses the item.
        hints: Whether the original asks for the length first.
    """
    asking = collects if hints else iterates

    def standin(*args: Any, **kwargs: Any) -> Driven:
        values = list(args)
        for place in places or range(len(values)):
            if place < len(values) and asking(values[place]):
                value = values[place]
                values[place] = yield from (
                    drain(value, hints=True) if hints else _taken(value, stop)
                )
        try:
            return target(*values, **kwargs)
        except StopIteration as error:
            carrier = Carrier(error)
        raise carrier

    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(asking(args[place]) for place in places or range(len(args)) if place < len(args))

    register(target, standin, when=when)


_target: Any
draining(tuple, hints=True)
draining(tuple.__new__, 1, hints=True)
for _target in (bytes.join, bytearray.join):
    draining(_target, 1)
for _target in (set, frozenset):
    draining(_target, stop=_hashable)
for _target in (frozenset.__new__, set.__init__):
    draining(_target, 1, stop=_hashable)
for _target in (
    set.union, set.difference, set.symmetric_difference, set.symmetric_difference_update,
    frozenset.union, frozenset.difference, frozenset.symmetric_difference,
):  # fmt: skip
    draining(_target, stop=_hashable)
draining(dict.fromkeys, 0, stop=_hashable)
draining(bytearray, 0, stop=_accepted_by(bytearray))
draining(bytearray.extend, 1, stop=_accepted_by(bytearray))
draining(math.fsum, 0, stop=_accepted_by(math.fsum))
draining(collections.deque, 0)
draining(collections.deque.__init__, 1)


def _join(text: str, iterable: Any, /) -> Driven:
    iterator = yield from open_or(iterable, "can only join an iterable")
    # As in C: a list is made of the iterator, which takes `iter()` of it again.
    source = iterator.target if type(iterator) is ObjectIterator else iterator
    return str.join(text, (yield from drain(source, hints=True)))


register(str.join, _join, when=second_iterable)

# -- bytes --------------------------------------------------------------------------------------


def _bytes(source: Any, /) -> Driven:
    method = special(type(source), "__bytes__")
    if method is MISSING:
        return bytes((yield from _taken(source, _accepted_by(bytes))))
    result = yield from call_special(method, source)
    if not isinstance(result, bytes):
        raise TypeError(f"__bytes__ returned non-bytes (type {type(result).__name__})")
    return result


register(
    bytes,
    _bytes,
    when=lambda args, kwargs: (
        len(args) == 1
        and not kwargs
        and (iterates(args[0]) or special_asks(type(args[0]), "__bytes__"))
    ),
)

# -- lists, deques ------------------------------------------------------------------------------


def _second_collects(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) > 1 and collects(args[1])


def _list(iterable: Any = (), /) -> Driven:
    return drain(iterable, hints=True)


def _list_init(self: list[Any], iterable: Any = (), /) -> Driven:
    list.clear(self)
    yield from iteration.extend(self, iterable)


def _extendleft(self: collections.deque[Any], iterable: Any, /) -> Driven:
    iterator = yield from open_iter(iterable)
    while (item := (yield from advance(iterator))) is not END:
        collections.deque.appendleft(self, item)


register(list, _list, when=lambda args, _: bool(args) and collects(args[0]))
register(list.__init__, _list_init, when=_second_collects)
register(list.extend, iteration.extend, when=_second_collects)
register(collections.deque.extend, iteration.extend, when=second_iterable)
register(collections.deque.extendleft, _extendleft, when=second_iterable)

# -- looking for an element ---------------------------------------------------------------------


def _index(kind: Any) -> Callable[..., Driven]:
    def search(self: Any, value: Any, place: int, stop: int) -> Driven:
        size = len(self)
        place = max(place + size, 0) if place < 0 else place
        stop = stop + size if stop < 0 else stop
        while place < min(stop, kind.__len__(self)):
            if (yield from do.equal(kind.__getitem__(self, place), value)):
                return place
            place += 1
        return kind.index(kind(), value)  # its own error

    def index(self: Any, value: Any, start: Any = 0, stop: Any = sys.maxsize, /) -> Driven:
        return search(self, value, operator.index(start), operator.index(stop))

    return index


def _count(kind: Any) -> Callable[..., Driven]:
    def count(self: Any, value: Any, /) -> Driven:
        found = place = 0
        while place < kind.__len__(self):
            found += yield from do.equal(kind.__getitem__(self, place), value)
            place += 1
        return found

    return count


def _remove(self: list[Any], value: Any, /) -> Driven:
    place = 0
    while place < list.__len__(self):
        if (yield from do.equal(list.__getitem__(self, place), value)):
            list.__delitem__(self, place)
            return
        place += 1
    list.remove([], value)  # its own error


for _target in (list, tuple):
    register(_target.index, _index(_target))
    register(_target.count, _count(_target))
register(list.remove, _remove)

# -- sets ---------------------------------------------------------------------------------------


def _one_by_one(act: Callable[[Any, Any], object], target: Any) -> None:
    """Register an update of a set: what came before an error stays."""

    def standin(self: set[Any], /, *others: Any) -> Driven:
        for other in others:
            if not iterates(other):
                target(self, other)
                continue
            iterator = yield from open_iter(other)
            while (item := (yield from advance(iterator))) is not END:
                hash(item)
                act(self, item)

    register(target, standin, when=lambda args, _: any(map(iterates, args[1:])))


_one_by_one(set.add, set.update)
_one_by_one(set.discard, set.difference_update)


def _known_early(target: Any, stop_of: Callable[[Any], Stop]) -> None:
    """Register a method of sets that stops as soon as its answer is known."""

    def standin(self: Any, other: Any, /) -> Driven:
        return target(self, (yield from _taken(other, stop_of(self))))

    register(target, standin, when=lambda args, _: len(args) == 2 and iterates(args[1]))


def _all_met(own: Any) -> Stop:
    """Stops when each element of *own* has been met."""
    met = set()

    def stop(item: Any) -> bool:
        hash(item)
        if item not in own:
            return False
        met.add(item)
        return len(met) >= len(own)

    return stop


def _met(own: Any) -> Stop:
    return lambda item: hash(item) is not None and item in own


def _not_met(own: Any) -> Stop:
    return lambda item: hash(item) is not None and item not in own


def _intersecting(target: Any) -> None:
    def standin(self: Any, /, *others: Any) -> Driven:
        left = set(self)
        values = []
        for other in others:
            value = (yield from _taken(other, _all_met(left))) if iterates(other) else other
            values.append(value)
            if len(others) > 1:
                left = left.intersection(value)
        return target(self, *values)

    register(target, standin, when=lambda args, _: any(map(iterates, args[1:])))


def _probe_issubset() -> bool:
    def items() -> Iterator[int]:
        yield 1
        yield 2

    source = items()
    {1}.issubset(source)
    return next(source, None) is not None


_SUBSETS_STOP_EARLY: Final = _probe_issubset()
"""Whether `issubset()` stops when it has met all elements (3.12 on), or makes a set first."""

for _target in (set, frozenset):
    _known_early(_target.isdisjoint, _met)
    _known_early(_target.issuperset, _not_met)
    _known_early(_target.issubset, _all_met if _SUBSETS_STOP_EARLY else lambda _: _hashable)
    _intersecting(_target.intersection)
_intersecting(set.intersection_update)

# -- dictionaries -------------------------------------------------------------------------------


def _dict_source(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(_asks_as_mapping(value) for value in args)


def _second_is_source(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) > 1 and _asks_as_mapping(args[1])


def _asks_as_mapping(value: Any) -> bool:
    kind = type(value)
    if kind is list or kind is tuple:
        return any(iterates(pair) for pair in value)
    return (
        iterates(value)
        or special_asks(kind, "keys")
        or (
            kind is not dict
            and special(kind, "keys") is not MISSING
            and special_asks(kind, "__getitem__")
        )
    )


def _fill(target: dict[Any, Any], source: Any) -> Driven:
    """`target.update(source)`."""
    plain = type(target) is not collections.OrderedDict and isinstance(target, dict)
    store = dict.__setitem__ if plain else operator.setitem
    if special(type(source), "keys") is not MISSING:
        target.update((yield from do.mapping(source)))
        return
    iterator = yield from open_iter(source)
    index = 0
    while (pair := (yield from advance(iterator))) is not END:
        if type(pair) is not tuple:
            try:
                pair = yield from drain(pair)
            except TypeError:
                pair = None
            if pair is None:
                message = (
                    f"cannot convert dictionary update sequence element #{index} to a sequence"
                )
                raise TypeError(message)
        if len(pair) != 2:
            message = (
                f"dictionary update sequence element #{index} has length {len(pair)}; 2 is required"
            )
            raise ValueError(message)
        store(target, pair[0], pair[1])
        index += 1


def _dict(source: Any = (), /, **kwargs: Any) -> Driven:
    made: dict[Any, Any] = {}
    yield from _fill(made, source)
    made.update(kwargs)
    return made


def _dict_update(self: dict[Any, Any], source: Any = (), /, **kwargs: Any) -> Driven:
    yield from _fill(self, source)
    dict.update(self, kwargs)


register(dict, _dict, when=_dict_source)
for _target in (
    dict.__init__,
    dict.update,
    collections.OrderedDict.__init__,
    collections.OrderedDict.update,
):
    register(_target, _dict_update, when=_second_is_source)


def _defaultdict_init(self: Any, factory: Any = None, source: Any = (), /, **kwargs: Any) -> Driven:
    collections.defaultdict.__init__(self, factory)
    yield from _dict_update(self, source, **kwargs)


register(
    collections.defaultdict.__init__,
    _defaultdict_init,
    when=lambda args, _: len(args) > 2 and _asks_as_mapping(args[2]),
)


def _count_elements(mapping: Any, iterable: Any, /) -> Driven:
    """The loop of `Counter`."""
    iterator = yield from open_iter(iterable)
    while (item := (yield from advance(iterator))) is not END:
        mapping[item] = mapping.get(item, 0) + 1


register(
    collections._count_elements,  # type: ignore[attr-defined]
    _count_elements,
    when=second_iterable,
)
