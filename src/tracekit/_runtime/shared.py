"""Names that several blocks of one run use.

A block that reads such a name asks before each load that is not known to be its own; each store
is reported. Both find the state of the block that runs them by its frame, so the code stays the
same for all runs. Blocks that share no name have none of this in them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Generator, Mapping
from functools import lru_cache, partial
from types import FrameType
from typing import Any, Final

from .._protocol import AwaitName, ask
from .special import mro_of


class SharedNames:
    """What one block knows of the names it shares, for as long as the block holds this.

    Attributes:
        pending: Names that an earlier block may bind, and this one has neither bound nor read.
        own: Names that this block has bound, with what it bound them to; `UNBOUND` once deleted.
    """

    __slots__ = ("__weakref__", "_frame", "own", "pending")

    def __init__(self, frame: FrameType, pending: frozenset[str]) -> None:
        self.pending = set(pending)
        self.own: dict[str, object] = {}
        # Held: the state is found by the frame's id.
        self._frame: FrameType | None = frame
        # Weak: an interrupt may fall in before anybody has it, or before `forget` is called. What
        # takes the entry away is made in C, where no interrupt falls in.
        key = id(frame)
        STATES[key] = weakref.ref(self, partial(STATES.pop, key))

    def forget(self) -> None:
        """The block has ended."""
        frame = self._frame
        if frame is not None:
            STATES.pop(id(frame), None)
            self._frame = None


STATES: Final[dict[int, weakref.ref[SharedNames]]] = {}


def _state_of(frame: FrameType) -> SharedNames | None:
    reference = STATES.get(id(frame))
    return None if reference is None else reference()


@lru_cache(maxsize=4096)
def shared_name(name: str) -> Callable[[], Generator[Any, Any, Any] | None]:
    """The guard of a load of *name*: None when it can be loaded as it stands."""

    def guard() -> Generator[Any, Any, Any] | None:
        state = _state_of(sys._getframe(1))
        if state is None or name not in state.pending:
            return None
        return _wait(state, name)

    return guard


def _wait(state: SharedNames, name: str) -> Generator[Any, Any, Any]:
    value = yield from ask(AwaitName(name))
    state.pending.discard(name)
    return value


@lru_cache(maxsize=4096)
def shared_store(name: str) -> Callable[[object], None]:
    """What a store to *name* reports to, before it is made."""

    def report(value: object) -> None:
        state = _state_of(sys._getframe(1))
        if state is not None:
            state.pending.discard(name)
            state.own[name] = value

    return report


def opens_block(manager: object) -> object:
    """Tell whether the object of a `with` takes its body's names when it is entered.

    Returns:
        `True`, or `None`.
    """
    for cls in mro_of(type(manager)):
        found = cls.__dict__.get("takes_names")
        if found is not None:
            return True if found is True else None
    return None


def report_bound(frame: FrameType, bindings: Mapping[str, object]) -> None:
    """Note what a block inside a block has bound in the frame of the outer one."""
    state = _state_of(frame)
    if state is not None:
        state.pending.difference_update(bindings)
        state.own.update(bindings)
