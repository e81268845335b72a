"""Stand-ins for builtins and `itertools` that hand out items one at a time.

Each is the generator of an iterator: it yields an `Item` for each item, and requests in between.
`lazy` wraps it in a `LazyIterator` and registers it for calls whose arguments can ask.
"""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Callable, Generator
from typing import Any, Final

from .._protocol import END, Carrier, Item
from . import guards
from . import operations as do
from .items import Driven, LazyIterator
from .iteration import advance, drain, iterates, open_iter
from .registry import register
from .resolve import call
from .special import MISSING, any_can_ask, special

Items = Generator[Any, Any, Any]
_MISSING: Final = object()


def lazy(
    target: Any,
    items: Callable[..., Items],
    *,
    opens: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda args: args,
    when: Callable[[tuple[Any, ...], dict[str, Any]], bool] | None = None,
) -> None:
    """Register a lazy stand-in.

    Args:
        target: The class it stands for.
        items: Generator function: called with the arguments, the iterables among them opened.
        opens: From the positional arguments, those that are opened when the call is made (an
            object that is no iterable is an error there, not at the first item).
        when: As for `register`.
    """

    def standin(*args: Any, **kwargs: Any) -> Driven:
        opened = []
        wanted = opens(args)
        for value in args:
            if any(value is each for each in wanted):
                value = yield from open_iter(value)
            opened.append(value)
        return LazyIterator(items(*opened, **kwargs), target)

    register(target, standin, when=when)


