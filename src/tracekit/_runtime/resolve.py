"""Is this callable rewritten, and what is called in its place?

`resolve` answers `None` (call it as it stands), or a callable which takes the same arguments and
returns a generator to drive. It sees the callable only. Where the arguments decide (a builtin
with a stand-in, a library function that may be handed a callback), the answer is a *conditional*
call, which looks at the arguments and calls the original at once when none of them can ask.
"""

# This file is long: each kind of callable has its way to be called here, and they call one another.

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from inspect import CO_GENERATOR
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final

from .._bytecode.questions import NOTHING_MET, CallSite
from .._protocol import HAND_WRITTEN, Carrier
from . import debuggers
from .items import Driven, LazyIterator, VirtualGenerator, carry, done, wrapper_of
from .special import (
    LRU_CACHE,
    MISSING,
    among,
    any_can_ask,
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
from .twins import _KEPT_FUNCTIONS, MANY_FUNCTIONS, judge, may_overflow, twin_function

Virtual = Callable[..., Driven]

STANDINS: Final[dict[Any, Virtual]] = {}
"""Builtin, class, descriptor or library function -> the conditional call that stands for it."""

_METHODS: Final[dict[str, list[tuple[type, Virtual]]]] = {}
"""Name of a C method -> the classes that have a stand-in for it."""

_KNOWN: Final[dict[Any, Any]] = {}
"""Builtin function or class -> types of arguments with which it is straight, or True for all."""

_QUIET: Final[set[str]] = set()
_PLAIN_CLASSES: set[type] = set()
_CONDITIONAL: dict[FunctionType, Virtual] = {}
on_forget(_CONDITIONAL.clear)


def register(
    target: Any,
    standin: Virtual,
    *,
    when: Callable[[tuple[Any, ...], dict[str, Any]], bool] | None = None,
    plain: AbstractSet[type] | None = None,
) -> None:
    """Let *standin* take the place of *target* in calls made by rewritten code.

    Equivalent to `target(...)`, if *standin* is written well: it is used only for calls where an
    argument can ask.

    Args:
        target: A builtin function, a class, a method of a C class (`list.extend`), a slot of one
            (`list.__init__`), or a Python function of a library.
        standin: Generator function with the same parameters.
        when: Says from `(args, kwargs)` whether the stand-in is used; by default, when an
            argument, or the first element of one that is a list or tuple, can ask.
        plain: Types of arguments about which *when* need not be asked; may grow. By default
            numbers, strings and the like.
    """
    conditional = Conditional(target, standin, when)
    STANDINS[target] = conditional
    if type(target) in (BuiltinFunctionType, type):
        _KNOWN[target] = ATOMS if plain is None else plain
    if type(target) in (MethodDescriptorType, WrapperDescriptorType):
        _METHODS.setdefault(target.__name__, []).append((target.__objclass__, conditional))


def takes_no_callbacks(module: str) -> None:
    """Say that no function of a library's module calls or iterates what it is handed.

    Its functions are then called without a look at their arguments.

    Args:
        module: Full name, such as `"torch.nn.functional"`.
    """
    _QUIET.add(module)


class Conditional:
    """A call that is virtual only for some arguments.

    Rewritten code asks `chooses` with copies of the arguments and makes the call itself when the
    answer is no, so that a callee which looks at its caller finds the user's frame. Our own
    generators call it as it is.
    """

    __slots__ = ("_target", "chooses", "standin")

    def __init__(
        self,
        target: Any,
        standin: Virtual,
        when: Callable[[tuple[Any, ...], dict[str, Any]], bool] | None,
    ) -> None:
        self._target = target
        self.standin = standin
        self.chooses = _an_argument_can_ask if when is None else when

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Driven | None:
        """The generator to drive, or `None`: the original is called."""
        if not self.chooses(args, kwargs):
            return None
        try:
            return self.standin(*args, **kwargs)
        except TypeError:
            # Nothing has run yet: it was called wrongly, and the original says so in its words.
            return None

    def __call__(self, *args: Any, **kwargs: Any) -> Driven:
        driven = self.start(args, kwargs)
        return done(self._target(*args, **kwargs)) if driven is None else driven


def _an_argument_can_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any_can_ask(args) or (bool(kwargs) and any_can_ask(kwargs.values()))


_READY: dict[FunctionType, tuple[Any, Virtual]] = {}
"""Functions without cells that were met lately: (code, what is called in their place)."""
on_forget(_READY.clear)


def _keep_ready(function: FunctionType, virtual: Any) -> None:
    if len(_READY) >= MANY_FUNCTIONS:
        _READY.clear()
    _READY[function] = (function.__code__, virtual)


def _forget_ready() -> None:
    _READY.clear()
    _empty_sites()


def defaults_change() -> None:
    """Some function is about to be given other defaults: twins have those they were made with."""
    _forget_ready()
    _KEPT_FUNCTIONS.clear()


ATOMS: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, type(None), range, slice}
)
"""Types of arguments that no stand-in and no callback rule is for."""

