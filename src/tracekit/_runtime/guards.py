"""The checks that twins make before an instruction: may it ask?

A guard is called with copies of the operands and says `None` (do the instruction as it stands) or
returns a generator to drive. Nearly always the answer is None, so each guard keeps the types for
which it has said so and looks there first. Classes of the standard library and of installed
packages stay in that set; users' classes are thrown out by `forget()` between runs, because a
notebook patches classes, and because the set would keep them alive.

A guard looks at types and class dictionaries only (`special.py`); what must be done when the
answer is not None is in `operations.py` and those beside it (`attributes.py`, `iteration.py`,
`formatting.py`, `patterns.py`).

Things that don't work: keys of `(type, name)` kept for ever (they go stale, and hold classes);
`id(type)` as the key (an id is used again after a class has died). A metaclass without a hash
makes the look-up fail, and its classes are judged anew each time.
"""

from __future__ import annotations

# This file is long: each kind of instruction has its guard here, and they share their lookups.
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from .._bytecode.questions import Guard, Hooks, Last
from .._protocol import Suspending
from . import attributes, formatting, iteration, patterns
from . import operations as do
from .attributes import OBJECT_DELATTR, OBJECT_GETATTRIBUTE, OBJECT_SETATTR, descriptor_asks
from .callsites import check, check_spread, defaults_change
from .delegation import delegate
from .items import (
    VIRTUAL_ITERATORS,
    Driven,
    VirtualIterator,
    carry,
    carry_generator,
    is_virtual,
    unwrap,
)
from .iteration import collects, iterates
from .operations import DEFAULTDICT_MISSING
from .resolve import begin, call_special, resolve
from .saving import saves
from .shared import opens_block, shared_name, shared_store
from .special import (
    MISSING,
    among,
    asks,
    class_asks,
    forget,
    forget_verdicts,
    inherits,
    instance_dict,
    lasting,
    lookup,
    namespace_of,
    on_forget,
    remember,
    special,
    special_asks,
)

__all__ = ["HOOKS", "forget"]

_NUMBERS: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, type(None), list, tuple, dict, set, frozenset}
)


def _kept(make: Callable[[str], Guard]) -> Callable[[str], Guard]:
    """One guard for each name: what twins share, they learn together."""
    return lru_cache(maxsize=None)(make)


_LASTS: Final[list[Last]] = []


def _with_last(guard: Callable[..., Driven | None], last: Last) -> Guard:
    """Let twins compare the type with the one that *guard* met last, before they call it."""
    guard.last = last  # type: ignore[attr-defined]
    _LASTS.append(last)
    return guard


@on_forget
def _forget_lasts() -> None:
    for last in _LASTS:
        last.kind = None


_IS_PLAIN: Final[Any] = object()


def _unless_plain(plain: set[type], decide: Callable[..., Any], where: int = 0) -> Guard:
    """A guard that says None about types it has met before, and asks *decide* about others.

    Args:
        plain: The types; grows.
        decide: Called with the operand's type and all operands. `_IS_PLAIN`: None, for all of
            that type.
        where: Which operand.
    """

    def guard(*operands: Any) -> Driven | None:
        kind = type(operands[where])
        try:
            if kind in plain:
                return None
        except TypeError:
            pass
        driven: Driven | None = decide(kind, *operands)
        if driven is not _IS_PLAIN:
            return driven
        remember(plain, kind)
        return None

    return guard


# -- attributes ---------------------------------------------------------------------------------


@_kept
def attr(name: str) -> Guard:
    """The guard of `obj.name`."""
    plain: set[type] = {ModuleType}
    plain_classes: set[type] = set()
    last = Last()
    ways: dict[type, tuple[Any, Any, Callable[[Any], Driven | None]]] = {}
    on_forget(ways.clear)

    def guard(obj: Any) -> Driven | None:
        kind = type(obj)
        try:
            known = ways.get(kind)
            if known is None and kind in plain:
                last.kind = kind
                return None
        except TypeError:
            known = None
        if known is not None:
            # A class of the user's may be patched meanwhile.
            look, found, known_way = known
            if look is None or look(name) is found:
                return known_way(obj)
        if kind is super:
            return _super_guard(obj, name)
        if inherits(type, kind):
            return _class_guard(obj, name, plain_classes)
        way = _way_of(kind, name)
        if way is None:
            remember(plain, kind)
            return None
        try:
            ways[kind] = (*_where(kind, name), way)
        except TypeError:
            pass
        return way(obj)

    watched = _WATCHED.get(name)
    if watched is not None:
        return _watching(watched[0], guard)
    return saves(guard) if name == "save" else _with_last(guard, last)


