"""Stand-ins for functions that do what an instruction does.

`getattr` is the function form of `x.a`, `operator.add` and `divmod` are those of operators, and
`operator.attrgetter` makes one. So there is nothing to be written anew: the guard of the
instruction decides, and `operations.py` and those beside it do it. The slots of `object` and
`property` (`object.__getattribute__`, `property.__get__`), called by name, are of that kind, too.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Final

from .._bytecode.questions import Guard
from . import attributes, guards
from . import operations as do
from .attributes import can_ask_or_has
from .conversions import one_method
from .items import Driven
from .registry import register
from .resolve import call, call_special
from .special import MISSING, asks, lookup, special, special_asks

_MISSING: Final = object()
_straight: Any

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

# -- operators ----------------------------------------------------------------------------------


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
