"""CPython's protocols, in Python, with calls that may suspend.

Each function here is a generator function that does what one instruction does: the lookups, the
order of attempts, the default and the error texts of the C code, with every special method called
virtually. They are right for any operands; `guards.py` decides when one is needed.

In hand-written generators a `StopIteration` travels as a `Carrier`, and is raised outside of
`except` blocks, or it would show up as somebody's `__context__`.
"""

# This file is long because it is a table: one short function for each protocol of the language,
# which nobody reads through but everybody looks something up in.

from __future__ import annotations

import collections
import operator
import re
from collections.abc import Callable
from types import FunctionType, WrapperDescriptorType
from typing import Any, Final

from .._protocol import END, Carrier, Item, Suspending
from .items import (
    Driven,
    LazyIterator,
    ObjectIterator,
    is_virtual,
)
from .resolve import begin, bind, call, call_special
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
    special_asks,
)
from .twins import twin_function

_OBJECT: Final = namespace_of(object)
OBJECT_GETATTRIBUTE: Final = _OBJECT["__getattribute__"]
OBJECT_SETATTR: Final = _OBJECT["__setattr__"]
OBJECT_DELATTR: Final = _OBJECT["__delattr__"]
_SUPER_GETATTRIBUTE: Final = namespace_of(super)["__getattribute__"]
_TYPE_GETATTRIBUTE: Final = namespace_of(type)["__getattribute__"]
_PROPERTY: Final = namespace_of(property)

# -- attributes ---------------------------------------------------------------------------------


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
    return _straight(OBJECT_GETATTRIBUTE, obj, name)


