"""Stand-ins for builtins that make a number, a text or a truth value of one object.

Nearly all of them call one special method of their argument, and look at the type of what it
returned: `one_method` registers those. Beside them stand `print` and `str.format`, which do it for
each of their arguments.
"""

from __future__ import annotations

import builtins
import math
import operator
import string
from collections.abc import Callable
from typing import Any

from . import formatting, iteration
from . import operations as do
from .attributes import can_ask_or_has
from .formatting import text_asks
from .items import Driven
from .registry import ATOMS, register
from .resolve import call, call_special
from .special import MISSING, asks, lookup, remember, special, special_asks
from .twins import passes_calls_on


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
