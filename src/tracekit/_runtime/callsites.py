"""The check of a call: what twins ask before each one, and what a call remembers.

The check gets copies of the callable and of its arguments, and says whether the call is virtual.
Calls are the most frequent thing that twins ask about, so nearly all are decided in a few lines
written for their number of arguments, from tables that other files fill (`resolve.py`,
`registry.py`); only the rest is resolved at length. What a call has met last is kept in its
`CallSite`, where the twin itself looks before it asks.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from .._bytecode.questions import NOTHING_MET, CallSite
from .items import Driven
from .registry import KNOWN, METHODS, STANDINS, Conditional, Virtual, register
from .resolve import CONDITIONAL, MAKES, NO_CALLBACKS, READY, call, instantiate, resolve
from .special import lasting, on_forget
from .twins import _KEPT_FUNCTIONS

_BUILT_IN: Final = frozenset({list, dict, set, str, tuple, bytes, deque})
"""Types whose methods are not worth remembering one by one."""

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


def _forget_ready() -> None:
    READY.clear()
    _empty_sites()


def defaults_change() -> None:
    """Some function is about to be given other defaults: twins have those they were made with."""
    _forget_ready()
    _KEPT_FUNCTIONS.clear()


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
        "CONDITIONAL": CONDITIONAL,
        "FunctionType": FunctionType,
        "KNOWN": KNOWN,
        "MAKES": MAKES,
        "METHODS": METHODS,
        "MethodType": MethodType,
        "NO_CALLBACKS": NO_CALLBACKS,
        "READY": READY,
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
        KNOWN[function] = True


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


def _limit_changes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # What is ready skips the check of the depth.
    _forget_ready()
    return False


register(sys.setrecursionlimit, call, when=_limit_changes, plain=frozenset())
