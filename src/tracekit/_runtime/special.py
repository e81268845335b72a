"""Which objects may ask: special methods found as CPython finds them, on the type.

Everything here looks and never touches: no attribute of a user's object is read through the
object, no `==`, no `isinstance` that a `__class__` property could answer. What is found out about
a class of the standard library or of an installed package is kept for ever, because those do not
change under a session; what is found out about a user's class is kept for one run.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from itertools import islice
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MethodType,
)
from typing import Any, Final

from .._protocol import HAND_WRITTEN
from . import twins
from .items import is_virtual
from .twins import is_rewritten_file, judge

MISSING: Final = object()
"""What `lookup` returns when there is nothing."""

mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
namespace_of: Callable[[type], MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__
inherits: Callable[[type, type], bool] = type.__subclasscheck__
"""`inherits(base, kind)`: no method of a metaclass is asked, unlike `base in kind.__mro__`."""
_qualname_of = type.__dict__["__qualname__"].__get__
_flags_of = type.__dict__["__flags__"].__get__
_HEAP_TYPE: Final = 1 << 9

LRU_CACHE: Final = type(functools.lru_cache(maxsize=None)(lambda: None))

SPECIALS: Final = frozenset(
    f"__{name}__"
    for name in (  # noqa: SIM905 - ninety quoted names read worse
        "abs add and bool bytes call complex contains delattr delete delitem divmod enter eq exit "
        "float floor floordiv format ge get getattr getattribute getitem gt hash iadd iand "
        "ifloordiv ilshift imatmul imod imul index int invert ior ipow irshift isub iter itruediv "
        "ixor le len length_hint lshift lt matmul missing mod mul ne neg next or pos pow radd rand "
        "rdivmod repr reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift "
        "rsub rtruediv rxor set setattr setitem str sub truediv trunc ceil xor"
    ).split()
)
"""Special methods that C code calls on its arguments, and that may ask."""

_OF_A_RUN: list[tuple[set[type], type]] = []
_MANY_CLASSES: Final = 4000
_MANY_VERDICTS: Final = 16_000
"""How much is remembered of classes: a notebook, or a loop around a `class`, makes new ones all day."""
_SPACES: dict[type, tuple[MappingProxyType[str, Any], ...]] = {}
_LASTING: dict[type, bool] = {}
_INERT: set[type] = {
    int, float, complex, bool, str, bytes, bytearray, type(None), type(Ellipsis),
    type(NotImplemented), list, tuple, dict, set, frozenset, range, slice, object,
    types.CodeType, types.ModuleType, types.CellType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.GeneratorType, types.CoroutineType,
}  # fmt: skip
_ON_FORGET: list[Callable[[], None]] = []


def lookup(kind: type, name: str) -> Any:
    """Find *name* in the classes of *kind*, in order; equivalent to C's `_PyType_Lookup`.

    Returns:
        What the class's dictionary holds, not bound to anything; or `MISSING`.
    """
    for base in mro_of(kind):
        found = namespace_of(base).get(name, MISSING)
        if found is not MISSING:
            return found
    return MISSING


def special(kind: type, name: str) -> Any:
    """Equivalent to `lookup(kind, name)`, and twice as fast.

    What was found is not remembered, only where to look: a class may be patched while a block
    runs, and by code that nobody sees.
    """
    try:
        spaces = _SPACES[kind]
    except KeyError:
        if len(_SPACES) >= _MANY_CLASSES:
            _SPACES.clear()
        spaces = _SPACES[kind] = tuple([namespace_of(base) for base in mro_of(kind)])
    except TypeError:  # a metaclass without hash
        return lookup(kind, name)
    for space in spaces:
        if name in space:
            return space[name]
    return MISSING


def special_asks(kind: type, name: str) -> bool:
    """Say whether the special method *name* of *kind* may ask."""
    try:
        return _VERDICTS[kind, name]
    except KeyError:
        found = lookup(kind, name)
        if len(_VERDICTS) >= _MANY_VERDICTS:
            _VERDICTS.clear()
        verdict = _VERDICTS[kind, name] = found is not MISSING and asks(found)
        return verdict
    except TypeError:  # a metaclass without hash
        found = lookup(kind, name)
        return found is not MISSING and asks(found)


_VERDICTS: dict[tuple[type, str], bool] = {}
_DEEP: Final = 4


def function_asks(function: FunctionType, depth: int = 0) -> bool:
    """Say whether a Python function is rewritten, or wraps one that is."""
    code = function.__code__
    if id(code) in HAND_WRITTEN or judge(code):
        return True
    # A wrapper made by a library (`torch.no_grad()` as a decorator): its cells hold user code.
    closure = function.__closure__
    if closure is not None and depth < _DEEP and code is not None and not twins.is_marked(code):
        for name, cell in zip(code.co_freevars, closure, strict=True):
            if name == "__class__":
                # For `super()`: the class around the method, which leads back to the method.
                continue
            try:
                inside = cell.cell_contents
            except ValueError:
                continue
            if asks(inside, depth + 1):
                return True
    return False


def among(kind: type, kinds: AbstractSet[type]) -> bool:
    """Equivalent to `kind in kinds`, for classes whose metaclass has no hash, too."""
    try:
        return kind in kinds
    except TypeError:
        return False


_NO_CALLABLES: Final = frozenset({str, int, tuple, list, dict})


def asks(value: object, depth: int = 0) -> bool:
    """Say whether calling *value* (or binding and calling it) may ask.

    Args:
        value: Any object; what may stand in a class for a special method, or in a call.
        depth: How many wrappers have been opened on the way here.

    Returns:
        False for whatever is no callable.
    """
    kind = type(value)
    if kind is FunctionType:
        return function_asks(value, depth)  # type: ignore[arg-type]
    if kind is types.WrapperDescriptorType or kind is BuiltinFunctionType or depth > _DEEP:
        return False
    any_value: Any = value
    if kind is MethodType or kind is staticmethod or kind is classmethod:
        return asks(any_value.__func__, depth + 1)
    if kind is functools.partial or kind is functools.partialmethod:
        return asks(any_value.func, depth + 1)
    if kind is LRU_CACHE:
        return asks(getattr(value, "__wrapped__", None), depth + 1)
    if inherits(type, kind):
        return class_asks(any_value)
    if among(kind, _NO_CALLABLES):
        return False
    method = special(kind, "__call__")
    return (
        method is not MISSING
        and type(method) is not types.WrapperDescriptorType
        and asks(method, depth + 1)
    )


def class_asks(cls: type) -> bool:
    """Say whether making an instance of *cls* may ask."""
    if lookup(type(cls), "__call__") is not type.__call__:
        return False
    return special_asks(cls, "__init__") or special_asks(cls, "__new__")


def lasting(kind: type) -> bool:
    """Say whether what is found out about *kind* may be kept for ever."""
    verdict = _LASTING.get(kind)
    if verdict is None:
        verdict = all(_is_library_class(base) for base in mro_of(kind))
        # Only the good news: the table must not hold users' classes.
        if verdict:
            _LASTING[kind] = True
    return verdict


def _is_library_class(kind: type) -> bool:
    if not _flags_of(kind) & _HEAP_TYPE:
        return True
    if "<locals>" in _qualname_of(kind):
        return False
    module = namespace_of(kind).get("__module__")
    found = sys.modules.get(module) if type(module) is str else None
    if found is None or module == "__main__":
        return False
    filename = getattr(found, "__file__", None)
    if type(filename) is not str:
        return module in sys.builtin_module_names or module in sys.stdlib_module_names
    # Plumbing is the library's, too: its classes do not change.
    return str(module).partition(".")[0] in sys.stdlib_module_names or not is_rewritten_file(
        filename
    )


def remember(plain: set[type], kind: type) -> None:
    """Add *kind* to a guard's set of plain types: for ever, or until `forget()`."""
    try:
        hash(kind)
        if not lasting(kind):
            if len(_OF_A_RUN) >= _MANY_CLASSES:
                forget_verdicts()
            _OF_A_RUN.append((plain, kind))
        plain.add(kind)
    except TypeError:  # a metaclass without hash: never remembered
        pass


