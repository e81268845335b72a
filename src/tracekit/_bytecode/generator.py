"""A program, or a function's code, as the same thing made a generator.

    COPY_FREE_VARS, MAKE_CELL ...    kept, first
    RETURN_GENERATOR, POP_TOP        new: the call returns here; the first None sent is dropped
    RESUME ...                       the function's own, and everything after it

Around everything that follows stands one handler for what no handler of the program takes: it lets
a `StopIteration` travel in a carrier, because leaving a generator it would mean "returned".
"""

from __future__ import annotations

import inspect
import weakref
from bisect import bisect_right
from types import CodeType
from typing import Final

from .._protocol import UNBOUND
from .assemble import assemble
from .checks import instrument
from .cut import Cut
from .facts import CACHE_UNITS, CALLS_HAVE_PRECALL
from .lift import lift
from .opcodes import (
    CALL,
    COPY_FREE_VARS,
    DELETE_FAST,
    FAST_LOADS,
    IS_OP,
    LOAD_CONST,
    LOAD_FAST,
    LOAD_FAST_CHECK,
    MAKE_CELL,
    POP_JUMP_IF_FALSE,
    POP_TOP,
    PRECALL,
    RERAISE,
    RESUME,
    RETURN_GENERATOR,
    SWAP,
    YIELD_VALUE,
)
from .program import Element, Handler, Instr, Label, Program
from .questions import Hooks

_RESUME_AT_START: Final = 0
_RESUME_AFTER_YIELD: Final = 1
_PROLOGUE: Final = frozenset({COPY_FREE_VARS, MAKE_CELL})


class Twin:
    """The rewritten copy of a code object.

    Attributes:
        code: A generator's code object.
        offsets: Offset in `code` of each original instruction -> its offset in `original`.
    """

    __slots__ = ("__weakref__", "_original", "_starts", "code", "offsets")

    def __init__(self, code: CodeType, original: CodeType, offsets: dict[int, int]) -> None:
        self.code = code
        # Weak: whoever keeps twins by their originals must not keep the originals alive.
        self._original = weakref.ref(original)
        self.offsets = offsets
        self._starts: list[int] | None = None

    def origin_of(self, lasti: int) -> int | None:
        """The original instruction that a frame of `code` stands at.

        Args:
            lasti: Bytes; the frame's `f_lasti`, which may be a cache entry of a call. At an
                instruction that was put before one to serve it, that one is meant.

        Returns:
            Its offset in `original`; None past the last one.
        """
        starts = self._starts
        if starts is None:
            starts = self._starts = sorted(self.offsets)
        index = bisect_right(starts, lasti) - 1
        if index >= 0:
            start = starts[index]
            if lasti <= start + 2 * CACHE_UNITS[self.code.co_code[start]]:
                return self.offsets[start]
        index += 1
        return self.offsets[starts[index]] if index < len(starts) else None

    def offset_of(self, origin: int) -> int:
        """Where an original instruction is in `code`: the reverse of `offsets`, in bytes."""
        return next(offset for offset, each in self.offsets.items() if each == origin)

    @property
    def original(self) -> CodeType:
        """The code object it was made of.

        Raises:
            ReferenceError: The program has dropped that.
        """
        code = self._original()
        if code is None:
            message = f"the code that {self.code.co_qualname} was made of is gone"
            raise ReferenceError(message)
        return code

    def __repr__(self) -> str:
        return f"<twin of {self.code.co_qualname}>"


def make_twin(code: CodeType, hooks: Hooks) -> Twin:
    """Make the twin of a function's code.

    Calling a function made of the twin with the same arguments returns a generator. Driving that
    is equivalent to calling the function, except that it may yield requests in between; the twin
    of a generator function also yields an `Item` for each of the user's `yield`s.

    Args:
        code: Of a plain function or of a generator function; not of a coroutine.
        hooks: What the checks call.
    """
    program = lift(code)
    is_generator = bool(code.co_flags & inspect.CO_GENERATOR)
    start = _start_of(program)
    prologue, rest = program.instrs[:start], program.instrs[start:]
    if not is_generator:
        prologue += [Instr(RETURN_GENERATOR), Instr(POP_TOP)]
    # A generator's own RETURN_GENERATOR, POP_TOP lie in `rest`, and the None it is sent first
    # is on the stack between them.
    program.instrs = rest
    extra = instrument(program, hooks, 0, is_generator=is_generator)
    carry = hooks.carry_generator if is_generator else hooks.carry
    _guard(program, carry)
    program.instrs = prologue + program.instrs
    program.changes["co_flags"] = code.co_flags | inspect.CO_GENERATOR
    made, offsets = assemble(program, extra)
    return Twin(made, code, offsets)