_NO_CALLBACKS: Final[set[type]] = {*ATOMS, list, tuple, dict, set}
"""Types of arguments for which no library function is rewritten; grows."""

_BUILT_IN: Final = frozenset({list, dict, set, str, tuple, bytes, deque})
"""Types whose methods are not worth remembering one by one."""

_MAKES: Final[set[type]] = set()
"""Classes met in this run whose instances are made virtually."""
on_forget(_MAKES.clear)


_FILLED: Final[set[CallSite]] = set()
"""The sites that hold something of this run."""


@on_forget
def _empty_sites() -> None:
    for site in _FILLED:
        site.straight = site.function = site.code = site.twin = NOTHING_MET
    _FILLED.clear()


def _calls_twin(site: CallSite, function: FunctionType, ready: tuple[Any, Virtual]) -> None:
    """Let *site* call the twin of *function* without asking again."""
    site.function = function
    site.code, site.twin = ready
    _FILLED.add(site)


def _calls_straight(site: CallSite, callable_: Any) -> None:
    """Let *site* call *callable_* without asking, as nothing about its arguments matters."""
    site.straight = callable_
    _FILLED.add(site)


_CHECK: Final = """
def made_for(site):
  def check({parameters}):
    kind = type(callable_)
    if kind is MethodType:
        function = callable_.__func__
        if function is site.function and function.__code__ is site.code:
            return site.twin(callable_.__self__, {arguments})
        if type(function) is FunctionType:
            ready = READY.get(function)
            if ready is not None and ready[0] is function.__code__:
                remember(site, function, ready)
                return ready[1](callable_.__self__, {arguments})
    elif kind is FunctionType:
        ready = READY.get(callable_)
        if ready is not None:
            if ready[0] is callable_.__code__:
                remember(site, callable_, ready)
                return ready[1]({arguments})
        elif callable_ in CONDITIONAL:
            try:
                if {no_callback}:
                    return None
            except TypeError:
                pass
    elif kind is BuiltinFunctionType:
        known = KNOWN.get(callable_)
        if known is True:
            return calls_straight(site, callable_)
        try:
            if known is not None:
                if {plain}:
                    return None
            elif callable_.__name__ not in METHODS:
                if type(callable_.__self__) in BUILT_IN:
                    return None
                if callable_ not in STANDINS:
                    return learn(callable_)
        except TypeError:
            pass
    elif kind is type:
        if callable_ in MAKES:
            return instantiate(callable_, {arguments})
        known = KNOWN.get(callable_)
        try:
            if known is True or (known is not None and {plain}):
                return None
        except TypeError:
            pass
    return decide(site, callable_, ({values}), names)
  return check
"""
"""The check of a call with so many arguments.

Written once for each number and naming of arguments: a Python function that takes them as they
stand costs half of one that collects them, and nearly all calls are decided in the first lines.
Where a class has a metaclass without a hash, the look-ups fail, and the call is decided at length.
What is virtual is called here and not by the caller's own instruction: making a generator runs
nothing of the user's, and a bound method need not be made once more around the twin.
"""


def check(count: int, names: tuple[str, ...]) -> tuple[Callable[..., Driven | None], CallSite]:
    """What decides, from copies of the callable and its arguments, whether a call is virtual.

    Args:
        count: How many arguments there are.
        names: Of the keyword arguments, which stand last.

    Returns:
        The check of one call: takes the callable and the arguments, and returns `None` (make the
        call as it stands) or the generator to drive. And what that call knows beforehand.
    """
    site = CallSite()
    return _maker(count, names)(site), site


