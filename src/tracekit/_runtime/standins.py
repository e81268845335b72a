"""Stand-ins for C functions that call back, or iterate: one open registry.

C code cannot be suspended. So where rewritten code calls a builtin with something that may ask (a
suspending generator, a callback, an object with special methods of its own), the same thing is
done here, in Python, as a generator. For all other arguments the builtin itself is called.

A stand-in keeps the order of side effects, the results and the errors of what it stands for. Lazy
ones (`map`, `zip`, `itertools`) give a `LazyIterator`, and live in `lazies.py`; those that are made
of an iterable (`list`, `dict.update`, `str.join`) in `collecting.py`.

To add one: a generator function with the parameters of the original, and `register`. Inside, call
the originals, and `call(f, ...)` for what was handed in.
"""

# This file is long because it is a table: one short function for each builtin, which nobody reads
# through but everybody looks something up in.

from __future__ import annotations

import bisect
import builtins
import functools
import math
import operator
import string
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final

from .._bytecode.questions import Guard
from .._protocol import END, Carrier
from . import attributes, formatting, guards, iteration, lazies
from . import collecting as _collecting  # noqa: F401 - fills the registry
from . import memoized as _memoized  # noqa: F401 - fills the registry
from . import operations as do
from .class_bodies import start_class_body
from .formatting import text_asks
from .items import Driven, ObjectIterator, done
from .iteration import advance, drain, open_iter, open_or
from .registry import ATOMS, register
from .resolve import call, call_special, resolve
from .special import (
    MISSING,
    among,
    any_can_ask,
    asks,
    can_ask,
    lookup,
    remember,
    special,
    special_asks,
)
from .twins import passes_calls_on

_MISSING: Final = object()
_LESS: Final = guards.compare("<")
_MORE: Final = guards.compare(">")
_ADD: Final = guards.binary(0)


_target: Any
_straight: Any

# -- folds --------------------------------------------------------------------------------------


def _items_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any_can_ask(args) or (bool(kwargs) and any_can_ask(kwargs.values()))


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
_add_up: Final = _folding(sum, _ADD, operator.add)
_multiply: Final = _folding(math.prod, guards.binary(5), operator.mul)


def _sum(iterable: Any, /, start: Any = 0) -> Driven:
    sum((), start)  # its own errors
    return _add_up(iterable, start)


def _prod(iterable: Any, /, *, start: Any = 1) -> Driven:
    return _multiply(iterable, start)


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

register(any, _any, when=_items_ask)
register(all, _all, when=_items_ask)
register(sum, _sum, when=_items_ask)
register(math.prod, _prod, when=_items_ask)
register(min, _extreme("min", _LESS, operator.lt), when=_items_ask)
register(max, _extreme("max", _MORE, operator.gt), when=_items_ask)


def _reduce(function: Any, sequence: Any, initial: Any = _MISSING, /) -> Driven:
    iterator = yield from open_or(sequence, "reduce() arg 2 must support iteration")
    value = initial
    while (item := (yield from advance(iterator))) is not END:
        value = item if value is _MISSING else (yield from call(function, value, item))
    if value is _MISSING:
        raise TypeError("reduce() of empty iterable with no initial value")
    return value


register(functools.reduce, _reduce)


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


register(sorted, _sorted, when=_items_ask)
register(
    list.sort,
    _list_sort,
    when=lambda args, kwargs: any_can_ask(kwargs.values()) or any_can_ask(args),
)


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

# -- attributes by name -------------------------------------------------------------------------


def _attr_may_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # The guard's generator is not started: dropping it does nothing.
    return len(args) > 1 and type(args[1]) is str and guards.attr(args[1])(args[0]) is not None


def _getattr(obj: Any, name: str, default: Any = _MISSING, /) -> Driven:
    if default is _MISSING:
        return (yield from attributes.get_attr(obj, name))
    try:
        return (yield from attributes.get_attr(obj, name))
    except AttributeError:
        return default


def _hasattr(obj: Any, name: str, /) -> Driven:
    try:
        yield from attributes.get_attr(obj, name)
    except AttributeError:
        return False
    return True


def _store_may_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (
        len(args) == 3
        and type(args[1]) is str
        and guards.store_attr(args[1])(args[2], args[0]) is not None
    )


def _delete_may_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return (
        len(args) == 2 and type(args[1]) is str and guards.delete_attr(args[1])(args[0]) is not None
    )