def can_ask(value: object) -> bool:
    """Say whether C code that is handed *value* might call code that asks.

    Equivalent to "any special method of it may ask, or calling it may ask"; says nothing about
    what a container holds.
    """
    kind = type(value)
    try:
        if kind in _INERT:
            return False
    except TypeError:
        pass
    if is_virtual(kind):
        return True
    if kind is FunctionType or kind is MethodType or kind is functools.partial:
        return asks(value)
    if inherits(type, kind):
        return class_asks(value) or bool(type_can_ask(kind))  # type: ignore[arg-type]
    if kind is BuiltinFunctionType or kind is LRU_CACHE:
        return asks(value)
    if kind is operator.attrgetter or kind is operator.methodcaller:
        return True  # what they are applied to decides, which nobody can see yet
    if type_can_ask(kind):
        return True
    remember(_INERT, kind)
    return False


def type_can_ask(kind: type) -> bool:
    """Say whether any special method of *kind* may ask."""
    seen: set[str] = set()
    for base in mro_of(kind):
        names = SPECIALS & namespace_of(base).keys()
        for name in names - seen:
            if asks(namespace_of(base)[name]):
                return True
        seen |= names
    return False


def any_can_ask(values: Iterable[object]) -> bool:
    """Say whether one of *values* can ask, or is a container with an item that can.

    Of containers, the first thousand items of built-in ones count; what asks beyond those is
    refused where it asks.
    """
    for value in values:
        if among(type(value), _CONTAINERS):
            if value and _an_item_can_ask(value):
                return True
        elif can_ask(value):
            return True
    return False


_CONTAINERS: Final[frozenset[type]] = frozenset(
    {list, tuple, set, frozenset, deque, type({}.keys()), type({}.values()), type({}.items())}
)
_ITEMS_LOOKED_AT: Final = 1000


def _an_item_can_ask(container: Any) -> bool:
    if len(container) > _ITEMS_LOOKED_AT:
        container = tuple(islice(container, _ITEMS_LOOKED_AT))
    try:
        # Nearly always all items are numbers or the like, and this is done in C.
        if _INERT.issuperset(map(type, container)):
            return False
    except TypeError:
        pass
    return any(map(can_ask, container))


def instance_dict(obj: object, kind: type) -> Any:
    """The dictionary of an instance, past any `__dict__` that its class defines; or None."""
    for base in mro_of(kind):
        slot = namespace_of(base).get("__dict__")
        if type(slot) is GetSetDescriptorType:
            return slot.__get__(obj)
    return None


def on_forget(function: Callable[[], None]) -> Callable[[], None]:
    """Register what else must be dropped at the end of a run."""
    _ON_FORGET.append(function)
    return function


def forget() -> None:
    """Drop every verdict on users' classes and functions. Called between runs."""
    forget_verdicts()
    _SPACES.clear()
    twins.forget()


def forget_verdicts() -> None:
    """Drop every verdict on users' classes: one of them has been patched.

    Without this, what was straight stays so for the run, and a request made there is refused.
    """
    for plain, kind in _OF_A_RUN:
        plain.discard(kind)
    _OF_A_RUN.clear()
    _VERDICTS.clear()
    for function in _ON_FORGET:
        function()