_WATCHED: Final[dict[str, tuple[Guard, Guard]]] = {}


def watch_attribute(name: str, read: Guard, write: Guard) -> None:
    """Let an attribute of other people's classes ask at times, whatever the class says.

    Equivalent to a `Suspending` descriptor in all classes, and nothing is patched. For twins that
    are made from now on.

    Args:
        name: The attribute.
        read: Called with the object, as a guard is.
        write: Called with the value and the object.
    """
    _WATCHED[name] = (read, write)
    attr.cache_clear()  # type: ignore[attr-defined]
    store_attr.cache_clear()  # type: ignore[attr-defined]


def _watching(first: Guard, then: Guard) -> Guard:
    def guard(*operands: Any) -> Driven | None:
        way = first(*operands)
        return then(*operands) if way is None else way

    return guard


def _where(kind: type, name: str) -> tuple[Callable[[str], Any] | None, Any]:
    """What tells whether *kind* has been patched: how to look *name* up, and what is found.

    None: a class that does not change.
    """
    if lasting(kind):
        return None, None
    own = namespace_of(kind)
    if name in own:
        return own.get, own[name]
    return partial(special, kind), special(kind, name)


def _super_guard(obj: Any, name: str) -> Driven | None:
    found, _, _ = attributes.super_find(obj, name)
    if found is MISSING or not descriptor_asks(found):
        return None
    return attributes.super_get(obj, name)


def _class_guard(cls: Any, name: str, plain: set[type]) -> Driven | None:
    try:
        if cls in plain:
            return None
    except TypeError:
        pass
    found = lookup(cls, name)
    if (
        found is MISSING
        or type(found) is property
        or inherits(Suspending, type(found))
        or not descriptor_asks(found)
    ):
        remember(plain, cls)
        return None
    return attributes.class_get(cls, name)


def _way_of(kind: type, name: str) -> Callable[[Any], Driven | None] | None:
    """How `obj.name` of an instance of *kind* may ask: None, or what decides for each object."""
    getattribute = special(kind, "__getattribute__")
    fallback = special(kind, "__getattr__")
    found = special(kind, name)
    if getattribute is not OBJECT_GETATTRIBUTE and asks(getattribute):
        return lambda obj: attributes.get_attr(obj, name)
    if fallback is MISSING or not asks(fallback):
        fallback = None
    if found is not MISSING and descriptor_asks(found):
        if inherits(Suspending, type(found)) and getattribute is OBJECT_GETATTRIBUTE:
            return found.ask_get  # type: ignore[no-any-return]
        if attributes.is_data_descriptor(type(found)):
            if special(kind, "__getattr__") is MISSING and getattribute is OBJECT_GETATTRIBUTE:
                if type(found) is property:
                    getter = found.fget
                    return lambda obj: begin(getter, obj)
                return lambda obj: attributes.descriptor_get(found, obj, kind)
            return lambda obj: attributes.get_attr(obj, name)

        def unless_own(obj: Any) -> Driven | None:
            own = instance_dict(obj, kind)
            return None if own is not None and name in own else attributes.get_attr(obj, name)

        return unless_own
    if fallback is None:
        return None
    if found is not MISSING and among(type(found), _NEVER_FAIL):
        return None

    def unless_there(obj: Any) -> Driven | None:
        own = instance_dict(obj, kind)
        if found is MISSING and own is not None and name in own:
            return None
        if found is MISSING and getattribute is OBJECT_GETATTRIBUTE:
            return call_special(special(kind, "__getattr__"), obj, name)
        return attributes.get_attr(obj, name)

    return unless_there


_NEVER_FAIL: Final = frozenset({FunctionType, staticmethod, classmethod, str, int})
"""What a class holds under a name that reading always finds; an unset slot is not such."""


@_kept
def super_attr(name: str) -> Guard:
    """The guard of `super().name` where it is one instruction."""

    def guard(maker: Any, cls: Any, instance: Any) -> Driven | None:
        if maker is not super:
            return None
        try:
            made = super(cls, instance)
        except TypeError:  # the instruction raises it itself
            return None
        return _super_guard(made, name)

    return guard