register(getattr, _getattr, when=_attr_may_ask)
register(hasattr, _hasattr, when=_attr_may_ask)
register(setattr, attributes.set_attr, when=_store_may_ask)
register(delattr, attributes.del_attr, when=_delete_may_ask)


def _generic(slot: str) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if len(args) < 2 or type(args[1]) is not str:
            return False
        found = special(type(args[0]), args[1])
        return found is not MISSING and attributes.descriptor_asks(found, slot)

    return when


def _property_part(slot: str) -> Callable[..., Driven]:
    part = attributes.PROPERTY_PARTS[slot]

    def perform(found: Any, obj: Any, *args: Any) -> Driven:
        # `__get__` is handed the class, too, which a getter is not.
        return call(part(found), obj, *(args if slot == "__set__" else ()))

    return perform


def _part_asks(slot: str) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    part = attributes.PROPERTY_PARTS[slot]

    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        # Without an object the property itself is what is read.
        return len(args) > 1 and args[1] is not None and asks(part(args[0]))

    return when


for _slot in attributes.PROPERTY_PARTS:
    register(lookup(property, _slot), _property_part(_slot), when=_part_asks(_slot))
register(attributes.OBJECT_GETATTRIBUTE, attributes.generic_get, when=_generic("__get__"))
register(attributes.OBJECT_SETATTR, attributes.generic_set, when=_generic("__set__"))
register(attributes.OBJECT_DELATTR, attributes.generic_del, when=_generic("__delete__"))

# -- one special method each --------------------------------------------------------------------


def one_method(
    target: Callable[..., Any], names: tuple[str, ...], perform: Callable[..., Driven]
) -> None:
    """Register *perform* for *target*, where its first argument's special methods may ask."""
    plain: set[type] = set(ATOMS)

    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if not args:
            return False
        kind = type(args[0])
        try:
            if kind in plain:
                return False
        except TypeError:
            pass
        for name in names:
            if special_asks(kind, name):
                return True
        remember(plain, kind)
        return False

    register(target, perform, when=when, plain=plain)


def _simple(
    name: str, check: type | tuple[type, ...] | None, error: str = ""
) -> Callable[..., Driven]:
    """A builtin that returns what the special method returned, after a look at its type."""

    def perform(obj: Any, /, *args: Any, **kwargs: Any) -> Driven:
        result = yield from call_special(special(type(obj), name), obj, *args, **kwargs)
        if check is not None and not isinstance(result, check):
            raise TypeError(error.format(type(result).__name__))
        return result

    return perform


def _number(kind: type, names: tuple[str, ...]) -> Callable[..., Driven]:
    def perform(obj: Any = 0, /, *args: Any) -> Driven:
        if not args:
            for name in names:
                method = special(type(obj), name)
                if method is not MISSING and asks(method):
                    result = yield from call_special(method, obj)
                    expected = int if name in ("__index__", "__int__", "__trunc__") else kind
                    if not isinstance(result, expected):
                        message = (
                            f"{name} returned non-{expected.__name__} "
                            f"(type {type(result).__name__})"
                        )
                        raise TypeError(message)
                    return kind(result)
                if method is not MISSING:
                    break
        return kind(obj, *args)

    return perform


def _round(number: Any, ndigits: Any = None) -> Driven:
    method = special(type(number), "__round__")
    more = () if ndigits is None else (ndigits,)
    return (yield from call_special(method, number, *more))


def _hash(obj: Any, /) -> Driven:
    result = yield from call_special(special(type(obj), "__hash__"), obj)
    if not isinstance(result, int):
        raise TypeError("__hash__ method should return an integer")
    return hash(result)


def _bool(obj: Any = False, /) -> Driven:
    return do.truth(obj)


def _str(obj: Any = "", /, *args: Any, **kwargs: Any) -> Driven:
    if args or kwargs:
        return str(obj, *args, **kwargs)
    return (yield from formatting.to_str(obj))


def _format(obj: Any, spec: str = "", /) -> Driven:
    return formatting.to_format(obj, spec)


def _ascii(obj: Any, /) -> Driven:
    return formatting.formatted("a", obj)


