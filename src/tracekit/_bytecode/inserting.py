"""Putting instructions between those of a program.

The walk over a program, and the ways to write at the place where it stands: one instruction, a
sequence, a filled-in template. What is written carries the location and the handler of the
instruction at that place. Which instruction gets what is decided elsewhere (`checks.py`,
`sharednames.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from .opcodes import LOAD_CONST
from .program import Chunk, Element, Handler, Instr, Location, Program
from .questions import Last
from .sequences import Sequence, Template, name_oparg
from .templates import Added, checked, pushed, replaced

_PLAIN_CONSTANTS: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})


Handle = Callable[[Instr], None]
"""Writes one instruction, and what goes with it, at its place."""


class Inserter:
    """Walks over a program and writes where it stands.

    Attributes:
        program: What is walked over; its constants and names grow.
        out: What is written, with what was there.
        previous: Opcode of the instruction before the one where the walk stands, or -1.
        following: What comes after that one.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.out: list[Element] = []
        self.previous = -1
        self.following: Element | None = None
        self._location: Location = None
        self._handler: Handler | None = None

    def walk(self, handlers: Mapping[int, Handle]) -> None:
        """Let each instruction be written by the handler of its opcode, or as it is without one."""
        out = self.out
        instrs = self.program.instrs
        for index, instr in enumerate(instrs):
            if type(instr) is not Instr:
                out.append(instr)
                continue
            handler = handlers.get(instr.op)
            if handler is None:
                out.append(instr)
            else:
                self._location = instr.location
                self._handler = instr.handler
                self.following = instrs[index + 1] if index + 1 < len(instrs) else None
                handler(instr)
            self.previous = instr.op
        self.program.instrs = out

    def emit(self, op: int, arg: Any = 0) -> None:
        self.out.append(Instr(op, arg, self._location, self._handler))

    def written(self) -> Sequence:
        """A sequence that is written out here, because it jumps elsewhere."""
        return Sequence(self._location, self._handler, self.out)

    def put(self, template: Template, args: tuple[int, ...], offset: int = -1) -> None:
        """Put the instructions of a shape here."""
        code, mark = template.fill(args)
        self.out.append(Chunk(code, mark, self._location, self._handler, offset))

    def const(self, value: object) -> int:
        return self.program.const(value)

    def apply(self, function: object) -> None:
        """Replace the top of the stack by *function* of it."""
        self.written().apply(self.const(function))

    def checked(
        self,
        instr: Instr,
        guard: object,
        operands: int,
        *more: object,
        has_result: bool = True,
        after: Added = (),
        last: Added = (),
    ) -> None:
        """The general shape: the guarded value takes the operands' and the instruction's place."""
        kind = self._type_settles(guard, operands) if has_result and not more else None
        template = checked(instr.op, operands, len(more), has_result, kind is not None, after, last)
        self.put(template, self._args_of(guard, instr.arg, kind, more), instr.offset)

    def replaced(self, guard: object, *more: object) -> None:
        """The guarded value takes the top operand's place, before the instruction."""
        kind = None if more else self._type_settles(guard, 1)
        self.put(replaced(len(more), kind is not None), self._args_of(guard, 0, kind, more))

    def pushed(self, instr: Instr, guard: object, operands: int) -> None:
        """The guarded value is put on top of the operands, as the instruction's result is."""
        args = (self.const(guard), self.const(None), instr.arg)
        self.put(pushed(instr.op, operands), args, instr.offset)

    def _type_settles(self, guard: object, operands: int) -> Last | None:
        """What *guard* met last, if the type of the first of the operands can settle it.

        For two operands, only where the second is a constant.
        """
        last: Last | None = getattr(guard, "last", None)
        return last if operands == 1 or self._constant_on_top() else None

    def _constant_on_top(self) -> bool:
        last = self.out[-1]
        return (
            type(last) is Instr
            and last.op == LOAD_CONST
            and type(self.program.consts[last.arg]) in _PLAIN_CONSTANTS
        )

    def _args_of(
        self, guard: object, arg: int, last: Last | None, more: tuple[object, ...]
    ) -> tuple[int, ...]:
        const = self.program.const
        args = (const(guard), const(None), arg)
        if last is not None:
            return (*args, const(last), name_oparg(self.program.name("kind")), const(type))
        return (*args, *map(const, more)) if more else args