def _start_of(program: Program) -> int:
    """The index of the first instruction after the making of cells."""
    for index, instr in enumerate(program.instrs):
        if type(instr) is Instr and instr.op not in _PROLOGUE:
            return index
    return len(program.instrs)


def make_body_twin(cut: Cut, hooks: Hooks, shared: frozenset[str] = frozenset()) -> Twin:
    """Make the twin of a body.

    Called with the values of `cut.arguments` (`UNBOUND` for names that have none), it returns a
    generator. It is primed by two sends, `None` and the value of the `as` target (each answered
    with None), and driven as any twin from the third on. Without `cut.takes_value` the value is
    ignored.

    Args:
        cut: The body. It is used up: its program becomes the twin's.
        hooks: What the checks call.
        shared: Names that other blocks of the same run read or bind.
    """
    program = cut.program
    depth = 1 if cut.takes_value else 0
    names = list(cut.arguments)
    names += [name for name in cut.cells if name not in names]
    slots = {name: index for index, name in enumerate((*names, *cut.frees))}
    places = {name: slots.get(name, -1) for name in shared}
    _check_locals(program)
    extra = instrument(program, hooks, depth, is_generator=False, shared=places)
    start: list[Element] = []
    if cut.frees:
        start.append(Instr(COPY_FREE_VARS, len(cut.frees)))
    start += [Instr(MAKE_CELL, names.index(name)) for name in cut.cells]
    start += [Instr(RETURN_GENERATOR), Instr(POP_TOP)]
    inside: list[Element] = [Instr(RESUME, _RESUME_AT_START)]
    if cut.is_optimized:
        for index, name in enumerate(cut.arguments):
            if name not in cut.cells:
                inside += _unbind_if_unbound(program, index)
    for keep in (cut.takes_value, False):
        inside += [
            Instr(LOAD_CONST, program.const(None)),
            Instr(YIELD_VALUE),
            # Tools that are told of the resumption ask for the line; RESUME begins none itself.
            Instr(RESUME, _RESUME_AFTER_YIELD, (cut.lineno, cut.lineno, None, None)),
        ]
        if not keep:
            inside.append(Instr(POP_TOP))
    program.instrs = inside + program.instrs
    _guard(program, hooks.carry)
    program.instrs = start + program.instrs
    program.changes["co_flags"] |= inspect.CO_GENERATOR
    made, offsets = assemble(program, extra)
    return Twin(made, cut.code, offsets)


def _check_locals(program: Program) -> None:
    """In a cut body the compiler's proof that a local is bound no longer holds."""
    if LOAD_FAST_CHECK == -1:
        return
    for instr in program.instrs:
        if type(instr) is Instr and instr.op in FAST_LOADS:
            instr.op = LOAD_FAST_CHECK


def _unbind_if_unbound(program: Program, index: int) -> list[Element]:
    bound = Label()
    return [
        Instr(LOAD_FAST, index),
        Instr(LOAD_CONST, program.const(UNBOUND)),
        Instr(IS_OP, 0),
        Instr(POP_JUMP_IF_FALSE, bound),
        Instr(DELETE_FAST, index),
        bound,
    ]


def _guard(program: Program, carry: object) -> None:
    """Cover what nothing covers: there, errors leave the generator, in a carrier if need be."""
    label = Label()
    handler = Handler(label, 0, True)  # noqa: FBT003
    for instr in program.instrs:
        if type(instr) is not Label and instr.handler is None:  # type: ignore[union-attr]
            instr.handler = handler  # type: ignore[union-attr]
    program.instrs += [
        label,
        Instr(LOAD_CONST, program.const(carry)),
        Instr(SWAP, 2),
        *([Instr(PRECALL, 0)] if CALLS_HAVE_PRECALL else []),
        Instr(CALL, 0),
        Instr(RERAISE, 1),
    ]