@_kept
def store_attr(name: str) -> Guard:
    """The guard of `obj.name = value`."""
    if name in _DEFAULTS:
        return _store_defaults
    plain: set[type] = {ModuleType}

    def guard(value: Any, obj: Any) -> Driven | None:
        kind = type(obj)
        try:
            if kind in plain:
                return None
        except TypeError:
            pass
        if _write_asks(kind, name, "__setattr__", OBJECT_SETATTR, "__set__"):
            return attributes.set_attr(obj, name, value)
        if inherits(type, kind):
            if not among(type(value), _NUMBERS):
                forget_verdicts()
            return None
        remember(plain, kind)
        return None

    watched = _WATCHED.get(name)
    return guard if watched is None else _watching(watched[1], guard)


_DEFAULTS: Final = frozenset({"__defaults__", "__kwdefaults__"})


def _store_defaults(*_: object) -> None:
    """The guard of changing a function's defaults: it is asked anew from here on."""
    defaults_change()


@_kept
def delete_attr(name: str) -> Guard:
    """The guard of `del obj.name`."""
    if name in _DEFAULTS:
        return _store_defaults

    def decide(kind: type, obj: Any) -> Any:
        asking = _write_asks(kind, name, "__delattr__", OBJECT_DELATTR, "__delete__")
        return attributes.del_attr(obj, name) if asking else _IS_PLAIN

    return _unless_plain({ModuleType}, decide)


def _write_asks(kind: type, name: str, method: str, default: Any, slot: str) -> bool:
    writing = special(kind, method)
    if writing is not default and asks(writing):
        return True
    found = special(kind, name)
    return found is not MISSING and descriptor_asks(found, slot)


# -- operators ----------------------------------------------------------------------------------


def _binary(op: int) -> Guard:
    """The guard of BINARY_OP with this oparg."""
    is_inplace = op >= len(do.BINARY)
    if do.BINARY[op % len(do.BINARY)][1] == "mod":
        return _percent(op, is_inplace=is_inplace)
    return _operator(op, is_inplace=is_inplace)


def _percent(op: int, *, is_inplace: bool) -> Guard:
    """The guard of `%`, which shows things when its left side is a string."""
    number = _operator(op, is_inplace=is_inplace)

    def guard(left: Any, right: Any) -> Driven | None:
        if type(left) is str and formatting.percent_asks(right):
            return formatting.percent(left, right)
        return number(left, right)

    return guard


def _operator(op: int, *, is_inplace: bool) -> Guard:
    _, name, _, _ = do.BINARY[op % len(do.BINARY)]
    plain: set[type] = set(_NUMBERS)
    names = (f"__{name}__", f"__r{name}__", *([f"__i{name}__"] if is_inplace else ()))
    perform = do.inplace if is_inplace else do.binary
    extends = is_inplace and name in ("add", "or")
    last = Last()

    def guard(left: Any, right: Any) -> Driven | None:
        kind = type(left)
        try:
            if kind in plain and type(right) in plain and (not extends or type(right) is kind):
                last.kind = kind
                return None
        except TypeError:
            pass
        other = type(right)
        asking = False
        for each in (kind,) if kind is other else (kind, other):
            if any(special_asks(each, method) for method in names):
                asking = True
            else:
                remember(plain, each)
        if asking or (extends and special(kind, names[2]) in _EXTENDING and iterates(right)):
            return perform(name, left, right)
        return None

    return _with_last(guard, last)


binary: Final[Callable[[int], Guard]] = lru_cache(maxsize=None)(_binary)

_EXTENDING: Final = frozenset(
    {lookup(list, "__iadd__"), lookup(deque, "__iadd__"), lookup(dict, "__ior__")}
)


@_kept
def compare(symbol: str) -> Guard:
    """The guard of a comparison."""
    plain: set[type] = set(_NUMBERS)
    names = {do.COMPARISONS[symbol][0], do.REFLECTED[symbol]}
    if symbol == "!=":
        names.add("__eq__")
    last = Last()

    def guard(left: Any, right: Any) -> Driven | None:
        kind, other = type(left), type(right)
        try:
            if kind in plain and other in plain:
                last.kind = kind
                return None
        except TypeError:
            pass
        asking = False
        for each in (kind,) if kind is other else (kind, other):
            if any(special_asks(each, method) for method in names):
                asking = True
            else:
                remember(plain, each)
        return do.compare(symbol, left, right) if asking else None

    return _with_last(guard, last)


