"""The closed set of words that a body may yield.

A request says what is wanted, never how it is found. It is immutable: the same object may be
asked for again and again. Who asked, and since when, is the worker's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .._protocol import AwaitName

if TYPE_CHECKING:
    from .flow import Barrier
    from .position import Loop

Key = tuple[str, str]
"""Path and port: what a visit and a request are matched by."""


class View(NamedTuple):
    """A part of a site's value that has a name of its own, such as `.input` of the arguments.

    `get` takes the site's value and gives the part; `put` takes the site's value and a new part
    and gives the new value of the site. Where a part may be a copy, `watch` takes it and the
    site's value, and gives a function that tells whether it was edited since: then it is put.
    """

    name: str
    get: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    watch: Callable[[Any, Any], Callable[[], bool]] | None = None


class Read:
    """The value at a port, as soon as the model stands there."""

    __slots__ = ("key", "owner", "view")

    def __init__(self, owner: object, path: str, port: str, view: View | None = None) -> None:
        self.owner = owner
        self.key: Key = (path, port)
        self.view = view

    @property
    def name(self) -> str:
        """The port as the user spelled it."""
        return self.key[1] if self.view is None else self.view.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key[0]!r}, {self.name!r})"


class Write(Read):
    """Replace the value at a port when the model stands there."""

    __slots__ = ("value",)

    def __init__(
        self, owner: object, path: str, port: str, value: object, view: View | None = None
    ) -> None:
        super().__init__(owner, path, port, view)
        self.value = value


class Skip(Read):
    """Let the module not run; `value` is its output."""

    __slots__ = ("value",)

    def __init__(self, owner: object, path: str, value: object) -> None:
        super().__init__(owner, path, "skip")
        self.value = value


class NextStep:
    """The next step of a loop over steps, when the model gets there."""

    __slots__ = ("loop",)

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __repr__(self) -> str:
        return f"NextStep({self.loop!r})"


class Meet:
    """All of a barrier's participants."""

    __slots__ = ("barrier",)

    def __init__(self, barrier: Barrier) -> None:
        self.barrier = barrier

    def __repr__(self) -> str:
        return f"Meet({self.barrier!r})"


class Stop:
    """The end of the run, for all blocks; never answered."""

    __slots__ = ("owner",)

    def __init__(self, owner: object) -> None:
        self.owner = owner


Request = Read | NextStep | AwaitName | Meet | Stop
