"""Names of a block that runs later than the line of its `with`, where names are a namespace.

In a module, a script or a notebook all blocks write into one namespace. A block of an invoke runs
when the lines around it are over, beside other blocks; it must see the names as they were at its
own `with` line, and what it binds itself. So it runs on a mapping of its own, which writes through.

A function made in such a block (a lambda, on 3.11 also a comprehension) reads globals from the
module itself, not from the mapping. The names that such functions read are put into the module
while the block runs, and taken out again when it suspends.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from .._protocol import UNBOUND


class OwnNames(dict[str, Any]):
    """The namespace of one block: names as they were, and those it binds; others from outside.

    Args:
        outside: The namespace of the code around the block; written through to.
        given: Names with the values that they had at the `with` line.
    """

    __slots__ = ("before", "bound", "outside")

    def __init__(self, outside: MutableMapping[str, Any], given: dict[str, object]) -> None:
        super().__init__({name: value for name, value in given.items() if value is not UNBOUND})
        self.outside = outside
        self.bound: set[str] = set()
        self.before: dict[str, object] = {}

    def __missing__(self, name: str) -> Any:
        if name in self.bound:
            raise KeyError(name)
        return self.outside[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._note(name)
        super().__setitem__(name, value)
        self.outside[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self and (name in self.bound or name not in self.outside):
            raise KeyError(name)
        self._note(name)
        self.pop(name, None)
        self.outside.pop(name, None)

    def _note(self, name: str) -> None:
        if name not in self.bound:
            self.bound.add(name)
            self.before[name] = self.outside.get(name, UNBOUND)

    def swap_in(self, names: Iterable[str]) -> dict[str, object]:
        """Put own values of *names* into the namespace outside; give what stood there."""
        found: dict[str, object] = {}
        for name in names:
            value = self.get(name, UNBOUND)
            there = self.outside.get(name, UNBOUND)
            if value is not there and value is not UNBOUND:
                found[name] = there
                self.outside[name] = value
        return found

    def swap_out(self, found: dict[str, object]) -> None:
        """Undo `swap_in`, but for names that the block has bound since."""
        for name, value in found.items():
            if name in self.bound:
                continue
            if value is UNBOUND:
                self.outside.pop(name, None)
            else:
                self.outside[name] = value
