"""How CPython makes text of objects, in Python, with calls that may suspend.

`repr`, `str`, `format`, f-strings and `%`, with the special methods behind them called virtually:
which of them stands in for which, what they must return, and in which order a template's values
are shown.
"""

from __future__ import annotations

import operator
import re
from typing import Any, Final

from .items import Driven
from .operations import subscr
from .resolve import call_special, call_straight
from .special import MISSING, asks, namespace_of, special, special_asks

_OBJECT_STR: Final = namespace_of(object)["__str__"]
_FORMATS_AS_STR: Final = tuple(
    namespace_of(kind)["__format__"] for kind in (object, str, int, float, complex)
)
"""Where a format without specification is `str(obj)`, which a subclass may define."""


def text_asks(obj: Any) -> bool:
    """Say whether `str(obj)`, `repr(obj)` or `format(obj)` may ask."""
    kind = type(obj)
    return any(special_asks(kind, name) for name in ("__str__", "__repr__", "__format__"))


def to_repr(obj: Any) -> Driven:
    """`repr(obj)`."""
    method = special(type(obj), "__repr__")
    if not asks(method):
        return call_straight(repr, obj)
    result = yield from call_special(method, obj)
    if not isinstance(result, str):
        raise TypeError(f"__repr__ returned non-string (type {type(result).__name__})")
    return result


def to_str(obj: Any) -> Driven:
    """`str(obj)`."""
    method = special(type(obj), "__str__")
    if method is _OBJECT_STR:
        return (yield from to_repr(obj))
    if not asks(method):
        return call_straight(str, obj)
    result = yield from call_special(method, obj)
    if not isinstance(result, str):
        raise TypeError(f"__str__ returned non-string (type {type(result).__name__})")
    return result


def to_format(obj: Any, spec: str = "") -> Driven:
    """`format(obj, spec)`."""
    method = special(type(obj), "__format__")
    if not spec and method in _FORMATS_AS_STR:
        return (yield from to_str(obj))
    if not asks(method):
        return call_straight(format, obj, spec)
    result = yield from call_special(method, obj, spec)
    if not isinstance(result, str):
        raise TypeError(f"__format__ must return a str, not {type(result).__name__}")
    return result


def formatted(conversion: str, obj: Any, spec: str = "") -> Driven:
    """`f"{obj!conversion:spec}"`."""
    if not conversion:
        return (yield from to_format(obj, spec))
    if conversion == "s":
        text = yield from to_str(obj)
    else:
        text = yield from to_repr(obj)
        if conversion == "a":
            text = text.encode("ascii", "backslashreplace").decode("ascii")
    return format(text, spec) if spec else text


class _Shown:
    """Has a given `repr`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


_PERCENT: Final = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?[hlL]?(?P<kind>.)",
    re.DOTALL,
)


def percent_asks(values: Any) -> bool:
    """Say whether `text % values` may ask, because of what is shown."""
    if type(values) is tuple:
        return any(text_asks(value) for value in values)
    if type(values) is dict:
        return any(text_asks(value) for value in values.values())
    return text_asks(values)


def percent(text: str, values: Any) -> Driven:
    """`text % values`: what asks is made text first, in order; the rest is `%`'s."""
    keyed = not isinstance(values, tuple) and special(type(values), "__getitem__") is not MISSING
    given = list(values) if isinstance(values, tuple) else [values]
    made: dict[str, Any] = {}
    parts: list[str] = []
    index = copied = 0
    for match in _PERCENT.finditer(text):
        kind, key = match["kind"], match["key"]
        if kind == "%":
            continue
        if key is not None and keyed:
            # One key may be shown in several ways: each place gets a key of its own.
            place = str(len(made))
            made[place] = yield from _shown(kind, (yield from subscr(values, key)))
            start, stop = match.span("key")
            parts += [text[copied:start], place]
            copied = stop
            continue
        index += (match["width"] == "*") + (match["precision"] == "*")
        if index < len(given):
            given[index] = yield from _shown(kind, given[index])
        index += 1
    if made:
        return call_straight(operator.mod, "".join([*parts, text[copied:]]), made)
    return call_straight(operator.mod, text, tuple(given))


def _shown(kind: str, value: Any) -> Driven:
    """What may take the place of *value* under `%kind`."""
    if not text_asks(value):
        return value
    if kind == "s":
        return (yield from to_str(value))
    return _Shown((yield from to_repr(value))) if kind in "ra" else value
