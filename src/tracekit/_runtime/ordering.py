"""Stand-ins for what compares: `sorted`, `list.sort`, `min`, `max`, `bisect`, `cmp_to_key`.

Two things may ask here, the key function and the comparison. The comparisons are those that C
makes, in its order, for as long as that can be paid for (`_order`).
"""

from __future__ import annotations

import bisect
import functools
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

from .._bytecode.questions import Guard
from .._protocol import END, Carrier
from . import guards, iteration
from . import operations as do
from .items import Driven, done
from .iteration import advance, drain, open_iter
from .registry import register
from .resolve import call
from .special import special_asks
from .twins import passes_calls_on

_MISSING: Final = object()


def _extreme(name: str, better: Guard, straight: Callable[[Any, Any], Any]) -> Any:
    def extreme(*args: Any, key: Any = None, default: Any = _MISSING) -> Driven:
        if not args:
            message = f"{name} expected at least 1 argument, got 0"
            raise TypeError(message)
        if len(args) > 1 and default is not _MISSING:
            message = f"Cannot specify a default for {name}() with multiple positional arguments"
            raise TypeError(message)
        iterator = yield from open_iter(args[0] if len(args) == 1 else args)
        best = best_key = _MISSING
        while (item := (yield from advance(iterator))) is not END:
            value = item if key is None else (yield from call(key, item))
            if best is _MISSING:
                best, best_key = item, value
                continue
            pending = better(value, best_key)
            found = straight(value, best_key) if pending is None else (yield from pending)
            if (yield from do.truth(found)):
                best, best_key = item, value
        if best is not _MISSING:
            return best
        if default is _MISSING:
            raise ValueError(_EMPTY.format(name))
        return default

    return extreme


def _empty_message() -> str:
    try:
        min(())
    except ValueError as error:
        return str(error).replace("min", "{}")
    raise AssertionError


_EMPTY: Final = _empty_message()

register(min, _extreme("min", guards.compare("<"), operator.lt))
register(max, _extreme("max", guards.compare(">"), operator.gt))


class _Unknown(BaseException):
    """A comparison was made whose answer is not known yet."""


class _Key:
    """Stands for a key in a sort in C; its comparisons are answered from a list."""

    __slots__ = ("answers", "asked", "key")

    def __init__(self, key: Any, answers: Iterator[bool], asked: list[Any]) -> None:
        self.key = key
        self.answers = answers
        self.asked = asked

    def __lt__(self, other: _Key) -> bool:
        for answer in self.answers:
            return answer
        self.asked[:] = (self.key, other.key)
        raise _Unknown


def _order(keys: list[Any]) -> Driven:
    """The places of *keys* in order, where comparing two of them may suspend.

    The sort is C's own, so the comparisons are those that it makes inline, in their order. It
    cannot be suspended, so it is broken off at each comparison that it has not made before, and
    made anew when the answer is known.
    """
    if len(keys) > _SORTED_IN_C:
        return (yield from _merged(keys, list(range(len(keys)))))
    answers: list[bool] = []
    while True:
        asked: list[Any] = []
        given = iter(answers)
        stands = [_Key(key, given, asked) for key in keys]
        try:
            return sorted(range(len(keys)), key=stands.__getitem__)
        except _Unknown:
            pass
        answers.append((yield from _less(*asked)))


_SORTED_IN_C: Final = 64
"""As many keys take 300 comparisons; the work grows with their square."""


def _less(left: Any, right: Any) -> Driven:
    return (yield from do.truth((yield from do.compare("<", left, right))))


def _merged(keys: list[Any], places: list[int]) -> Driven:
    """The same for long lists: as stable, with other comparisons."""
    if len(places) < 2:
        return places
    middle = len(places) // 2
    left = yield from _merged(keys, places[:middle])
    right = yield from _merged(keys, places[middle:])
    merged: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if (yield from _less(keys[right[j]], keys[left[i]])):
            merged.append(right[j])
            j += 1
        else:
            merged.append(left[i])
            i += 1
    return merged + left[i:] + right[j:]


