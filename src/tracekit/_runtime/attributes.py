"""CPython's rules for attributes, in Python, with calls that may suspend.

What a class holds under a name, whether that is a descriptor, which of it and the instance's own
dictionary comes first, what `super()` and classes do otherwise: the lookups, their order, the
defaults and the error texts of the C code, with every descriptor and every `__getattribute__`
called virtually. The predicates here say whether reading through a descriptor may ask at all.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from .._protocol import Suspending
from .items import Driven
from .resolve import begin, call, call_special, call_straight
from .special import (
    MISSING,
    asks,
    can_ask,
    inherits,
    instance_dict,
    lookup,
    mro_of,
    namespace_of,
    special,
)
from .twins import twin_function

_OBJECT: Final = namespace_of(object)
OBJECT_GETATTRIBUTE: Final = _OBJECT["__getattribute__"]
OBJECT_SETATTR: Final = _OBJECT["__setattr__"]
OBJECT_DELATTR: Final = _OBJECT["__delattr__"]
_SUPER_GETATTRIBUTE: Final = namespace_of(super)["__getattribute__"]
_TYPE_GETATTRIBUTE: Final = namespace_of(type)["__getattribute__"]
_PROPERTY: Final = namespace_of(property)


def descriptor_asks(found: Any, slot: str = "__get__") -> bool:
    """Say whether the descriptor *found* may ask when it is read, set or deleted.

    Args:
        found: What a class's dictionary holds.
        slot: `"__get__"`, `"__set__"` or `"__delete__"`.
    """
    kind = type(found)
    if kind is FunctionType:
        return False
    if inherits(Suspending, kind):
        return slot != "__delete__"
    method = special(kind, slot)
    if method is MISSING:
        return False
    accessor = PROPERTY_PARTS.get(slot)
    if accessor is not None and method is _PROPERTY[slot]:
        return asks(accessor(found))
    return asks(method)


PROPERTY_PARTS: Final[dict[str, Callable[[Any], Any]]] = {
    "__get__": _PROPERTY["fget"].__get__,
    "__set__": _PROPERTY["fset"].__get__,
    "__delete__": _PROPERTY["fdel"].__get__,
}


def can_ask_or_has(obj: Any) -> bool:
    """Say whether anything of *obj*'s class may ask: a special method, a property, a method."""
    if can_ask(obj):
        return True
    for base in type(obj).__mro__:
        for found in base.__dict__.values():
            if descriptor_asks(found) or (isinstance(found, FunctionType) and asks(found)):
                return True
    return False


def descriptor_get(found: Any, obj: Any, owner: type) -> Driven:
    """Read through a descriptor; *obj* is None for a read from the class."""
    kind = type(found)
    if obj is not None and inherits(Suspending, kind):
        return found.ask_get(obj)  # type: ignore[no-any-return]
    method = special(kind, "__get__")
    if method is _PROPERTY["__get__"] and obj is not None:
        getter = PROPERTY_PARTS["__get__"](found)
        if getter is not None:
            return begin(getter, obj)
    return call_special(method, found, obj, owner)


def is_data_descriptor(kind: type) -> bool:
    """Say whether instances of *kind* come before an instance's own dictionary."""
    return special(kind, "__set__") is not MISSING or special(kind, "__delete__") is not MISSING


def generic_get(obj: Any, name: str) -> Driven:
    """`object.__getattribute__(obj, name)`."""
    kind = type(obj)
    found = special(kind, name)
    get = MISSING if found is MISSING else special(type(found), "__get__")
    if get is not MISSING and is_data_descriptor(type(found)) and descriptor_asks(found):
        return (yield from descriptor_get(found, obj, kind))
    if get is not MISSING and not is_data_descriptor(type(found)) and descriptor_asks(found):
        own = instance_dict(obj, kind)
        if own is None or name not in own:
            return (yield from descriptor_get(found, obj, kind))
    return call_straight(OBJECT_GETATTRIBUTE, obj, name)


