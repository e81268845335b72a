"""Sequences of inserted instructions: written once for each shape, filled in at each use.

A check is some 25 instructions, and a block has hundreds of checks of a dozen shapes. So a shape is
assembled once, with holes where the opargs differ; after that a check costs one copy of its bytes.

Things that don't work: one object an instruction for each check (nine tenths of the time of a
first capture went into making, laying out and writing these); a function that the checks call and
that does the asking (a call more for each instruction that runs, and the drive loop must stand in
the twin's own frame).
"""

from __future__ import annotations

from collections.abc import Sequence as Values
from typing import Any, Final

from .assemble import encode, more_units
from .facts import (
    CALLS_HAVE_PRECALL,
    METHODS_HAVE_THEIR_OWN_LOAD,
    NULL_IS_ABOVE_THE_CALLABLE,
    SEND_LEAVES_THE_RECEIVER,
    YIELD_IN_SEND_LOOP,
)
from .opcodes import (
    CALL,
    COPY,
    END_SEND,
    IS_OP,
    JUMP_BACKWARD_NO_INTERRUPT,
    LOAD_ATTR,
    LOAD_CONST,
    POP_JUMP_IF_NONE,
    POP_JUMP_IF_TRUE,
    POP_TOP,
    PRECALL,
    PUSH_NULL,
    RESUME,
    SEND,
    SWAP,
    YIELD_VALUE,
)
from .program import Element, Handler, Instr, Label, Location

_RESUME_AFTER_SEND: Final = 2
_MARK: Final = 0


class Hole:
    """An oparg that is not known yet: the one with this index of those that are filled in."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Sequence:
    """Instructions to be inserted at one place. Opargs are numbers, labels, or holes."""

    __slots__ = ("handler", "location", "out")

    def __init__(
        self,
        location: Location = None,
        handler: Handler | None = None,
        out: list[Element] | None = None,
    ) -> None:
        self.location = location
        self.handler = handler
        self.out: list[Element] = [] if out is None else out

    def emit(self, op: int, arg: Any = 0) -> None:
        self.out.append(Instr(op, arg, self.location, self.handler))

    def emit_all(self, instrs: Values[tuple[int, Any]]) -> None:
        for op, arg in instrs:
            self.emit(op, arg)

    def place(self, label: Label) -> None:
        self.out.append(label)

    def served(self, op: int, arg: Any) -> None:
        """The instruction that the others serve."""
        self.out.append(Instr(op, arg, self.location, self.handler, _MARK))

    def const(self, index: Any) -> None:
        self.emit(LOAD_CONST, index)

    def pop(self, count: int) -> None:
        for _ in range(count):
            self.emit(POP_TOP)

    def call_with_self(self, count: int = 0) -> None:
        """Call the function below a first argument and *count* more."""
        if CALLS_HAVE_PRECALL:
            self.emit(PRECALL, count)
        self.emit(CALL, count)

    def function(self, index: Any) -> None:
        """Push a constant that is about to be called without a first argument in NULL's place."""
        if NULL_IS_ABOVE_THE_CALLABLE:
            self.const(index)
            self.emit(PUSH_NULL)
        else:
            self.emit(PUSH_NULL)
            self.const(index)

    def apply(self, function: Any) -> None:
        """Replace the top of the stack by *function* of it."""
        self.const(function)
        self.emit(SWAP, 2)
        self.call_with_self()

    def drive(self, none: Any) -> None:
        """Replace the generator on the stack by its return value, yielding what it yields."""
        again, end = Label(), Label()
        self.const(none)
        self.place(again)
        self.emit(SEND, end)
        self.emit(YIELD_VALUE, YIELD_IN_SEND_LOOP)
        self.emit(RESUME, _RESUME_AFTER_SEND)
        self.emit(JUMP_BACKWARD_NO_INTERRUPT, again)
        self.place(end)
        if SEND_LEAVES_THE_RECEIVER:
            self.emit(END_SEND)

    def type_of(self, place: int, type_: Any) -> None:
        """Push the type of what stands at *place* from the top.

        With a NULL and not with a first argument in its place: this form of `type(x)` is
        specialized by the interpreter.
        """
        self.function(type_)
        self.emit(COPY, place + 2)
        if CALLS_HAVE_PRECALL:
            self.emit(PRECALL, 1)
        self.emit(CALL, 1)

    def attribute(self, name: Any) -> None:
        """Replace the top by its attribute. *name* is an oparg of LOAD_ATTR."""
        self.emit(LOAD_ATTR, name)

    def field(self, owner: Any, name: Any) -> None:
        """Push an attribute of an object of ours."""
        self.const(owner)
        self.attribute(name)

    def settled(self, operands: int, last: Any, kind: Any, type_: Any, fine: Label) -> None:
        """Go to *fine* if the type of the first operand is the one that *last* holds."""
        self.type_of(operands, type_)
        self.field(last, kind)
        self.emit(IS_OP, 0)
        self.emit(POP_JUMP_IF_TRUE, fine)

    def ask_guard(self, guard: Any, operands: int, more: Values[Any], straight: Label) -> None:
        """Call *guard* with copies of the top operands; go to *straight* when it says None.

        At *straight* the None is still on the stack.
        """
        self.const(guard)
        for _ in range(operands):
            self.emit(COPY, operands + 1)
        for value in more:
            self.const(value)
        self.call_with_self(operands - 1 + len(more))
        self.emit(COPY, 1)
        self.emit(POP_JUMP_IF_NONE, straight)