def _guard_by_type(names: tuple[str, ...], perform: Callable[..., Driven], where: int = 0) -> Guard:
    """A guard which asks whether one of *names* of the operand's type may ask."""

    def decide(kind: type, *operands: Any) -> Any:
        for name in names:
            if special_asks(kind, name):
                return perform(*operands)
        return _IS_PLAIN

    return _unless_plain(set(_NUMBERS), decide, where)


@_kept
def unary(symbol: str) -> Guard:
    """The guard of `-x`, `+x` or `~x`."""
    return _guard_by_type((do.UNARY_NAMES[symbol],), lambda operand: do.unary(symbol, operand))


def _truth() -> Guard:
    plain: set[type] = set(_NUMBERS)
    last = Last()

    def truth(obj: Any) -> Driven | None:
        kind = type(obj)
        try:
            if kind in plain:
                last.kind = kind
                return None
        except TypeError:
            pass
        if special_asks(kind, "__bool__") or special_asks(kind, "__len__"):
            return do.truth(obj)
        remember(plain, kind)
        return None

    return _with_last(truth, last)


# -- containers ---------------------------------------------------------------------------------


def _contains() -> Guard:
    plain: set[type] = {str, bytes, dict, set, frozenset, range}
    plain_items: set[type] = set(_NUMBERS)

    def contains(item: Any, container: Any) -> Driven | None:
        kind = type(container)
        try:
            if kind in plain:
                return None
            if (kind is list or kind is tuple) and type(item) in plain_items:
                return None
        except TypeError:
            pass
        if kind is list or kind is tuple:
            if special_asks(type(item), "__eq__"):
                return do.contains(item, container)
            remember(plain_items, type(item))
            return None
        if special_asks(kind, "__contains__"):
            return do.contains(item, container)
        if special(kind, "__contains__") is MISSING and iterates(container):
            return do.contains(item, container)
        remember(plain, kind)
        return None

    return contains


def _subscr() -> Guard:
    plain: set[type] = set(_NUMBERS)
    plain_classes: set[type] = set()
    last = Last()

    def subscr(container: Any, key: Any) -> Driven | None:
        kind = type(container)
        try:
            if kind in plain:
                last.kind = kind
                return None
        except TypeError:
            pass
        if inherits(type, kind) and special(kind, "__getitem__") is MISSING:
            return _generic_guard(container, key, plain_classes)
        if special_asks(kind, "__getitem__") or special_asks(kind, "__missing__"):
            return do.subscr(container, key)
        if special(kind, "__missing__") is DEFAULTDICT_MISSING:
            # Here the object decides, not its type.
            return do.subscr(container, key) if asks(container.default_factory) else None
        remember(plain, kind)
        return None

    return _with_last(subscr, last)


def _generic_guard(cls: Any, key: Any, plain: set[type]) -> Driven | None:
    try:
        if cls in plain:
            return None
    except TypeError:
        pass
    found = lookup(cls, "__class_getitem__")
    if found is not MISSING and asks(found):
        return do.subscr(cls, key)
    remember(plain, cls)
    return None


def _store_subscr() -> Guard:
    def decide(kind: type, value: Any, container: Any, key: Any) -> Any:
        if special_asks(kind, "__setitem__"):
            return do.store_subscr(container, key, value)
        if inherits(list, kind):
            # `xs[1:2] = items`: here the value decides.
            asking = type(key) is slice and iterates(value)
            return do.store_subscr(container, key, value) if asking else None
        return _IS_PLAIN

    return _unless_plain(set(_NUMBERS - {list}), decide, where=1)


# -- iteration ----------------------------------------------------------------------------------


def _iteration(perform: Callable[..., Driven], *, keeps_ours: bool) -> Guard:
    plain: set[type] = {*_NUMBERS, range}

    def guard(obj: Any, *more: Any) -> Driven | None:
        kind = type(obj)
        try:
            if kind in plain:
                return None
        except TypeError:
            pass
        if is_virtual(kind):
            return None if keeps_ours else perform(obj, *more)
        if iterates(obj):
            return perform(obj, *more)
        if keeps_ours or not collects(obj):
            remember(plain, kind)
        elif not more:
            return perform(obj)
        return None

    return guard