@functools.cache
def _maker(
    count: int, names: tuple[str, ...]
) -> Callable[[CallSite], Callable[..., Driven | None]]:
    """Makes checks of calls with so many arguments."""
    values = [f"value_{number}" for number in range(count)]
    plain = count - len(names)
    by_name = [f"{name}={value}" for name, value in zip(names, values[plain:], strict=True)]
    text = _CHECK.format(
        parameters=", ".join(["callable_", *values]),
        arguments=", ".join([*values[:plain], *by_name]),
        values="".join(f"{value}, " for value in values),
        plain=" and ".join(f"type({value}) in known" for value in values) or "False",
        no_callback=" and ".join(f"type({value}) in NO_CALLBACKS" for value in values) or "True",
    )
    namespace = {
        "__name__": __name__,
        "BUILT_IN": _BUILT_IN,
        "BuiltinFunctionType": BuiltinFunctionType,
        "CONDITIONAL": _CONDITIONAL,
        "FunctionType": FunctionType,
        "KNOWN": _KNOWN,
        "MAKES": _MAKES,
        "METHODS": _METHODS,
        "MethodType": MethodType,
        "NO_CALLBACKS": _NO_CALLBACKS,
        "READY": _READY,
        "STANDINS": STANDINS,
        "calls_straight": _calls_straight,
        "decide": _decide,
        "instantiate": instantiate,
        "learn": _learn,
        "names": names,
        "remember": _calls_twin,
    }
    exec(compile(text, __file__, "exec"), namespace)  # noqa: S102 - our own text
    made: Callable[[CallSite], Any] = namespace["made_for"]  # type: ignore[assignment]
    return made


def _learn(function: Any) -> None:
    """Remember a builtin without stand-in, if no object of the user's hangs on it."""
    owner = function.__self__
    if owner is None or type(owner) is ModuleType or (type(owner) is type and lasting(owner)):
        _KNOWN[function] = True


def _decide(
    site: CallSite, callable_: Any, values: tuple[Any, ...], names: tuple[str, ...]
) -> Driven | None:
    virtual: Any = resolve(callable_)
    if virtual is None:
        if type(callable_) is FunctionType and callable_.__closure__ is None:
            _calls_straight(site, callable_)
        return None
    count = len(names)
    if count:
        args, kwargs = values[:-count], dict(zip(names, values[-count:], strict=True))
    else:
        args, kwargs = values, {}
    virtual, args, kwargs = _opened(virtual, args, kwargs)
    if type(virtual) is Conditional:
        return virtual.start(args, kwargs)
    driven: Driven = virtual(*args, **kwargs)
    return driven


def check_spread(callable_: Any, args: Any, kwargs: Any = None) -> Virtual | None:
    """Decide for `f(*args, **kwargs)`: `None`, or what the call's own instruction calls."""
    virtual = resolve(callable_)
    if virtual is None:
        return None
    if type(args) not in (tuple, list) or (kwargs is not None and type(kwargs) is not dict):
        # An iterator can be read once only, and that is the call's part.
        return virtual
    inner, args, kwargs = _opened(virtual, tuple(args), dict(kwargs or {}))
    if type(inner) is Conditional and not inner.chooses(args, kwargs):
        return None
    return virtual


