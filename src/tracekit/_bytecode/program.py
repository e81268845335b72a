"""Instructions as data: what `lift` makes of a code object and `assemble` turns back into one.

A program is a list of instructions and labels. Two choices make the rewriting short:

* Opargs stay raw numbers into the tables of the code object the program came from (names,
  constants, variable slots); only jumps point to labels. What is added is appended to the tables,
  so nothing has to be renumbered.
* Every instruction knows the handler that covers it, so that instructions put beside it inherit
  it, and the exception table is written from runs of equal handlers.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from .facts import OPNAMES

Location = tuple[int | None, int | None, int | None, int | None] | None
"""(line, end line, column, end column), columns in bytes of UTF-8, from 0."""


class Label:
    """A place that jumps and handlers point to."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"L{id(self) & 0xFFFFF:05x}"


class Handler:
    """One target of the exception table.

    Attributes:
        target: Where the interpreter goes.
        depth: Stack slots kept when it goes there.
        lasti: Whether the offset of the failing instruction is pushed too.
    """

    __slots__ = ("depth", "lasti", "target")

    def __init__(self, target: Label, depth: int, lasti: bool) -> None:
        self.target = target
        self.depth = depth
        self.lasti = lasti

    def __repr__(self) -> str:
        return f"Handler({self.target!r}, depth={self.depth}, lasti={self.lasti})"


class Instr:
    """One instruction.

    Attributes:
        op: The opcode.
        arg: Raw oparg (0 where the opcode has none), or the label a jump goes to.
        location: (line, end line, column, end column), or None.
        handler: What covers it, or None.
        offset: Bytes from the start of `co_code` it was lifted from; -1 for one that was added.
    """

    __slots__ = ("arg", "handler", "location", "offset", "op")

    def __init__(
        self,
        op: int,
        arg: Any = 0,
        location: Location = None,
        handler: Handler | None = None,
        offset: int = -1,
    ) -> None:
        self.op = op
        self.arg = arg
        self.location = location
        self.handler = handler
        self.offset = offset

    def __repr__(self) -> str:
        return f"Instr({OPNAMES[self.op]} {self.arg!r} @{self.offset})"


class Program:
    """Instructions, and the code object whose tables their opargs point into.

    Attributes:
        code: The template; what is not changed here is taken from it.
        instrs: Instructions and labels, in order.
        extra_consts: Constants added after `code.co_consts`.
        extra_names: Names added after `code.co_names`.
        hidden: Instructions that load or store a variable of an inlined comprehension.
        changes: Keyword arguments for `code.replace`, besides the code itself.
    """

    __slots__ = (
        "_const_index",
        "changes",
        "code",
        "extra_consts",
        "extra_names",
        "hidden",
        "instrs",
    )

    def __init__(self, code: CodeType, instrs: list[Instr | Label]) -> None:
        self.code = code
        self.instrs = instrs
        self.extra_consts: list[object] = []
        self.extra_names: list[str] = []
        self.hidden: set[Instr] = set()
        self.changes: dict[str, Any] = {}
        self._const_index: dict[int, int] = {}

    def const(self, value: object) -> int:
        """The oparg with which `LOAD_CONST` loads *value* itself (by identity)."""
        key = id(value)
        index = self._const_index.get(key)
        if index is None:
            index = len(self.code.co_consts) + len(self.extra_consts)
            self.extra_consts.append(value)
            self._const_index[key] = index
        return index

    def name(self, text: str) -> int:
        """The index in `co_names` of *text*, added if need be."""
        try:
            return self.code.co_names.index(text)
        except ValueError:
            if text not in self.extra_names:
                self.extra_names.append(text)
            return len(self.code.co_names) + self.extra_names.index(text)