def step(iterator: VirtualIterator) -> Driven:
    """The generator that returns the next item of an iterator that suspends, or `END`."""
    return iterator.step()


def _mapping() -> Guard:
    def decide(kind: type, obj: Any) -> Any:
        # A dictionary's own storage is read, whatever a subclass defines, if it keeps __iter__.
        if inherits(dict, kind) and special(kind, "__iter__") is _DICT_ITER:
            return _IS_PLAIN
        asking = special_asks(kind, "keys") or special_asks(kind, "__getitem__")
        return do.mapping(obj) if asking else _IS_PLAIN

    return _unless_plain({dict}, decide)


_DICT_ITER: Final = lookup(dict, "__iter__")


# -- with, text, match --------------------------------------------------------------------------


def exit_error(leave: Any, error: BaseException) -> Driven | None:
    """The guard of calling `__exit__` with an error."""
    is_python = type(leave) is MethodType or type(leave) is FunctionType or asks(leave)
    if is_python and resolve(leave) is not None:
        return do.exit_error(leave, error)
    return None


_TEXT: Final = {"": ("__format__", "__str__", "__repr__"), "s": ("__str__", "__repr__")}


@_kept
def text(conversion: str) -> Guard:
    """The guard of a replacement field with this conversion."""
    names = _TEXT.get(conversion, ("__repr__",))

    def decide(kind: type, obj: Any, spec: Any = None) -> Any:
        asking = any(special_asks(kind, name) for name in names)
        return formatting.formatted(conversion, obj, spec or "") if asking else _IS_PLAIN

    return _unless_plain(set(_NUMBERS), decide)


def match_class(subject: Any, cls: Any, names: Any, count: int) -> Driven | None:
    """The guard of `case cls(...)`: may an attribute of the subject ask?"""
    kind = type(subject)
    if special_asks(kind, "__getattribute__") or special_asks(kind, "__getattr__"):
        return patterns.match_class(subject, cls, names, count)
    wanted = names
    if count and inherits(type, type(cls)):
        args = lookup(cls, "__match_args__")
        if type(args) is tuple:
            wanted = (*args[:count], *names)
    for name in wanted:
        if type(name) is str:
            found = special(kind, name)
            if found is not MISSING and descriptor_asks(found):
                return patterns.match_class(subject, cls, names, count)
    return None


def match_keys(subject: Any, keys: Any) -> Driven | None:
    """The guard of `case {key: ...}`: may the subject's `get` ask?"""
    kind = type(subject)
    if kind is dict or not asks(special(kind, "get")):
        return None
    return patterns.match_keys(subject, keys)


def raised(error: Any) -> Driven | None:
    """The guard of `raise error`: a class, whose instance is made by the instruction."""
    kind = type(error)
    if inherits(type, kind) and inherits(BaseException, error) and class_asks(error):
        return do.make_error(error)
    return None


HOOKS: Final[Hooks] = Hooks(
    check=check,
    check_spread=check_spread,
    attr=attr,
    super_attr=super_attr,
    store_attr=store_attr,
    delete_attr=delete_attr,
    binary=binary,
    compare=compare,
    unary=unary,
    truth=_truth(),
    contains=_contains(),
    subscr=_subscr(),
    store_subscr=_store_subscr(),
    delete_subscr=_guard_by_type(("__delitem__",), do.delete_subscr),
    iter=_iteration(iteration.open_iter, keeps_ours=True),
    step=step,
    unpack=_iteration(
        lambda obj, count=-1, rest=False: iteration.unpack(obj, count, rest=rest), keeps_ours=False
    ),
    mapping=_mapping(),
    enter=_guard_by_type(("__enter__", "__exit__"), do.enter),
    exit_error=exit_error,
    format=text,
    match_class=match_class,
    match_keys=match_keys,
    length=_guard_by_type(("__len__",), iteration.length),
    raised=raised,
    delegate=delegate,
    unwrap=unwrap,
    carry=carry,
    carry_generator=carry_generator,
    virtual_iterators=VIRTUAL_ITERATORS,
    shared_name=shared_name,
    shared_store=shared_store,
    opens_block=opens_block,
)
"""What the checks in twins call."""

# The table of stand-ins fills itself on import; they are written with what stands above.
from . import standins as _standins  # noqa: E402, F401
