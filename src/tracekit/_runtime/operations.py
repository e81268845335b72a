"""CPython's operators, in Python, with calls that may suspend.

Each function here is a generator function that does what one instruction does: the lookups, the
order of attempts, the default and the error texts of the C code, with every special method called
virtually. They are right for any operands; `guards.py` decides when one is needed. Attributes,
iteration, text and patterns have rules of their own, and files of their own: `attributes.py`,
`iteration.py`, `formatting.py`, `patterns.py`.

In hand-written generators a `StopIteration` travels as a `Carrier`, and is raised outside of
`except` blocks, or it would show up as somebody's `__context__`.
"""

from __future__ import annotations

import collections
import operator
from collections.abc import Callable
from types import WrapperDescriptorType
from typing import Any, Final

from .._protocol import END
from .attributes import get_attr
from .items import Driven
from .iteration import advance, drain, extend, iterates, length, open_or
from .resolve import bind, call, call_special, call_straight
from .special import MISSING, asks, can_ask, inherits, lookup, namespace_of, special, special_asks

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
            return call_straight(method, sequence, other)
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
    return call_straight(method, left, right)


_DICT_IOR: Final = namespace_of(dict)["__ior__"]


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
_OBJECT_NE: Final = namespace_of(object)["__ne__"]


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


UNARY_NAMES: Final = {"-": "__neg__", "+": "__pos__", "~": "__invert__"}


def unary(symbol: str, operand: Any) -> Driven:
    """`-x`, `+x` or `~x`."""
    method = special(type(operand), UNARY_NAMES[symbol])
    if method is MISSING:
        raise TypeError(f"bad operand type for unary {symbol}: '{type(operand).__name__}'")
    return (yield from call_special(method, operand))


def truth(obj: Any) -> Driven:
    """`bool(obj)`."""
    kind = type(obj)
    method = special(kind, "__bool__")
    if method is not MISSING and method is not None:
        if not asks(method):
            return call_straight(bool, obj)
        result = yield from call_special(method, obj)
        if result is not True and result is not False:
            raise TypeError(f"__bool__ should return bool, returned {type(result).__name__}")
        return result
    if special_asks(kind, "__len__"):
        return (yield from length(obj)) != 0
    return call_straight(bool, obj)


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
        return call_straight(operator.getitem, container, key)
    return (yield from call_special(method, container, key))


_DICT_GETITEM: Final = namespace_of(dict)["__getitem__"]
DEFAULTDICT_MISSING: Final = namespace_of(collections.defaultdict)["__missing__"]


def _dict_item(container: Any, kind: type, key: Any) -> Driven:
    """A dictionary's item, whose `__missing__` or default factory may ask."""
    if key in dict.keys(container):
        return call_straight(dict.__getitem__, container, key)
    method = special(kind, "__missing__")
    if method is DEFAULTDICT_MISSING and container.default_factory is not None:
        value = yield from call(container.default_factory)
        container[key] = value
        return value
    if method is MISSING or method is DEFAULTDICT_MISSING:
        return call_straight(dict.__getitem__, container, key)
    return (yield from call_special(method, container, key))


def store_subscr(container: Any, key: Any, value: Any) -> Driven:
    """`container[key] = value`."""
    if isinstance(container, list) and type(key) is slice and iterates(value):
        value = yield from drain(value, hints=True)
    yield from call_special(special(type(container), "__setitem__"), container, key, value)


def delete_subscr(container: Any, key: Any) -> Driven:
    """`del container[key]`."""
    yield from call_special(special(type(container), "__delitem__"), container, key)


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