def _sort(items: list[Any], key: Any, reverse: bool) -> Driven:
    """The items in order; the keys are computed first and in order, as `list.sort` does."""
    keys = items if key is None else []
    if key is not None:
        for item in items:
            keys.append((yield from call(key, item)))
    if any(special_asks(type(each), "__lt__") for each in keys):
        if reverse:
            # As in C: stable, too.
            places = yield from _order(keys[::-1])
            return [items[-1 - place] for place in reversed(places)]
        return [items[place] for place in (yield from _order(keys))]
    order = iter(keys)
    try:
        return sorted(items, key=lambda _: next(order), reverse=reverse)
    except StopIteration as error:
        carrier = Carrier(error)
    raise carrier


def _sorted(iterable: Any, /, *, key: Any = None, reverse: Any = False) -> Driven:
    items = yield from drain(iterable, hints=True)
    return (yield from _sort(items, key, bool(reverse)))


def _list_sort(self: list[Any], /, *, key: Any = None, reverse: Any = False) -> Driven:
    # As in C: the list is empty while it is sorted, and whole again however that ends.
    items = list(self)
    list.clear(self)
    result = items
    try:
        result = yield from _sort(items, key, bool(reverse))
    finally:
        changed = bool(self)
        self[:] = result
    if changed:
        raise ValueError("list modified during sort")


register(sorted, _sorted)
register(list.sort, _list_sort)


class _Compared:
    """An item as `cmp_to_key` makes it: the function decides."""

    __slots__ = ("compare", "obj")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, compare: Callable[[Any, Any], Any], obj: Any) -> None:
        self.compare = compare
        self.obj = obj

    def __lt__(self, other: _Compared) -> bool:
        return self.compare(self.obj, other.obj) < 0  # type: ignore[no-any-return]

    def __gt__(self, other: _Compared) -> bool:
        return self.compare(self.obj, other.obj) > 0  # type: ignore[no-any-return]

    def __le__(self, other: _Compared) -> bool:
        return self.compare(self.obj, other.obj) <= 0  # type: ignore[no-any-return]

    def __ge__(self, other: _Compared) -> bool:
        return self.compare(self.obj, other.obj) >= 0  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return self.compare(self.obj, other.obj) == 0  # type: ignore[attr-defined, no-any-return]


for _target in vars(_Compared).values():
    if isinstance(_target, types.FunctionType):
        passes_calls_on(_target)


def _cmp_to_key(mycmp: Callable[[Any, Any], Any]) -> Driven:
    return done(functools.partial(_Compared, mycmp))


register(functools.cmp_to_key, _cmp_to_key)


def _bisect(insert: Callable[[Any, int, Any], None] | None, *, right: bool) -> Any:
    def standin(a: Any, x: Any, lo: int = 0, hi: int | None = None, *, key: Any = None) -> Driven:
        if lo < 0:
            raise ValueError("lo must be non-negative")
        wanted = x if insert is None or key is None else (yield from call(key, x))
        high = (yield from iteration.length(a)) if hi is None else hi
        while lo < high:
            middle = (lo + high) // 2
            value = yield from do.subscr(a, middle)
            if key is not None:
                value = yield from call(key, value)
            pair = (wanted, value) if right else (value, wanted)
            smaller = yield from do.truth((yield from do.compare("<", *pair)))
            if smaller == right:
                high = middle
            else:
                lo = middle + 1
        if insert is None:
            return lo
        return insert(a, lo, x)

    return standin


for _target in (bisect.bisect_left, bisect.bisect_right):
    register(_target, _bisect(None, right=_target is bisect.bisect_right))
for _target in (bisect.insort_left, bisect.insort_right):
    register(
        _target,
        _bisect(lambda a, at, x: a.insert(at, x), right=_target is bisect.insort_right),
    )