def _print(*values: Any, **kwargs: Any) -> Driven:
    sep, end = kwargs.pop("sep", None), kwargs.pop("end", None)
    flush = kwargs.pop("flush", False)
    write = builtins.print
    write(end="", **kwargs)  # its own errors
    # Piece by piece, as in C: what stands before a value is out when its `__str__` runs.
    for index, value in enumerate(values):
        if index:
            write(" " if sep is None else sep, end="", **kwargs)
        text = (yield from formatting.to_str(value)) if text_asks(value) else value
        write(text, end="", **kwargs)
    write(end="\n" if end is None else end, flush=flush, **kwargs)


one_method(len, ("__len__",), iteration.length)
one_method(bool, ("__bool__", "__len__"), _bool)
one_method(str, ("__str__", "__repr__"), _str)
one_method(repr, ("__repr__",), formatting.to_repr)
one_method(format, ("__format__", "__str__", "__repr__"), _format)
one_method(ascii, ("__repr__",), _ascii)
one_method(hash, ("__hash__",), _hash)
one_method(abs, ("__abs__",), _simple("__abs__", None))
one_method(round, ("__round__",), _round)
one_method(
    int, ("__int__", "__index__", "__trunc__"), _number(int, ("__int__", "__index__", "__trunc__"))
)
one_method(float, ("__float__", "__index__"), _number(float, ("__float__", "__index__")))
one_method(
    complex,
    ("__complex__", "__float__", "__index__"),
    _number(complex, ("__complex__", "__float__", "__index__")),
)
one_method(math.floor, ("__floor__",), _simple("__floor__", None))
one_method(math.ceil, ("__ceil__",), _simple("__ceil__", None))
one_method(math.trunc, ("__trunc__",), _simple("__trunc__", None))
one_method(
    operator.index,
    ("__index__",),
    _simple("__index__", int, "__index__ returned non-int (type {})"),
)
register(print, _print, when=lambda args, _: any(text_asks(value) for value in args))


class _Fields(tuple[Any, ...]):
    """Positional fields of a template; says in `str.format`'s words that there is none."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if index < len(self):
            return super().__getitem__(index)
        message = f"Replacement index {index} out of range for positional args tuple"
        raise IndexError(message)


class _NoFields(tuple[Any, ...]):
    """The same of `str.format_map`, which has no positional fields."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        raise ValueError("Format string contains positional fields")


def _text_format(text: str, /, *args: Any, **kwargs: Any) -> Driven:
    """`str.format`, by the class that does the same in Python."""
    return call(string.Formatter().vformat, text, _Fields(args), kwargs)


def _format_may_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args or not isinstance(args[0], str):
        return False
    values = (*args[1:], *kwargs.values())
    reaches_in = "." in args[0] or "[" in args[0]
    return any(text_asks(value) or (reaches_in and can_ask_or_has(value)) for value in values)


def _text_format_map(text: str, mapping: Any, /) -> Driven:
    return call(string.Formatter().vformat, text, _NoFields(), mapping)


def _map_may_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if len(args) != 2 or not isinstance(args[0], str):
        return False
    mapping = args[1]
    kind = type(mapping)
    return (
        special_asks(kind, "__getitem__")
        or special_asks(kind, "__missing__")
        or (isinstance(mapping, dict) and _format_may_ask((args[0], *mapping.values()), {}))
    )


register(str.format, _text_format, when=_format_may_ask)
register(str.format_map, _text_format_map, when=_map_may_ask)
for _name in ("vformat", "_vformat", "get_value", "get_field", "format_field", "convert_field"):
    passes_calls_on(lookup(string.Formatter, _name))


def _divmod(left: Any, right: Any, /) -> Driven:
    return do.binary("divmod", left, right)


def _pow(base: Any, exp: Any, mod: Any = None) -> Driven:
    if mod is not None:
        return call_special(special(type(base), "__pow__"), base, exp, mod)
    return do.binary("pow", base, exp)


def _operands_ask(*names: str) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        values = (*args, *kwargs.values())
        return any(special_asks(type(value), name) for value in values for name in names)

    return when


register(divmod, _divmod, when=_operands_ask("__divmod__", "__rdivmod__"))
register(pow, _pow, when=_operands_ask("__pow__", "__rpow__"))

# -- the operator module ------------------------------------------------------------------------