def _nothing(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return ()


def _first(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[:1]


def _after_first(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args[1:]


def _map(function: Any, *iterators: Any) -> Items:
    while True:
        values = []
        for iterator in iterators:
            value = yield from advance(iterator)
            if value is END:
                return
            values.append(value)
        yield Item((yield from call(function, *values)))


def _filter(function: Any, iterator: Any) -> Items:
    while (item := (yield from advance(iterator))) is not END:
        kept = item if function is None or function is bool else (yield from call(function, item))
        if (yield from do.truth(kept)):
            yield Item(item)


def _filterfalse(function: Any, iterator: Any) -> Items:
    while (item := (yield from advance(iterator))) is not END:
        kept = item if function is None or function is bool else (yield from call(function, item))
        if not (yield from do.truth(kept)):
            yield Item(item)


def _zip(*iterators: Any, strict: bool = False) -> Items:
    if not iterators:
        return
    while True:
        values = []
        for index, iterator in enumerate(iterators):
            value = yield from advance(iterator)
            if value is END:
                if strict:
                    yield from _check_strict(index, iterators)
                return
            values.append(value)
        yield Item(tuple(values))


def _check_strict(index: int, iterators: tuple[Any, ...]) -> Driven:
    if index:
        plural = "" if index == 1 else "s 1-"
        where = f" {index}" if index == 1 else str(index)
        message = f"zip() argument {index + 1} is shorter than argument{plural}{where}"
        raise ValueError(message)
    for later in range(1, len(iterators)):
        if (yield from advance(iterators[later])) is not END:
            plural = "" if later == 1 else "s 1-"
            where = f" {later}" if later == 1 else str(later)
            message = f"zip() argument {later + 1} is longer than argument{plural}{where}"
            raise ValueError(message)


def _enumerate(iterator: Any, start: Any = 0) -> Items:
    index = operator.index(start)
    while (item := (yield from advance(iterator))) is not END:
        yield Item((index, item))
        index += 1


def _by_call(function: Any, sentinel: Any) -> Items:
    while True:
        value = yield from call(function)
        if (yield from do.equal(value, sentinel)):
            return
        yield Item(value)


_CALL_ITERATOR: Final = type(iter(int, 1))


def call_until(function: Any, sentinel: Any) -> LazyIterator:
    """`iter(function, sentinel)`."""
    if not callable(function):
        raise TypeError("iter(v, w): v must be callable")
    return LazyIterator(_by_call(function, sentinel), _CALL_ITERATOR)


def _backwards(sequence: Any, length: int) -> Items:
    for index in range(length - 1, -1, -1):
        try:
            pending = guards.HOOKS.subscr(sequence, index)
            item = sequence[index] if pending is None else (yield from pending)
        except (IndexError, Carrier):
            return
        yield Item(item)


def backwards(sequence: Any, length: int) -> LazyIterator:
    """`reversed(sequence)` of an object with `__len__` and `__getitem__`."""
    if special(type(sequence), "__getitem__") is MISSING:
        message = f"'{type(sequence).__name__}' object is not reversible"
        raise TypeError(message)
    return LazyIterator(_backwards(sequence, length), reversed, sized=sequence)


lazy(map, _map, opens=_after_first)
lazy(filter, _filter, opens=_after_first)
lazy(zip, _zip)

# -- itertools ----------------------------------------------------------------------------------


def _chain(*iterables: Any) -> Items:
    for iterable in iterables:
        iterator = yield from open_iter(iterable)
        while (item := (yield from advance(iterator))) is not END:
            yield Item(item)


def _chain_of(iterator: Any) -> Items:
    while (iterable := (yield from advance(iterator))) is not END:
        inner = yield from open_iter(iterable)
        while (item := (yield from advance(inner))) is not END:
            yield Item(item)


def _from_iterable(iterable: Any, /) -> Driven:
    return LazyIterator(_chain_of((yield from open_iter(iterable))), itertools.chain)


def _islice(iterator: Any, *bounds: Any) -> Items:
    limits = slice(*bounds)
    start, stop, stride = limits.start or 0, limits.stop, limits.step or 1
    index, wanted = 0, start
    while stop is None or index < stop:
        if index > wanted:  # pragma: no cover - a stride is at least 1
            return
        item = yield from advance(iterator)
        if item is END:
            return
        if index == wanted:
            wanted += stride
            yield Item(item)
            if stop is not None and wanted >= stop:
                # As in C: what lies between the last item and the stop is taken, too.
                for _ in range(index + 1, stop):
                    if (yield from advance(iterator)) is END:
                        return
                return
        index += 1


def _islice_call(iterable: Any, /, *bounds: Any) -> Driven:
    itertools.islice((), *bounds)  # its own errors
    iterator = yield from open_iter(iterable)
    return LazyIterator(_islice(iterator, *bounds), itertools.islice)


def _starmap(function: Any, iterator: Any) -> Items:
    while (args := (yield from advance(iterator))) is not END:
        if iterates(args):
            args = yield from drain(args)
        yield Item((yield from call(function, *args)))


def _takewhile(predicate: Any, iterator: Any) -> Items:
    while (item := (yield from advance(iterator))) is not END:
        if not (yield from do.truth((yield from call(predicate, item)))):
            return
        yield Item(item)


def _dropwhile(predicate: Any, iterator: Any) -> Items:
    dropping = True
    while (item := (yield from advance(iterator))) is not END:
        if dropping:
            dropping = yield from do.truth((yield from call(predicate, item)))
        if not dropping:
            yield Item(item)


_PLUS: Final = guards.binary(0)


def _accumulate(iterator: Any, func: Any = None, *, initial: Any = None) -> Items:
    total = initial
    if initial is None:
        total = yield from advance(iterator)
        if total is END:
            return
    yield Item(total)
    while (item := (yield from advance(iterator))) is not END:
        if func is not None:
            total = yield from call(func, total, item)
        else:
            pending = _PLUS(total, item)
            total = total + item if pending is None else (yield from pending)
        yield Item(total)


def _zip_longest(*iterators: Any, fillvalue: Any = None) -> Items:
    live = list(iterators)
    active = len(live)
    while active:
        values = []
        for index, iterator in enumerate(live):
            value = END if iterator is None else (yield from advance(iterator))
            if value is END:
                if iterator is not None:
                    active -= 1
                    live[index] = None
                    if not active:
                        return
                value = fillvalue
            values.append(value)
        yield Item(tuple(values))


def _compress(data: Any, selectors: Any) -> Items:
    selectors = yield from open_iter(selectors)
    while (item := (yield from advance(data))) is not END:
        chosen = yield from advance(selectors)
        if chosen is END:
            return
        if (yield from do.truth(chosen)):
            yield Item(item)


def _cycle(iterator: Any) -> Items:
    saved = []
    while (item := (yield from advance(iterator))) is not END:
        saved.append(item)
        yield Item(item)
    while saved:
        for item in saved:
            yield Item(item)


def _pairwise(iterator: Any) -> Items:
    before = yield from advance(iterator)
    if before is END:
        return
    while (item := (yield from advance(iterator))) is not END:
        yield Item((before, item))
        before = item


def _batched(iterator: Any, n: int, *, strict: bool = False) -> Items:
    while True:
        batch: list[Any] = []
        while len(batch) < n and (item := (yield from advance(iterator))) is not END:
            batch.append(item)
        if strict and batch and len(batch) < n:
            raise ValueError("batched(): incomplete batch")
        if batch:
            yield Item(tuple(batch))
        if len(batch) < n:
            return


class _Groups:
    """What a `groupby` and its groups share: where the iterator stands."""

    def __init__(self, iterator: Any, key: Any) -> None:
        self.iterator = iterator
        self.key = key
        self.item: Any = _MISSING
        self.current: Any = _MISSING
        self.target: Any = _MISSING
        self.group: object = None

    def advance(self) -> Driven:
        """Take one item; False at the end."""
        item = yield from advance(self.iterator)
        if item is END:
            return False
        self.current = item if self.key is None else (yield from call(self.key, item))
        self.item = item
        return True


def _groupby(iterator: Any, key: Any = None) -> Items:
    groups = _Groups(iterator, key)
    while True:
        groups.group = None
        while groups.current is _MISSING or (
            groups.target is not _MISSING and (yield from do.equal(groups.target, groups.current))
        ):
            if not (yield from groups.advance()):
                return
        groups.target = groups.current
        token = groups.group = object()
        yield Item((groups.current, LazyIterator(_group(groups, token), _GROUPER)))


def _group(groups: _Groups, token: object) -> Items:
    target = groups.target
    while groups.group is token:
        if groups.item is _MISSING and not (yield from groups.advance()):
            return
        if not (yield from do.equal(target, groups.current)):
            return
        item, groups.item = groups.item, _MISSING
        yield Item(item)


_GROUPER: Final = itertools._grouper  # type: ignore[attr-defined]


def _tee(iterable: Any, n: int = 2, /) -> Driven:
    if n < 0:
        raise ValueError("n must be >= 0")
    iterator = yield from open_iter(iterable)
    queues: list[collections.deque[Any]] = [collections.deque() for _ in range(n)]
    return tuple(LazyIterator(_teed(iterator, own, queues), _TEE) for own in queues)


def _teed(iterator: Any, own: Any, queues: list[Any]) -> Items:
    while True:
        if not own:
            item = yield from advance(iterator)
            if item is END:
                return
            for queue in queues:
                queue.append(item)
        yield Item(own.popleft())


_TEE: Final[type] = type(itertools.tee(())[0])


def _pooling(target: Any) -> None:
    """`product`, `permutations`, `combinations`: C reads all of the inputs at the call."""

    def standin(*args: Any, **kwargs: Any) -> Driven:
        values = []
        for value in args:
            # Not a comprehension: `yield from` cannot stand in one.
            values.append((yield from drain(value)) if iterates(value) else value)  # noqa: PERF401
        return target(*values, **kwargs)

    register(target, standin, when=lambda args, _: any(iterates(value) for value in args))


def _repeat_times(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any_can_ask(args) or any_can_ask(kwargs.values())


def _named(target: Any, items: Callable[..., Items], *names: str) -> None:
    """A lazy stand-in whose first parameter is an iterable that may be named in the call."""

    def standin(*args: Any, **kwargs: Any) -> Driven:
        kwargs.update(zip(names, args, strict=False))
        iterator = yield from open_iter(kwargs.pop(names[0]))
        return LazyIterator(items(iterator, **kwargs), target)

    register(target, standin, when=_repeat_times)


lazy(itertools.chain, _chain, opens=_nothing)
register(itertools.chain.from_iterable, _from_iterable)
register(itertools.islice, _islice_call, when=lambda args, _: bool(args) and iterates(args[0]))
lazy(itertools.starmap, _starmap, opens=_after_first)
lazy(itertools.takewhile, _takewhile, opens=_after_first)
lazy(itertools.dropwhile, _dropwhile, opens=_after_first)
lazy(itertools.filterfalse, _filterfalse, opens=_after_first)
lazy(itertools.zip_longest, _zip_longest)
lazy(itertools.cycle, _cycle, opens=_first)
lazy(itertools.pairwise, _pairwise, opens=_first)
_named(enumerate, _enumerate, "iterable", "start")
_named(itertools.accumulate, _accumulate, "iterable", "func")
_named(itertools.groupby, _groupby, "iterable", "key")
_named(itertools.compress, _compress, "data", "selectors")
if hasattr(itertools, "batched"):
    _named(itertools.batched, _batched, "iterable", "n")
register(itertools.tee, _tee, when=lambda args, _: bool(args) and iterates(args[0]))
for _target in (
    itertools.product,
    itertools.permutations,
    itertools.combinations,
    itertools.combinations_with_replacement,
):
    _pooling(_target)
