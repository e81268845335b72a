"""Stand-ins for C functions that call back, or iterate: what they are, and where each kind is.

C code cannot be suspended. So where rewritten code calls a builtin with something that may ask (a
suspending generator, a callback, an object with special methods of its own), the same thing is
done here, in Python, as a generator. For all other arguments the builtin itself is called.

A stand-in keeps the order of side effects, the results and the errors of what it stands for.
Importing this file fills the registry with all of them:

    lazies           give a `LazyIterator`: `map`, `zip`, `itertools`
    collecting       made of an iterable: `list`, `dict.update`, `str.join`
    ordering         compare: `sorted`, `min`, `bisect`
    conversions      one special method each: `len`, `str`, `int`, `print`
    function_forms   instructions as functions: `getattr`, `operator.add`
    class_bodies     the `class` statement
    memoized         `functools.lru_cache`
    here             folds (`sum`, `reduce`), `iter` and `next`, `list[int](...)`

To add one: a generator function with the parameters of the original, and `register`. Inside, call
the originals, and `call(f, ...)` for what was handed in.
"""

from __future__ import annotations

import functools
import math
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, Final

from .._bytecode.questions import Guard
from .._protocol import END, Carrier
from . import class_bodies as _class_bodies  # noqa: F401 - fills the registry
from . import collecting as _collecting  # noqa: F401 - fills the registry
from . import conversions as _conversions  # noqa: F401 - fills the registry
from . import function_forms as _function_forms  # noqa: F401 - fills the registry
from . import guards, iteration, lazies
from . import memoized as _memoized  # noqa: F401 - fills the registry
from . import operations as do
from . import ordering as _ordering  # noqa: F401 - fills the registry
from .items import Driven, ObjectIterator
from .iteration import advance, open_iter, open_or
from .registry import register
from .resolve import call, call_special, resolve
from .special import MISSING, among, lookup, special, special_asks
from .twins import passes_calls_on

_MISSING: Final = object()

# -- folds --------------------------------------------------------------------------------------


def _any(iterable: Any, /) -> Driven:
    iterator = yield from open_iter(iterable)
    while (item := (yield from advance(iterator))) is not END:
        if (yield from do.truth(item)):
            return True
    return False


def _all(iterable: Any, /) -> Driven:
    iterator = yield from open_iter(iterable)
    while (item := (yield from advance(iterator))) is not END:
        if not (yield from do.truth(item)):
            return False
    return True


def _folding(
    target: Any, guard: Guard, straight: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Driven]:
    """`sum` or `math.prod`: numbers first in C, which adds up floats in its own way."""

    def fold(iterable: Any, total: Any) -> Driven:
        iterator = yield from open_iter(iterable)
        numbers: list[Any] = []
        item: Any = END
        if among(type(total), _NUMBERS):
            while among(type(item := (yield from advance(iterator))), _NUMBERS):
                numbers.append(item)
            total = target(numbers, start=total)
        else:
            item = yield from advance(iterator)
        while item is not END:
            pending = guard(total, item)
            total = straight(total, item) if pending is None else (yield from pending)
            item = yield from advance(iterator)
        return total

    return fold


_NUMBERS: Final = frozenset({int, float, complex, bool})
_add_up: Final = _folding(sum, guards.binary(0), operator.add)
_multiply: Final = _folding(math.prod, guards.binary(5), operator.mul)


def _sum(iterable: Any, /, start: Any = 0) -> Driven:
    sum((), start)  # its own errors
    return _add_up(iterable, start)


def _prod(iterable: Any, /, *, start: Any = 1) -> Driven:
    return _multiply(iterable, start)


def _reduce(function: Any, sequence: Any, initial: Any = _MISSING, /) -> Driven:
    iterator = yield from open_or(sequence, "reduce() arg 2 must support iteration")
    value = initial
    while (item := (yield from advance(iterator))) is not END:
        value = item if value is _MISSING else (yield from call(function, value, item))
    if value is _MISSING:
        raise TypeError("reduce() of empty iterable with no initial value")
    return value


register(any, _any)
register(all, _all)
register(sum, _sum)
register(math.prod, _prod)
register(functools.reduce, _reduce)

# -- iter, next ---------------------------------------------------------------------------------


def _next(iterator: Any, default: Any = _MISSING, /) -> Driven:
    method = special(type(iterator), "__next__")
    if method is MISSING:
        raise TypeError(f"'{type(iterator).__name__}' object is not an iterator")
    if default is _MISSING:
        return (yield from call_special(method, iterator))
    try:
        return (yield from call_special(method, iterator))
    except Carrier:
        return default


def _iter(source: Any, sentinel: Any = _MISSING, /) -> Driven:
    if sentinel is not _MISSING:
        return lazies.call_until(source, sentinel)
    found = yield from open_iter(source)
    return found.target if type(found) is ObjectIterator else found


def _reversed(sequence: Any, /) -> Driven:
    kind = type(sequence)
    method = special(kind, "__reversed__")
    if method is not MISSING:
        return (yield from call_special(method, sequence))
    return lazies.backwards(sequence, (yield from iteration.length(sequence)))


register(next, _next, when=lambda args, _: bool(args) and special_asks(type(args[0]), "__next__"))
register(iter, _iter)
register(
    reversed,
    _reversed,
    when=lambda args, _: (
        bool(args)
        and any(special_asks(type(args[0]), n) for n in ("__reversed__", "__getitem__", "__len__"))
    ),
)

# -- generic classes ------------------------------------------------------------------------------


def _alias_call(alias: Any, /, *args: Any, **kwargs: Any) -> Driven:
    """`list[int](...)`, and the same of a user's class."""
    made = yield from call(alias.__origin__, *args, **kwargs)
    try:
        made.__orig_class__ = alias
    except (AttributeError, TypeError):
        pass
    return made


register(
    lookup(types.GenericAlias, "__call__"),
    _alias_call,
    when=lambda args, _: resolve(args[0].__origin__) is not None,
)
# The same in Python; it only passes the call on to the class.
passes_calls_on(lookup(type(typing.List[int]), "__call__"))  # noqa: UP006