def _through_guard(guard: Guard, target: Callable[..., Any], *order: int) -> None:
    """Register a function of `operator` whose instruction has a guard."""

    def standin(*args: Any) -> Driven:
        pending: Driven | None = guard(*(args[place] for place in order))
        assert pending is not None
        return pending

    def when(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return len(args) == len(order) and guard(*(args[place] for place in order)) is not None

    register(target, standin, when=when)


for _index, (_, _, _plus, _in_place) in enumerate(do.BINARY):
    _through_guard(guards.binary(_index), _plus, 0, 1)
    _through_guard(guards.binary(_index + len(do.BINARY)), _in_place, 0, 1)
for _symbol, (_, _straight) in do.COMPARISONS.items():
    _through_guard(guards.compare(_symbol), _straight, 0, 1)
for _symbol, _straight in (("-", operator.neg), ("+", operator.pos), ("~", operator.invert)):
    _through_guard(guards.unary(_symbol), _straight, 0)
_through_guard(guards.HOOKS.truth, operator.truth, 0)
_through_guard(guards.HOOKS.contains, operator.contains, 1, 0)
_through_guard(guards.HOOKS.subscr, operator.getitem, 0, 1)
_through_guard(guards.HOOKS.store_subscr, operator.setitem, 2, 0, 1)
_through_guard(guards.HOOKS.delete_subscr, operator.delitem, 0, 1)


register(operator.call, call)


def _not(obj: Any, /) -> Driven:
    return not (yield from do.truth(obj))


one_method(operator.not_, ("__bool__", "__len__"), _not)


def _parts(getter: Any) -> tuple[Any, ...]:
    """The arguments an `attrgetter`, `itemgetter` or `methodcaller` was made with."""
    parts: tuple[Any, ...] = getter.__reduce__()[1]
    return parts


def _attrgetter(getter: Any, obj: Any, /) -> Driven:
    found = []
    for dotted in _parts(getter):
        value = obj
        for name in dotted.split("."):
            value = yield from attributes.get_attr(value, name)
        found.append(value)
    return found[0] if len(found) == 1 else tuple(found)


def _itemgetter(getter: Any, obj: Any, /) -> Driven:
    found = []
    for key in _parts(getter):
        pending = guards.HOOKS.subscr(obj, key)
        found.append(operator.getitem(obj, key) if pending is None else (yield from pending))
    return found[0] if len(found) == 1 else tuple(found)


def _methodcaller(caller: Any, obj: Any, /) -> Driven:
    kind, parts = caller.__reduce__()[:2]
    kwargs: dict[str, Any] = {}
    if isinstance(kind, functools.partial):  # with keywords: partial(methodcaller, name, **kw)
        parts, kwargs = (*kind.args, *parts), kind.keywords
    method = yield from attributes.get_attr(obj, parts[0])
    return (yield from call(method, *parts[1:], **kwargs))


for _kind, _perform in (
    (operator.attrgetter, _attrgetter),
    (operator.itemgetter, _itemgetter),
    (operator.methodcaller, _methodcaller),
):
    register(
        lookup(_kind, "__call__"),
        _perform,
        when=lambda args, _: len(args) > 1 and can_ask_or_has(args[1]),
    )


def can_ask_or_has(obj: Any) -> bool:
    """Say whether anything of *obj*'s class may ask: a special method, a property, a method."""
    if can_ask(obj):
        return True
    for base in type(obj).__mro__:
        for found in base.__dict__.values():
            if attributes.descriptor_asks(found) or (
                isinstance(found, types.FunctionType) and asks(found)
            ):
                return True
    return False


# -- classes ------------------------------------------------------------------------------------


def _build_class(
    body: Any, name: str, /, *bases: Any, metaclass: Any = None, **keywords: Any
) -> Driven:
    """`class name(*bases, metaclass=..., **keywords): body`."""
    resolved = types.resolve_bases(bases)
    if metaclass is not None:
        keywords["metaclass"] = metaclass
    meta, namespace, keywords = types.prepare_class(name, resolved, keywords)
    cell = yield from start_class_body(body, namespace)
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    made = yield from call(meta, name, resolved, namespace, **keywords)
    if isinstance(cell, types.CellType) and isinstance(made, type):
        try:
            held = cell.cell_contents
        except ValueError:
            message = (
                f"__class__ not set defining {name!r} as {made!r}. "
                "Was __classcell__ propagated to type.__new__?"
            )
            raise RuntimeError(message) from None
        if held is not made:
            message = f"__class__ set to {held!r} defining {name!r} as {made!r}"
            raise TypeError(message)
    return made


def _makes_class(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args) and asks(args[0])


register(builtins.__build_class__, _build_class, when=_makes_class)


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