def _straight(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call something whose StopIteration must not end the generator that calls it."""
    try:
        return function(*args)
    except StopIteration as error:
        carrier = Carrier(error)
    raise carrier


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
                return _straight(getattr, obj, name)
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
    return _straight(getattr, cls, name)


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
        return _straight(getattr, obj, name)
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
        return _straight(OBJECT_SETATTR, obj, name, value)
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
        return _straight(OBJECT_DELATTR, obj, name)
    method = special(type(found), "__delete__")
    if method is _PROPERTY["__delete__"]:
        return (yield from call(PROPERTY_PARTS["__delete__"](found), obj))
    return (yield from call_special(method, found, obj))


# -- operators ----------------------------------------------------------------------------------

BINARY: Final[tuple[tuple[str, str, Callable[..., Any], Callable[..., Any]], ...]] = (
    ("+", "add", operator.add, operator.iadd),
    ("&", "and", operator.and_, operator.iand),
    ("//", "floordiv", operator.floordiv, operator.ifloordiv),
    ("<<", "lshift", operator.lshift, operator.ilshift),
    ("@", "matmul", operator.matmul, operator.imatmul),
    ("*", "mul", operator.mul, operator.imul),
    ("%", "mod", operator.mod, operator.imod),
    ("|", "or", operator.or_, operator.ior),
    ("**", "pow", operator.pow, operator.ipow),
    (">>", "rshift", operator.rshift, operator.irshift),
    ("-", "sub", operator.sub, operator.isub),
    ("/", "truediv", operator.truediv, operator.itruediv),
    ("^", "xor", operator.xor, operator.ixor),
)
"""By the oparg of BINARY_OP; in-place forms are 13 further on. (symbol, name, straight, in place)"""

_BY_NAME: Final = {name: (symbol, straight) for symbol, name, straight, _ in BINARY}
_BY_NAME["divmod"] = ("divmod()", divmod)


def _is_sequence_slot(method: Any) -> bool:
    """Say whether `+` or `*` of a C class is its sequence's, which comes after all numbers'."""
    return (
        type(method) is WrapperDescriptorType
        and lookup(method.__objclass__, "__radd__") is MISSING
        and method.__name__ in ("__add__", "__mul__", "__rmul__", "__iadd__", "__imul__")
    )


def binary(name: str, left: Any, right: Any, symbol: str = "") -> Driven:
    """`left <op> right`, by the name of the method without underscores."""
    result = yield from _binary_number(name, left, right)
    if result is not NotImplemented:
        return result
    mine, theirs = special(type(left), f"__{name}__"), special(type(right), f"__r{name}__")
    for method, sequence, other in ((mine, left, right), (theirs, right, left)):
        if _is_sequence_slot(method):
            if name == "mul" and special(type(other), "__index__") is MISSING:
                message = f"can't multiply sequence by non-int of type '{type(other).__name__}'"
                raise TypeError(message)
            return _straight(method, sequence, other)
    raise unsupported(symbol or _BY_NAME[name][0], left, right)


def unsupported(symbol: str, left: Any, right: Any) -> TypeError:
    """The interpreter's error for operands without the operator."""
    shown = {"**": "** or pow()", "**=": "**="}.get(symbol, symbol)
    return TypeError(
        f"unsupported operand type(s) for {shown}: "
        f"'{type(left).__name__}' and '{type(right).__name__}'"
    )


def _binary_number(name: str, left: Any, right: Any) -> Driven:
    kind, other = type(left), type(right)
    op, rop = f"__{name}__", f"__r{name}__"
    method, reflected = special(kind, op), special(other, rop)
    if _is_sequence_slot(method):
        method = MISSING
    if _is_sequence_slot(reflected):
        reflected = MISSING
    tried = kind is other
    refines = not tried and inherits(kind, other)
    if refines and reflected is not MISSING and special(kind, rop) is not reflected:
        # The right side's class refines the left's, with a method of its own: it comes first.
        tried = True
        result = yield from call_special(reflected, right, left)
        if result is not NotImplemented:
            return result
    if method is not MISSING:
        result = yield from call_special(method, left, right)
        if result is not NotImplemented:
            return result
    if not tried and reflected is not MISSING:
        return (yield from call_special(reflected, right, left))
    return NotImplemented


def inplace(name: str, left: Any, right: Any) -> Driven:
    """`left <op>= right`; returns what is bound to the target."""
    kind = type(left)
    method = special(kind, f"__i{name}__")
    sequence = _is_sequence_slot(method)
    if method is not MISSING and not sequence:
        if method is _DICT_IOR and iterates(right) and not isinstance(right, dict):
            right = yield from drain(right)
        result = yield from call_special(method, left, right)
        if result is not NotImplemented:
            return result
    if not sequence:
        return (yield from binary(name, left, right, _BY_NAME[name][0] + "="))
    result = yield from _binary_number(name, left, right)
    if result is not NotImplemented:
        return result
    if name == "add" and iterates(right):
        yield from extend(left, right)
        return left
    return _straight(method, left, right)


_DICT_IOR: Final = namespace_of(dict)["__ior__"]


def extend(target: Any, iterable: Any) -> Driven:
    """`target.extend(iterable)` of a list or deque: what came before an error stays."""
    append = (list if isinstance(target, list) else collections.deque).append
    iterator = yield from open_iter(iterable)
    if isinstance(target, list):
        yield from _hint(iterable)
    while (item := (yield from advance(iterator))) is not END:
        append(target, item)


REFLECTED: Final = {
    "<": "__gt__", ">": "__lt__", "<=": "__ge__", ">=": "__le__", "==": "__eq__", "!=": "__ne__",
}  # fmt: skip
COMPARISONS: Final = {
    "<": ("__lt__", operator.lt),
    ">": ("__gt__", operator.gt),
    "<=": ("__le__", operator.le),
    ">=": ("__ge__", operator.ge),
    "==": ("__eq__", operator.eq),
    "!=": ("__ne__", operator.ne),
}
_OBJECT_NE: Final = _OBJECT["__ne__"]


def compare(symbol: str, left: Any, right: Any) -> Driven:
    """`left <comparison> right`; whatever the method returns."""
    kind, other = type(left), type(right)
    op, rop = COMPARISONS[symbol][0], REFLECTED[symbol]
    tried = False
    if kind is not other and inherits(kind, other):
        tried = True
        result = yield from _compare_once(rop, right, left)
        if result is not NotImplemented:
            return result
    result = yield from _compare_once(op, left, right)
    if result is not NotImplemented:
        return result
    if not tried:
        result = yield from _compare_once(rop, right, left)
        if result is not NotImplemented:
            return result
    if symbol == "==":
        return left is right
    if symbol == "!=":
        return left is not right
    message = (
        f"'{symbol}' not supported between instances of '{kind.__name__}' and '{other.__name__}'"
    )
    raise TypeError(message)


def _compare_once(method_name: str, left: Any, right: Any) -> Driven:
    method = special(type(left), method_name)
    if method is MISSING:
        return NotImplemented
    if method is _OBJECT_NE:
        # The default `!=` is the opposite of the class's `==`.
        result = yield from _compare_once("__eq__", left, right)
        if result is NotImplemented:
            return result
        return not (yield from truth(result))
    return (yield from call_special(method, left, right))


def equal(left: Any, right: Any) -> Driven:
    """What C does to look for an element: identity first, then the truth of `==`."""
    if left is right:
        return True
    return (yield from truth((yield from compare("==", left, right))))


_UNARY: Final = {"-": "__neg__", "+": "__pos__", "~": "__invert__"}
UNARY_NAMES: Final = _UNARY


def unary(symbol: str, operand: Any) -> Driven:
    """`-x`, `+x` or `~x`."""
    method = special(type(operand), _UNARY[symbol])
    if method is MISSING:
        raise TypeError(f"bad operand type for unary {symbol}: '{type(operand).__name__}'")
    return (yield from call_special(method, operand))


def truth(obj: Any) -> Driven:
    """`bool(obj)`."""
    kind = type(obj)
    method = special(kind, "__bool__")
    if method is not MISSING and method is not None:
        if not asks(method):
            return _straight(bool, obj)
        result = yield from call_special(method, obj)
        if result is not True and result is not False:
            raise TypeError(f"__bool__ should return bool, returned {type(result).__name__}")
        return result
    if special_asks(kind, "__len__"):
        return (yield from length(obj)) != 0
    return _straight(bool, obj)


def length(obj: Any) -> Driven:
    """`len(obj)`."""
    method = special(type(obj), "__len__")
    if method is MISSING or not asks(method):
        return _straight(len, obj)
    result = operator.index((yield from call_special(method, obj)))
    if result < 0:
        raise ValueError("__len__() should return >= 0")
    return result


# -- containers ---------------------------------------------------------------------------------


def contains(item: Any, container: Any) -> Driven:
    """`item in container`."""
    kind = type(container)
    method = special(kind, "__contains__")
    if method is None:
        raise TypeError(f"'{kind.__name__}' object is not a container")
    if method is not MISSING:
        if method in _SEQUENCE_CONTAINS and can_ask(item):
            return (yield from _search(item, container))
        return (yield from truth((yield from call_special(method, container, item))))
    if special(kind, "__iter__") in (MISSING, None) and special(kind, "__getitem__") is MISSING:
        raise TypeError(f"argument of type '{kind.__name__}' is not iterable")
    return (yield from _search(item, container))


_SEQUENCE_CONTAINS: Final = (
    namespace_of(list)["__contains__"],
    namespace_of(tuple)["__contains__"],
)


def _search(item: Any, container: Any) -> Driven:
    iterator = yield from open_or(
        container, f"argument of type '{type(container).__name__}' is not iterable"
    )
    while (each := (yield from advance(iterator))) is not END:
        if (yield from equal(each, item)):
            return True
    return False


def subscr(container: Any, key: Any) -> Driven:
    """`container[key]`."""
    kind = type(container)
    method = special(kind, "__getitem__")
    if method is MISSING and inherits(type, kind):
        generic = lookup(container, "__class_getitem__")
        if generic is not MISSING and asks(generic):
            return (yield from call(generic.__get__(None, container), key))
    if method is _DICT_GETITEM:
        return (yield from _dict_item(container, kind, key))
    if method is MISSING:
        return _straight(operator.getitem, container, key)
    return (yield from call_special(method, container, key))


_DICT_GETITEM: Final = namespace_of(dict)["__getitem__"]
DEFAULTDICT_MISSING: Final = namespace_of(collections.defaultdict)["__missing__"]


def _dict_item(container: Any, kind: type, key: Any) -> Driven:
    """A dictionary's item, whose `__missing__` or default factory may ask."""
    if key in dict.keys(container):
        return _straight(dict.__getitem__, container, key)
    method = special(kind, "__missing__")
    if method is DEFAULTDICT_MISSING and container.default_factory is not None:
        value = yield from call(container.default_factory)
        container[key] = value
        return value
    if method is MISSING or method is DEFAULTDICT_MISSING:
        return _straight(dict.__getitem__, container, key)
    return (yield from call_special(method, container, key))


def store_subscr(container: Any, key: Any, value: Any) -> Driven:
    """`container[key] = value`."""
    if isinstance(container, list) and type(key) is slice and iterates(value):
        value = yield from drain(value, hints=True)
    yield from call_special(special(type(container), "__setitem__"), container, key, value)


def delete_subscr(container: Any, key: Any) -> Driven:
    """`del container[key]`."""
    yield from call_special(special(type(container), "__delitem__"), container, key)


# -- iteration ----------------------------------------------------------------------------------


def iterates(obj: Any) -> bool:
    """Say whether iterating *obj* may ask."""
    kind = type(obj)
    if is_virtual(kind):
        return True
    method = special(kind, "__iter__")
    if method is MISSING:
        return special(kind, "__iter__") is MISSING and special_asks(kind, "__getitem__")
    return (method is not None and asks(method)) or special_asks(kind, "__next__")


def collects(obj: Any) -> bool:
    """Say whether making a list or tuple of *obj* may ask: its length is asked for, too."""
    kind = type(obj)
    return iterates(obj) or special_asks(kind, "__len__") or special_asks(kind, "__length_hint__")


def open_iter(obj: Any) -> Driven:
    """`iter(obj)`: a `VirtualIterator` where the next items may ask, else an ordinary iterator."""
    kind = type(obj)
    if is_virtual(kind):
        return obj
    method = special(kind, "__iter__")
    if method is MISSING and special_asks(kind, "__getitem__"):
        return LazyIterator(_by_index(obj), _OLD_ITERATOR, sized=obj)
    if method is MISSING or method is None or not (asks(method) or special_asks(kind, "__next__")):
        return wrapped_iterator(_straight(iter, obj))
    found = yield from call_special(method, obj)
    if special(type(found), "__next__") is MISSING:
        raise TypeError(f"iter() returned non-iterator of type '{type(found).__name__}'")
    return wrapped_iterator(found)


def open_or(obj: Any, message: str) -> Driven:
    """`iter(obj)`, where C says *message* instead of any TypeError of `__iter__`."""
    try:
        return (yield from open_iter(obj))
    except TypeError:
        pass
    raise TypeError(message)


def wrapped_iterator(iterator: Any) -> Any:
    """An iterator as `for` wants it: in an `ObjectIterator` when its `__next__` may ask."""
    kind = type(iterator)
    if is_virtual(kind) or not special_asks(kind, "__next__"):
        return iterator
    method = special(kind, "__next__")
    return ObjectIterator(iterator, lambda: call_special(method, iterator))


class _Old:
    """Gives the class of the iterator over an object that only has `__getitem__`."""

    def __getitem__(self, index: int) -> None:
        raise IndexError


_OLD_ITERATOR: Final = type(iter(_Old()))


def _by_index(obj: Any) -> Driven:
    index = 0
    method = special(type(obj), "__getitem__")
    while True:
        try:
            item = yield from call_special(method, obj, index)
        except (IndexError, Carrier):
            return
        yield Item(item)
        index += 1


def advance(iterator: Any) -> Driven:
    """The next item of what `open_iter` returned, or `END`."""
    if is_virtual(type(iterator)):
        return (yield from iterator.step())
    try:
        return next(iterator)
    except StopIteration:
        return END


def drain(iterable: Any, *, hints: bool = False) -> Driven:
    """`list(iterable)`.

    Args:
        iterable: Any object.
        hints: Whether the length is asked for before the first item, as `list` and `tuple` do.
    """
    iterator = yield from open_iter(iterable)
    if hints:
        yield from _hint(iterable)
    if not is_virtual(type(iterator)):
        return _straight(list, iterator)
    items = []
    step = iterator.step
    while (item := (yield from step())) is not END:
        items.append(item)
    return items


def _hint(iterable: Any) -> Driven:
    """`operator.length_hint(iterable)`, for what its methods do on the way."""
    if type(iterable) is LazyIterator and iterable.sized is not None:
        iterable = iterable.sized
    kind = type(iterable)
    if special(kind, "__len__") is not MISSING:
        if special_asks(kind, "__len__"):
            try:
                yield from length(iterable)
            except TypeError:
                pass
    elif special_asks(kind, "__length_hint__"):
        try:
            yield from call_special(special(kind, "__length_hint__"), iterable)
        except TypeError:
            pass


def unpack(iterable: Any, count: int = -1, *, rest: bool = False) -> Driven:
    """A list of the items that an instruction looks at.

    Args:
        iterable: Any object.
        count: How many are wanted; one more is taken, to see that there is none. -1: all, made
            into a list or tuple, with a look at the length first.
        rest: Whether there is a starred target for those after the first *count*.
    """
    if count < 0:
        return (yield from drain(iterable, hints=True))
    iterator = yield from open_iter(iterable)
    items: list[Any] = []
    if rest:
        while len(items) < count:
            item = yield from advance(iterator)
            if item is END:
                return items
            items.append(item)
        # As in C: what is left is made a list of, which takes `iter()` of the iterator again.
        left = iterator.target if type(iterator) is ObjectIterator else iterator
        return items + (yield from drain(left, hints=True))
    while len(items) <= count and (item := (yield from advance(iterator))) is not END:
        items.append(item)
    return items


def mapping(obj: Any) -> Driven:
    """The dictionary that `{**obj}` would add."""
    made = {}
    keys = yield from call((yield from get_attr(obj, "keys")))
    for key in (yield from drain(keys)):
        made[key] = yield from subscr(obj, key)
    return made


# -- with ---------------------------------------------------------------------------------------


def enter(manager: Any) -> Driven:
    """The pair (what `__enter__` returned, the bound `__exit__`)."""
    kind = type(manager)
    entering, leaving = special(kind, "__enter__"), special(kind, "__exit__")
    if entering is MISSING or leaving is MISSING:
        missing = "" if entering is MISSING else " (missed __exit__ method)"
        message = f"'{kind.__name__}' object does not support the context manager protocol{missing}"
        raise TypeError(message)
    # The order of the interpreter: look both up, bind `__exit__`, then enter.
    exit_bound = bind(leaving, manager)
    value = yield from call_special(entering, manager)
    return value, exit_bound


def exit_error(leave: Any, error: BaseException) -> Driven:
    """What `__exit__(type, error, traceback)` returned."""
    return call(leave, type(error), error, error.__traceback__)


# -- text ---------------------------------------------------------------------------------------

_OBJECT_STR: Final = _OBJECT["__str__"]
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
        return _straight(repr, obj)
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
        return _straight(str, obj)
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
        return _straight(format, obj, spec)
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
        return _straight(operator.mod, "".join([*parts, text[copied:]]), made)
    return _straight(operator.mod, text, tuple(given))


def _shown(kind: str, value: Any) -> Driven:
    """What may take the place of *value* under `%kind`."""
    if not text_asks(value):
        return value
    if kind == "s":
        return (yield from to_str(value))
    return _Shown((yield from to_repr(value))) if kind in "ra" else value


# -- match --------------------------------------------------------------------------------------

_MATCH_ITSELF: Final = 1 << 22


def match_class(subject: Any, cls: Any, names: tuple[str, ...], count: int) -> Driven:
    """`case cls(...)`: the tuple of attributes, or None when it does not match."""
    if not isinstance(cls, type):
        raise TypeError("called match pattern must be a class")
    if not _straight(isinstance, subject, cls):
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


# -- raise --------------------------------------------------------------------------------------


def make_error(cls: Any) -> Driven:
    """What `raise cls` raises."""
    made = yield from call(cls)
    if not isinstance(made, BaseException):
        message = (
            f"calling {cls!r} should have returned an instance of BaseException, not {type(made)!r}"
        )
        raise TypeError(message)
    return made
