"""What the patterns of `match` do, in Python, with calls that may suspend.

The attributes that `case Class(...)` takes from its subject, and the values of `case {key: ...}`.
"""

from __future__ import annotations

from typing import Any, Final

from .attributes import get_attr
from .items import Driven
from .resolve import call, call_straight

_MATCH_ITSELF: Final = 1 << 22


def match_class(subject: Any, cls: Any, names: tuple[str, ...], count: int) -> Driven:
    """`case cls(...)`: the tuple of attributes, or None when it does not match."""
    if not isinstance(cls, type):
        raise TypeError("called match pattern must be a class")
    if not call_straight(isinstance, subject, cls):
        return None
    matched: list[Any] = []
    seen: list[str] = []
    if count:
        found = yield from _attr_or_none(cls, "__match_args__")
        itself = not found and bool(cls.__flags__ & _MATCH_ITSELF)
        args: Any = () if not found else found[0]
        if type(args) is not tuple:
            message = f"{cls.__name__}.__match_args__ must be a tuple (got {type(args).__name__})"
            raise TypeError(message)
        allowed = 1 if itself else len(args)
        if allowed < count:
            plural = "" if allowed == 1 else "s"
            message = (
                f"{cls.__name__}() accepts {allowed} positional sub-pattern{plural} ({count} given)"
            )
            raise TypeError(message)
        if itself:
            matched.append(subject)
        else:
            for name in args[:count]:
                if type(name) is not str:
                    message = f"__match_args__ elements must be strings (got {type(name).__name__})"
                    raise TypeError(message)
                if not (yield from _match_one(subject, cls, name, seen, matched)):
                    return None
    for name in names:
        if not (yield from _match_one(subject, cls, name, seen, matched)):
            return None
    return tuple(matched)


def _match_one(subject: Any, cls: type, name: str, seen: list[str], matched: list[Any]) -> Driven:
    if name in seen:
        message = f"{cls.__name__}() got multiple sub-patterns for attribute {name!r}"
        raise TypeError(message)
    seen.append(name)
    found = yield from _attr_or_none(subject, name)
    matched.extend(found)
    return bool(found)


def _attr_or_none(obj: Any, name: str) -> Driven:
    """A tuple with the attribute, or an empty one."""
    try:
        return ((yield from get_attr(obj, name)),)
    except AttributeError:
        return ()


def match_keys(subject: Any, keys: tuple[Any, ...]) -> Driven:
    """`case {key: ...}`: the tuple of values, or None when a key is missing."""
    get = yield from get_attr(subject, "get")
    missing = object()
    seen: set[Any] = set()
    values = []
    for key in keys:
        if key in seen:
            raise ValueError(f"mapping pattern checks duplicate key ({key!r})")
        seen.add(key)
        value = yield from call(get, key, missing)
        if value is missing:
            return None
        values.append(value)
    return tuple(values)
