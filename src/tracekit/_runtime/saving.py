"""`x.save()` and `tracekit.save(x)`: which names are bound after a block under `keep="saved"`.

A saved object is remembered itself, so that its id is not given to another. That cannot tell one
small integer from another, which the interpreter shares; for such values the names that stand
beside the call in the block's own instructions are remembered instead.

`.save()` works on any object in rewritten code, by the check at its attribute load: nothing is
added to `object`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType, MethodType
from typing import Any, Final, TypeVar

from .._bytecode.names import names_beside
from .twins import ORIGINALS

_T = TypeVar("_T")

_SHARED_BY_THE_INTERPRETER: Final = frozenset(
    {int, bool, float, complex, str, bytes, type(None), type(...), range}
)


class Saved:
    """What was saved while a block ran."""

    __slots__ = ("__weakref__", "_names", "_objects")

    def __init__(self) -> None:
        self._objects: dict[int, object] = {}
        self._names: set[str] = set()

    def note(self, value: object, frame: FrameType) -> None:
        """Remember *value*, saved by the code that *frame* executes."""
        if not _is_shared(value, frame):
            self.keep(value)
            return
        twin = ORIGINALS.get(id(frame.f_code))
        if twin is None:
            return
        origin = twin.origin_of(frame.f_lasti)
        if origin is not None:
            self._names.update(names_beside(twin.original, origin))

    def keep(self, value: object) -> None:
        """Remember *value* itself."""
        self._objects[id(value)] = value

    def keeps(self, name: str, value: object) -> bool:
        """Whether *name*, which is bound to *value*, is bound after the block."""
        return name in self._names or id(value) in self._objects


def _is_shared(value: object, frame: FrameType) -> bool:
    """Whether other names may well hold the same object without anybody having meant it."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        return not value or any(value is const for const in frame.f_code.co_consts)
    return kind in _SHARED_BY_THE_INTERPRETER


class _Active(threading.local):
    def __init__(self) -> None:
        # Weak: an interrupt may leave one here, or end its block's frame late.
        self.saved: list[weakref.ref[Saved]] = []


_active: Final = _Active()


@contextmanager
def noting(saved: Saved) -> Iterator[None]:
    """While this lasts, what is saved in this thread is noted in *saved*."""
    reference = weakref.ref(saved)
    _active.saved = [*(each for each in _active.saved if each() is not None), reference]
    try:
        yield
    finally:
        _active.saved = [each for each in _active.saved if each is not reference]


def save(value: _T) -> _T:
    """Keep a value past the block: its name is bound afterwards, also under `keep="saved"`.

    Equivalent to the value itself, which is returned. With `keep="all"`, the default, every name
    of a block is bound afterwards, and this changes nothing.

    Args:
        value: Any object. In a block also `value.save()`, where the object has no `save` itself.

    Returns:
        The same object.

    Example:
        >>> import tracekit
        >>> tracekit.save([1, 2])
        [1, 2]
    """
    if _active.saved:
        frame = sys._getframe(1)
        for reference in _active.saved:
            saved = reference()
            if saved is not None:
                saved.note(value, frame)
    return value


def saves(guard: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The guard of `obj.save`: as *guard*, and ours where the object has none."""

    def save_guard(obj: Any) -> Any:
        way = guard(obj)
        if way is not None or hasattr(obj, "save"):
            return way
        return _given(MethodType(save, obj))

    return save_guard


def _given(value: object) -> Generator[Any, Any, object]:
    return value
    yield