def name_oparg(index: int) -> int:
    """The oparg with which LOAD_ATTR loads the attribute with this index of `co_names`."""
    return index if METHODS_HAVE_THEIR_OWN_LOAD else index << 1


class _Layout:
    """The bytes of a template for holes of certain widths, and where those lie in them."""

    __slots__ = ("code", "high", "low", "mark")

    def __init__(self, instrs: list[Element], widths: tuple[int, ...]) -> None:
        filled: list[Element] = []
        for instr in instrs:
            if type(instr) is Instr and type(instr.arg) is Hole:
                wide = 1 << 8 * widths[instr.arg.index]
                filled.append(Instr(instr.op, wide if wide > 1 else 0, None, None, instr.offset))
            elif type(instr) is Instr:
                # Jumps may turn round, which must not be seen by other layouts.
                filled.append(Instr(instr.op, instr.arg, None, None, instr.offset))
            else:
                filled.append(instr)
        code, starts, _, offsets = encode(filled)
        self.code = bytes(code)
        self.mark = next(iter(offsets), -1)
        self.low: list[tuple[int, int]] = []
        self.high: list[tuple[int, int, int]] = []
        for instr, start in zip(instrs, starts, strict=False):
            if type(instr) is Instr and type(instr.arg) is Hole:
                hole = instr.arg.index
                width = widths[hole]
                at = 2 * (start + width) + 1
                self.low.append((at, hole))
                for step in range(1, width + 1):
                    self.high.append((at - 2 * step, hole, 8 * step))


class Template:
    """A sequence that jumps only inside itself, with holes."""

    __slots__ = ("_instrs", "_layouts", "_narrow")

    def __init__(self, sequence: Sequence) -> None:
        self._instrs = sequence.out
        self._layouts: dict[tuple[int, ...], _Layout] = {}
        self._narrow: _Layout | None = None

    def fill(self, args: tuple[int, ...]) -> tuple[bytearray, int]:
        """Write the sequence with these opargs in its holes.

        Returns:
            The bytes, and the offset in them of the instruction that the others serve; -1 if there
            is none.
        """
        layout = self._narrow
        if layout is None or max(args) > 255:
            layout = self._layout(args)
        code = bytearray(layout.code)
        for at, hole in layout.low:
            code[at] = args[hole] & 255
        for at, hole, shift in layout.high:
            code[at] = args[hole] >> shift & 255
        return code, layout.mark

    def _layout(self, args: tuple[int, ...]) -> _Layout:
        widths = tuple(more_units(arg) for arg in args)
        layout = self._layouts.get(widths)
        if layout is None:
            layout = self._layouts[widths] = _Layout(self._instrs, widths)
            if not any(widths):
                self._narrow = layout
        return layout
