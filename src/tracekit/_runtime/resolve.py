"""Is this callable rewritten, and what is called in its place?

`resolve` answers `None` (call it as it stands), or a callable which takes the same arguments and
returns a generator to drive. It sees the callable only. Where the arguments decide (a builtin
with a stand-in, a library function that may be handed a callback), the answer is a *conditional*
call, which looks at the arguments and calls the original at once when none of them can ask.

`call` and those beside it are how generators of our own call what they are handed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import CO_GENERATOR
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any, Final

from .._protocol import HAND_WRITTEN, Carrier
from . import debuggers
from .items import Driven, LazyIterator, VirtualGenerator, carry, done, wrapper_of
from .registry import ATOMS, KNOWN, METHODS, QUIET, STANDINS, Conditional, Virtual, register
from .special import (
    MISSING,
    among,
    asks,
    function_asks,
    inherits,
    lasting,
    lookup,
    namespace_of,
    on_forget,
    remember,
    special,
    special_asks,
)
from .twins import MANY_FUNCTIONS, judge, may_overflow, twin_function

_PLAIN_CLASSES: set[type] = set()
CONDITIONAL: dict[FunctionType, Virtual] = {}
"""Library functions met in this run -> what looks for callbacks among their arguments."""
on_forget(CONDITIONAL.clear)

READY: dict[FunctionType, tuple[Any, Virtual]] = {}
"""Functions without cells that were met lately: (code, what is called in their place)."""
on_forget(READY.clear)


def _keep_ready(function: FunctionType, virtual: Any) -> None:
    if len(READY) >= MANY_FUNCTIONS:
        READY.clear()
    READY[function] = (function.__code__, virtual)


NO_CALLBACKS: Final[set[type]] = {*ATOMS, list, tuple, dict, set}
"""Types of arguments for which no library function is rewritten; grows."""

MAKES: Final[set[type]] = set()
"""Classes met in this run whose instances are made virtually."""
on_forget(MAKES.clear)


def resolve(callable_: Any) -> Virtual | None:
    """Find what rewritten code calls in place of *callable_*.

    Args:
        callable_: What stands in the call; any object.

    Returns:
        `None`: call it as it stands. Else a callable that takes the same arguments and returns
        the generator to drive.
    """
    kind = type(callable_)
    if kind is FunctionType:
        ready = READY.get(callable_)
        if ready is not None and ready[0] is callable_.__code__:
            return ready[1]
        if judge(callable_.__code__):
            return _rewritten(callable_)
        return _library_function(callable_)
    if kind is MethodType:
        return _method(callable_)
    if kind is BuiltinFunctionType:
        return _builtin(callable_)
    way = WAYS[kind] if among(kind, WAYS.keys()) else None
    if way is not None:
        return way(callable_)
    if inherits(type, kind):
        return _class(callable_)
    return _instance(callable_, kind)


def _rewritten(function: FunctionType) -> Virtual | None:
    code = function.__code__
    by_hand = HAND_WRITTEN.get(id(code))
    if by_hand is not None:
        _keep_ready(function, by_hand[1])
        return by_hand[1]
    twin = twin_function(function)
    if twin is None:
        return None
    virtual = wrapper_of(function, twin) if code.co_flags & CO_GENERATOR else twin
    # A function with cells, and one made inside another with defaults, holds somebody's values:
    # keeping it for the run would keep those.
    if (
        function.__closure__ is None
        and function.__kwdefaults__ is None
        and (function.__defaults__ is None or "<locals>" not in code.co_qualname)
        and not may_overflow()
    ):
        _keep_ready(function, virtual)
    return virtual


def _library_function(function: FunctionType) -> Virtual | None:
    """A Python function called as it stands, unless it is handed (or holds) something that asks."""
    code = function.__code__
    by_hand = HAND_WRITTEN.get(id(code))
    if by_hand is not None:
        return by_hand[1]
    standin = STANDINS.get(function)
    if standin is not None:
        return standin
    if code.co_name == "set_trace":
        return Conditional(function, _starting(function), _always)
    if function.__closure__ is not None:
        if function_asks(function):
            return _rewritten(function)
        return (
            None if not code.co_argcount and not code.co_flags & 12 else _with_callbacks(function)
        )
    kept = CONDITIONAL.get(function)
    if kept is not None:
        return kept
    if function.__globals__.get("__name__") in QUIET or _takes_nothing(function):
        return None
    kept = CONDITIONAL[function] = _with_callbacks(function)
    return kept


def _starting(function: Any) -> Virtual:
    start: Any = functools.partial(debuggers.start, function)
    made: Virtual = start
    return made


def _always(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    del args, kwargs
    return True


def _takes_nothing(function: FunctionType) -> bool:
    code = function.__code__
    return not (code.co_argcount or code.co_kwonlyargcount or code.co_flags & 12)


def _with_callbacks(function: FunctionType) -> Virtual:
    def rewritten(*args: Any, **kwargs: Any) -> Driven:
        twin = _rewritten(function)
        return done(function(*args, **kwargs)) if twin is None else twin(*args, **kwargs)

    return Conditional(function, rewritten, _a_callback_is_given)


def _a_callback_is_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(map(_is_callback, (*args, *kwargs.values()) if kwargs else args))


def _is_callback(value: Any) -> bool:
    """Say whether *value* is a callable, or a generator, of rewritten code.

    A class is none: a library that is handed one mostly does not make instances of it.
    """
    kind = type(value)
    if among(kind, NO_CALLBACKS):
        return False
    if kind is FunctionType or kind is MethodType or kind is functools.partial:
        return asks(value)
    if kind is VirtualGenerator or kind is LazyIterator:
        return True
    if not inherits(type, kind):
        method = special(kind, "__call__")
        if type(method) is FunctionType and asks(method):
            return True
    remember(NO_CALLBACKS, kind)
    return False


def _method(method: Any) -> Virtual | None:
    function = method.__func__
    if type(function) is FunctionType and judge(function.__code__):
        virtual = _rewritten(function)
    else:
        virtual = resolve(function)
    if virtual is None:
        return None
    # MethodType would be faster to call, but wants hashable nothing and works for any callable.
    return MethodType(virtual, method.__self__)


def _builtin(function: Any) -> Virtual | None:
    try:
        standin = STANDINS.get(function)
    except TypeError:
        return None
    if standin is not None:
        return standin
    found = METHODS.get(function.__name__)
    if found is None:
        return None
    owner = function.__self__
    for cls, conditional in found:
        if inherits(cls, type(owner)):
            return MethodType(conditional, owner)
    return None


def _method_descriptor(descriptor: Any) -> Virtual | None:
    return STANDINS.get(descriptor)


def _method_wrapper(wrapper: Any) -> Virtual | None:
    """A slot of a C class, bound: `super().__init__`, `[].__iter__`."""
    found = METHODS.get(wrapper.__name__)
    if found is None:
        return None
    for cls, conditional in found:
        if wrapper.__objclass__ is cls:
            return MethodType(conditional, wrapper.__self__)
    return None


def _partial(value: Any) -> Virtual | None:
    virtual = resolve(value.func)
    return None if virtual is None else functools.partial(virtual, *value.args, **value.keywords)


def _wrapped(value: Any) -> Virtual | None:
    """A `staticmethod` or `classmethod` object: called, it calls what it holds."""
    if type(value) is classmethod:  # not callable: its own error is raised by the call
        return None
    return resolve(value.__func__)


WAYS: Final[dict[type, Callable[[Any], Virtual | None]]] = {
    functools.partial: _partial,
    staticmethod: _wrapped,
    classmethod: _wrapped,
    MethodDescriptorType: _method_descriptor,
    WrapperDescriptorType: _method_descriptor,
    ClassMethodDescriptorType: _method_descriptor,
    MethodWrapperType: _method_wrapper,
}
"""How callables of one exact type are resolved; open to other files (`memoized.py`)."""


def _class(cls: Any) -> Virtual | None:
    try:
        if cls in _PLAIN_CLASSES:
            return None
        standin = STANDINS.get(cls)
    except TypeError:
        return None
    if standin is not None:
        return standin
    # A metaclass with a `__call__` of its own decides alone; left as it is.
    if special(type(cls), "__call__") is not _TYPE_CALL:
        return None
    if special_asks(cls, "__init__") or special_asks(cls, "__new__"):
        if type(cls) is type:
            MAKES.add(cls)
        return functools.partial(instantiate, cls)
    for name in ("__new__", "__init__"):
        found = special(cls, name)
        if type(found) is FunctionType or type(found) is staticmethod:
            return Conditional(cls, functools.partial(instantiate, cls), _a_callback_is_given)
        if _has_standin(found):
            return Conditional(cls, functools.partial(instantiate, cls), None)
    remember(_PLAIN_CLASSES, cls)
    if type(cls) is type and lasting(cls):
        KNOWN[cls] = True
    return None


_TYPE_CALL: Final = namespace_of(type)["__call__"]


def _has_standin(found: Any) -> bool:
    return type(found) in (WrapperDescriptorType, BuiltinFunctionType) and found in STANDINS


def instantiate(cls: Any, /, *args: Any, **kwargs: Any) -> Driven:
    """Generator: equivalent to `type.__call__(cls, *args, **kwargs)`."""
    new = special(cls, "__new__")
    if new is _OBJECT_NEW:
        init = special(cls, "__init__")
        if type(init) is FunctionType:
            ready = READY.get(init)
            virtual = ready[1] if ready is not None and ready[0] is init.__code__ else resolve(init)
            if virtual is not None:
                # An abstract class is told here.
                made = new(cls)
                result = yield from virtual(made, *args, **kwargs)
                if result is not None:
                    raise TypeError(_init_message(result))
                return made
    if type(new) is staticmethod:
        new = new.__func__
    elif type(new) is not FunctionType and type(new) is not BuiltinFunctionType:
        new = new.__get__(None, cls) if lookup(type(new), "__get__") is not MISSING else new
    if type(new) is BuiltinFunctionType and new not in STANDINS:
        made = new(cls, *args, **kwargs)
    else:
        made = yield from call(new, cls, *args, **kwargs)
    kind = type(made)
    if not inherits(cls, kind):
        return made
    init = special(kind, "__init__")
    virtual = resolve(init) if type(init) is FunctionType else None
    if virtual is not None:
        result = yield from virtual(made, *args, **kwargs)
    else:
        result = yield from call_special(init, made, *args, **kwargs)
    if result is not None:
        raise TypeError(_init_message(result))
    return made


def _init_message(result: object) -> str:
    return f"__init__() should return None, not '{type(result).__name__}'"


_OBJECT_NEW: Final = namespace_of(object)["__new__"]


def _instance(value: Any, kind: type) -> Virtual | None:
    method = special(kind, "__call__")
    if method is MISSING or type(method) is WrapperDescriptorType:
        if inherits(functools.partial, kind):
            return _partial(value)
        standin = None if method is MISSING else STANDINS.get(method)
        return None if standin is None else MethodType(standin, value)
    if type(method) is FunctionType:
        virtual = resolve(method)
        return None if virtual is None else MethodType(virtual, value)
    return resolve(bind(method, value))


def bind(found: Any, obj: Any) -> Any:
    """Bind what a class holds to an instance, as C does when it calls a special method."""
    kind = type(found)
    if kind is FunctionType:
        return MethodType(found, obj)
    get = lookup(kind, "__get__")
    return found if get is MISSING else get(found, obj, type(obj))


def call(function: Any, /, *args: Any, **kwargs: Any) -> Driven:
    """Generator: equivalent to `function(*args, **kwargs)`, which may suspend."""
    virtual = resolve(function)
    try:
        if virtual is None:
            return function(*args, **kwargs)
        driven = virtual(*args, **kwargs)
    except StopIteration as error:
        carrier = carry(error)
    else:
        return (yield from driven)
    raise carrier


def call_special(found: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Driven:
    """Generator: call what a class holds as a special method of *obj*."""
    if type(found) is FunctionType or type(found) is WrapperDescriptorType:
        return call(found, obj, *args, **kwargs)
    return call(bind(found, obj), *args, **kwargs)


def begin(function: Any, /, *args: Any) -> Driven:
    """As `call`, without a generator of its own in between where *function* is rewritten."""
    virtual = resolve(function)
    return call(function, *args) if virtual is None else virtual(*args)


def call_straight(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call something whose StopIteration must not end the generator that calls it."""
    try:
        return function(*args)
    except StopIteration as error:
        carrier = Carrier(error)
    raise carrier


def _debugger_starts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    del args, kwargs
    return debuggers.starts_one()


register(breakpoint, _starting(breakpoint), when=_debugger_starts, plain=frozenset())
