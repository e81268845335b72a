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


class Chunk:
    """Instructions that are bytes already: they stand together, and jump only among themselves.

    Attributes:
        code: The bytes.
        mark: Bytes from the start; the instruction that all the others serve.
        location: Of all of them.
        handler: Covers all of them.
        offset: Where that one instruction was lifted from, as in `Instr`; -1 if there is none.
    """

    __slots__ = ("code", "handler", "location", "mark", "offset")

    def __init__(
        self,
        code: bytes | bytearray,
        mark: int,
        location: Location,
        handler: Handler | None,
        offset: int,
    ) -> None:
        self.code = code
        self.mark = mark
        self.location = location
        self.handler = handler
        self.offset = offset

    def __repr__(self) -> str:
        return f"Chunk({len(self.code)} bytes @{self.offset})"


Element = Instr | Label | Chunk


class Program:
    """Instructions, and the tables their opargs point into.

    Attributes:
        code: The template; what is not changed here is taken from it.
        instrs: Instructions and labels, in order.
        consts: Constants that opargs point to: the template's, unless the program was renumbered.
        names: The same for names.
        extra_consts: Constants added after `consts`.
        extra_names: Names added after `names`.
        hidden: Instructions that load or store a variable of an inlined comprehension.
        changes: Keyword arguments for `code.replace`, besides the code itself.
    """

    __slots__ = (
        "_const_index",
        "_name_index",
        "changes",
        "code",
        "consts",
        "extra_consts",
        "extra_names",
        "hidden",
        "instrs",
        "names",
    )

    def __init__(self, code: CodeType, instrs: list[Element]) -> None:
        self.code = code
        self.instrs = instrs
        self.consts: tuple[Any, ...] = code.co_consts
        self.names: tuple[str, ...] = code.co_names
        self.extra_consts: list[object] = []
        self.extra_names: list[str] = []
        self.hidden: set[Instr] = set()
        self.changes: dict[str, Any] = {}
        self._const_index: dict[int, int] = {}
        self._name_index: dict[str, int] | None = None

    def const(self, value: object) -> int:
        """The oparg with which `LOAD_CONST` loads *value* itself (by identity)."""
        key = id(value)
        index = self._const_index.get(key)
        if index is None:
            index = len(self.consts) + len(self.extra_consts)
            self.extra_consts.append(value)
            self._const_index[key] = index
        return index

    def name(self, text: str) -> int:
        """The index in `co_names` of *text*, added if need be."""
        known = self._name_index
        if known is None:
            known = self._name_index = {name: at for at, name in enumerate(self.names)}
        index = known.get(text)
        if index is None:
            index = known[text] = len(self.names) + len(self.extra_names)
            self.extra_names.append(text)
        return index