def get_attr(obj: Any, name: str) -> Driven:
    """`obj.name`."""
    kind = type(obj)
    if kind is super:
        return (yield from super_get(obj, name))
    getattribute = special(kind, "__getattribute__")
    fallback = special(kind, "__getattr__")
    if getattribute is _TYPE_GETATTRIBUTE:
        return (yield from class_get(obj, name))
    if getattribute is not OBJECT_GETATTRIBUTE and not asks(getattribute):
        # A library's, or a C type's own: as it stands, unless a descriptor of the class asks.
        found = special(kind, name)
        if found is MISSING or not descriptor_asks(found):
            if fallback is MISSING or not asks(fallback):
                return call_straight(getattr, obj, name)
            reading: Driven = call_special(getattribute, obj, name)
        elif type(getattribute) is FunctionType:
            reading = call_special(getattribute, obj, name)
        else:
            reading = generic_get(obj, name)
    elif getattribute is OBJECT_GETATTRIBUTE:
        reading = generic_get(obj, name)
    else:
        reading = call_special(getattribute, obj, name)
    if fallback is MISSING:
        return (yield from reading)
    try:
        return (yield from reading)
    except AttributeError:
        pass
    return (yield from call_special(fallback, obj, name))


def class_get(cls: Any, name: str) -> Driven:
    """`cls.name` of a class: descriptors of the class itself may ask, its metaclass is let be."""
    meta = special(type(cls), name)
    if meta is MISSING or not is_data_descriptor(type(meta)):
        found = lookup(cls, name)
        if (
            found is not MISSING
            and type(found) is not property
            and not inherits(Suspending, type(found))
            and descriptor_asks(found)
        ):
            return (yield from descriptor_get(found, None, cls))
    return call_straight(getattr, cls, name)


def super_find(obj: Any, name: str) -> tuple[Any, Any, type]:
    """What `super_object.name` finds: (found or MISSING, instance or None, class)."""
    this = _SUPER_GETATTRIBUTE(obj, "__thisclass__")
    start = _SUPER_GETATTRIBUTE(obj, "__self_class__")
    instance = _SUPER_GETATTRIBUTE(obj, "__self__")
    if start is None or name == "__class__":
        return MISSING, None, type(obj)
    passed = False
    for base in mro_of(start):
        found = namespace_of(base).get(name, MISSING) if passed else MISSING
        if found is not MISSING:
            return found, instance, start
        passed = passed or base is this
    return MISSING, instance, start


def super_get(obj: Any, name: str) -> Driven:
    """`super().name`, with the `super` object made already."""
    found, instance, start = super_find(obj, name)
    if found is MISSING or not descriptor_asks(found):
        return call_straight(getattr, obj, name)
    # Bound to a class, `super` reads as from the class.
    return (yield from descriptor_get(found, None if instance is start else instance, start))


def set_attr(obj: Any, name: str, value: Any) -> Driven:
    """`obj.name = value`."""
    kind = type(obj)
    method = special(kind, "__setattr__")
    if method is OBJECT_SETATTR:
        return (yield from generic_set(obj, name, value))
    return (yield from _through(method, obj, name, value))


def _through(method: Any, obj: Any, *args: Any) -> Driven:
    """Call a `__setattr__` or `__delattr__`, a library's Python one virtually, too."""
    if type(method) is FunctionType and not asks(method):
        twin = twin_function(method)
        if twin is not None:
            return (yield from twin(obj, *args))
    return (yield from call_special(method, obj, *args))


def generic_set(obj: Any, name: str, value: Any) -> Driven:
    """`object.__setattr__(obj, name, value)`."""
    found = special(type(obj), name)
    if found is MISSING or not descriptor_asks(found, "__set__"):
        return call_straight(OBJECT_SETATTR, obj, name, value)
    kind = type(found)
    if inherits(Suspending, kind):
        return (yield from found.ask_set(obj, value))
    method = special(kind, "__set__")
    if method is _PROPERTY["__set__"]:
        return (yield from call(PROPERTY_PARTS["__set__"](found), obj, value))
    return (yield from call_special(method, found, obj, value))


def del_attr(obj: Any, name: str) -> Driven:
    """`del obj.name`."""
    method = special(type(obj), "__delattr__")
    if method is OBJECT_DELATTR:
        return (yield from generic_del(obj, name))
    return (yield from _through(method, obj, name))


def generic_del(obj: Any, name: str) -> Driven:
    """`object.__delattr__(obj, name)`."""
    found = special(type(obj), name)
    if found is MISSING or not descriptor_asks(found, "__delete__"):
        return call_straight(OBJECT_DELATTR, obj, name)
    method = special(type(found), "__delete__")
    if method is _PROPERTY["__delete__"]:
        return (yield from call(PROPERTY_PARTS["__delete__"](found), obj))
    return (yield from call_special(method, found, obj))