def _opened(virtual: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What is called in the end, past bound methods and partials, with which arguments."""
    while True:
        kind = type(virtual)
        if kind is MethodType:
            virtual, args = virtual.__func__, (virtual.__self__, *args)
        elif kind is functools.partial:
            virtual, args, kwargs = (
                virtual.func,
                (*virtual.args, *args),
                {**virtual.keywords, **kwargs},
            )
        else:
            return virtual, args, kwargs


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
        ready = _READY.get(callable_)
        if ready is not None and ready[0] is callable_.__code__:
            return ready[1]
        if judge(callable_.__code__):
            return _rewritten(callable_)
        return _library_function(callable_)
    if kind is MethodType:
        return _method(callable_)
    if kind is BuiltinFunctionType:
        return _builtin(callable_)
    way = _WAYS[kind] if among(kind, _WAYS.keys()) else None
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
    kept = _CONDITIONAL.get(function)
    if kept is not None:
        return kept
    if function.__globals__.get("__name__") in _QUIET or _takes_nothing(function):
        return None
    kept = _CONDITIONAL[function] = _with_callbacks(function)
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
    if among(kind, _NO_CALLBACKS):
        return False
    if kind is FunctionType or kind is MethodType or kind is functools.partial:
        return asks(value)
    if kind is VirtualGenerator or kind is LazyIterator:
        return True
    if not inherits(type, kind):
        method = special(kind, "__call__")
        if type(method) is FunctionType and asks(method):
            return True
    remember(_NO_CALLBACKS, kind)
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
    found = _METHODS.get(function.__name__)
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
    found = _METHODS.get(wrapper.__name__)
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


def _cached(wrapper: Any) -> Virtual | None:
    return functools.partial(_cached_call, wrapper) if asks(wrapper) else None


_WAYS: Final[dict[type, Callable[[Any], Virtual | None]]] = {
    functools.partial: _partial,
    staticmethod: _wrapped,
    classmethod: _wrapped,
    LRU_CACHE: _cached,
    MethodDescriptorType: _method_descriptor,
    WrapperDescriptorType: _method_descriptor,
    ClassMethodDescriptorType: _method_descriptor,
    MethodWrapperType: _method_wrapper,
}


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
            _MAKES.add(cls)
        return functools.partial(instantiate, cls)
    for name in ("__new__", "__init__"):
        found = special(cls, name)
        if type(found) is FunctionType or type(found) is staticmethod:
            return Conditional(cls, functools.partial(instantiate, cls), _a_callback_is_given)
        if _has_standin(found):
            return Conditional(cls, functools.partial(instantiate, cls), None)
    remember(_PLAIN_CLASSES, cls)
    if type(cls) is type and lasting(cls):
        _KNOWN[cls] = True
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
            ready = _READY.get(init)
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


# functools.lru_cache: its cache is a C object. Two things make it reachable: the garbage
# collector shows the dictionary, and a hit never calls the function. So a hit is left to the
# original; after a miss the function is called virtually, and the value put into the dictionary.
# A bounded cache holds links of a private C type there, which nobody can make; for those the
# values computed in blocks are kept beside it, by the same key and bound.


def _cached_call(wrapper: Any, /, *args: Any, **kwargs: Any) -> Driven:
    parameters = wrapper.cache_parameters()
    maxsize, typed = parameters["maxsize"], parameters["typed"]
    if maxsize == 0:
        return (yield from call(wrapper.__wrapped__, *args, **kwargs))
    referents = gc.get_referents(wrapper)
    mark = next((x for x in referents if type(x) is object), None)
    key = _cache_key(mark, args, kwargs, typed=typed)
    own = wrapper.__dict__
    cache = next((x for x in referents if type(x) is dict and x is not own), None)
    if cache is not None and key in cache:
        return wrapper(*args, **kwargs)
    beside = _BESIDE.setdefault(wrapper, {})
    if key in beside:
        beside[key] = value = beside.pop(key)
        return value
    value = yield from call(wrapper.__wrapped__, *args, **kwargs)
    if maxsize is None and cache is not None:
        cache[key] = value
    else:
        beside[key] = value
        if maxsize is not None and len(beside) > maxsize:
            del beside[next(iter(beside))]
    return value


_BESIDE: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def clear_beside(wrapper: Any) -> None:
    """Drop what blocks have computed for a bounded cache; part of its `cache_clear()`."""
    _BESIDE.pop(wrapper, None)


def _cache_key(mark: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, typed: bool) -> Any:
    if not typed and not kwargs and len(args) == 1 and type(args[0]) in (int, str):
        return args[0]
    key = args
    if kwargs:
        key += (mark,)
        for item in kwargs.items():
            key += item
    if typed:
        key += tuple(type(value) for value in args)
        key += tuple(type(value) for value in kwargs.values())
    return key


def _limit_changes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # What is ready skips the check of the depth.
    _forget_ready()
    return False


register(sys.setrecursionlimit, call, when=_limit_changes, plain=frozenset())


def _debugger_starts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    del args, kwargs
    return debuggers.starts_one()


register(breakpoint, _starting(breakpoint), when=_debugger_starts, plain=frozenset())


def call_straight(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call something whose StopIteration must not end the generator that calls it."""
    try:
        return function(*args)
    except StopIteration as error:
        carrier = Carrier(error)
    raise carrier


def begin(function: Any, /, *args: Any) -> Driven:
    """As `call`, without a generator of its own in between where *function* is rewritten."""
    virtual = resolve(function)
    return call(function, *args) if virtual is None else virtual(*args)


def carrier_of(value: object) -> Carrier:
    """A `StopIteration(value)` as hand-written generators raise it."""
    return Carrier(StopIteration() if value is None else StopIteration(value))
