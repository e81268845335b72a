"""The shapes of checks: what is emitted around an instruction, with holes for the opargs.

Each function gives one shape, written the first time it is wanted. Which instruction gets which
shape, and what goes into its holes, is not decided here: a shape knows nothing of guards and
programs, only where on the stack the values are that it looks at and what it leaves there.

The holes of a shape are filled in the order that its function tells.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from .facts import CALLS_HAVE_PRECALL, NULL_IS_ABOVE_THE_CALLABLE
from .opcodes import (
    CALL,
    COPY,
    IS_OP,
    JUMP_FORWARD,
    KW_NAMES,
    POP_JUMP_IF_FALSE,
    POP_JUMP_IF_NONE,
    POP_JUMP_IF_TRUE,
    POP_TOP,
    PRECALL,
    RAISE_VARARGS,
    RESUME,
    SWAP,
    WITH_EXCEPT_START,
    YIELD_VALUE,
)
from .program import Label
from .sequences import Hole, Sequence, Template

_RESUME_AFTER_YIELD: Final = 1

# What the opargs in the holes of the shapes are.
_GUARD, _NONE, _ARG, _LAST, _KIND, _TYPE = (Hole(index) for index in range(6))
# What a guard is told besides the operands; then no type settles it.
_MORE: Final = (_LAST, _KIND)
_ITER, _KEYWORDS = _LAST, _KIND
# Of a call: what it has met, and the names of what to look at in that.
_SITE, _FUNCTION, _CODE, _STRAIGHT, _TWIN, _OWN_CODE = (Hole(index) for index in range(5, 11))
_UNBOUND, _RAISED, _ERROR, _ITEM = _LAST, _LAST, _KIND, _GUARD

Added = tuple[tuple[int, Any], ...]


@cache
def checked(
    op: int,
    operands: int,
    more: int,
    has_result: bool,
    settles: bool,
    after: Added,
    last: Added,
) -> Template:
    """The general shape: the guarded value takes the operands' and the instruction's place."""
    sequence = Sequence()
    straight, fine, done = Label(), Label(), Label()
    if settles:
        sequence.settled(operands, _LAST, _KIND, _TYPE, fine)
    sequence.ask_guard(_GUARD, operands, _MORE[:more], straight)
    sequence.drive(_NONE)
    if has_result:
        sequence.emit(SWAP, operands + 1)
        sequence.pop(operands)
    else:
        sequence.pop(operands + 1)
    sequence.emit_all(after)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(fine)
    sequence.served(op, _ARG)
    sequence.place(done)
    sequence.emit_all(last)
    return Template(sequence)


@cache
def replaced(more: int, settles: bool) -> Template:
    """The guarded value takes the top operand's place, before an instruction."""
    sequence = Sequence()
    straight, done = Label(), Label()
    if settles:
        sequence.settled(1, _LAST, _KIND, _TYPE, done)
    sequence.ask_guard(_GUARD, 1, _MORE[:more], straight)
    sequence.drive(_NONE)
    sequence.emit(SWAP, 2)
    sequence.emit(POP_TOP)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(done)
    return Template(sequence)


@cache
def pushed(op: int, operands: int) -> Template:
    """The guarded value is put on top of the operands, as the instruction's result is."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.ask_guard(_GUARD, operands, (), straight)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.served(op, _ARG)
    sequence.place(done)
    return Template(sequence)


@cache
def resolved(
    op: int,
    place: int,
    count: int,
    on_top: int,
    spreads: bool,
    has_null: bool,
    has_keywords: bool,
) -> Template:
    """A call whose callable is *place* slots from the top, with *count* values to look at.

    Above the values stand *on_top* others.
    """
    sequence = Sequence()
    straight, known, drive, done = Label(), Label(), Label(), Label()
    call: Added = ((KW_NAMES, _KEYWORDS),) if has_keywords else ()
    if CALLS_HAVE_PRECALL and op == CALL:
        call = (*call, (PRECALL, _ARG))
    if not spreads:
        _met(sequence, place, (*call, (op, _ARG)), known, drive)
    sequence.const(_GUARD)
    sequence.emit(COPY, place + 1)
    for _ in range(count):
        sequence.emit(COPY, count + on_top + 2)
    sequence.call_with_self(count)
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.emit(SWAP, place + 1)
    if spreads:
        sequence.emit(POP_TOP)
        sequence.emit(op, _ARG)
    else:
        # Nothing of the call stays on the stack: its arguments are the callee's alone. Only a
        # call can take a NULL away; `iter` of a generator is that generator.
        above = NULL_IS_ABOVE_THE_CALLABLE and has_null
        sequence.pop(place - above)
        if has_null:
            sequence.const(_ITER)
            sequence.emit(SWAP, 3 if above else 2)
            if CALLS_HAVE_PRECALL:
                sequence.emit(PRECALL, 1)
            sequence.emit(CALL, 1)
    sequence.place(drive)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(known)
    sequence.emit_all(call)
    sequence.served(op, _ARG)
    sequence.place(done)
    return Template(sequence)


def _met(sequence: Sequence, place: int, call: Added, known: Label, drive: Label) -> None:
    """Do without a check what this call has called before.

    Goes to *known* for what is called as it stands, to *drive* with the generator for a
    function of the user's, and on for everything else.
    """
    other, check = Label(), Label()
    sequence.emit(COPY, place)
    sequence.field(_SITE, _FUNCTION)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, other)
    sequence.emit(COPY, place)
    sequence.attribute(_OWN_CODE)
    sequence.field(_SITE, _CODE)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, check)
    sequence.field(_SITE, _TWIN)
    sequence.emit(SWAP, place + 1)
    sequence.emit(POP_TOP)
    sequence.emit_all(call)
    sequence.emit(JUMP_FORWARD, drive)
    sequence.place(other)
    sequence.emit(COPY, place)
    sequence.field(_SITE, _STRAIGHT)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_TRUE, known)
    sequence.place(check)


@cache
def left_with_error() -> Template:
    """WITH_EXCEPT_START, which keeps what it looks at."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.const(_GUARD)
    sequence.emit(COPY, 5)
    sequence.emit(COPY, 3)
    sequence.call_with_self(1)
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.drive(_NONE)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.served(WITH_EXCEPT_START, _ARG)
    sequence.place(done)
    return Template(sequence)


@cache
def handed_out() -> Template:
    """The `yield` of a user's generator: the value in an `Item`; an answer may be an error."""
    sequence = Sequence()
    fine = Label()
    sequence.apply(_ITEM)
    sequence.served(YIELD_VALUE, 0)
    sequence.emit(RESUME, _RESUME_AFTER_YIELD)
    sequence.type_of(1, _TYPE)
    sequence.const(_RAISED)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_FALSE, fine)
    sequence.attribute(_ERROR)
    sequence.emit(RAISE_VARARGS, 1)
    sequence.place(fine)
    return Template(sequence)


@cache
def waited(store: int) -> Template:
    """Wait for a name, and bind it to what another block left in it, if one did."""
    sequence = Sequence()
    straight, done = Label(), Label()
    sequence.function(_GUARD)
    sequence.call_with_self()
    sequence.emit(COPY, 1)
    sequence.emit(POP_JUMP_IF_NONE, straight)
    sequence.drive(_NONE)
    sequence.emit(COPY, 1)
    sequence.const(_UNBOUND)
    sequence.emit(IS_OP, 0)
    sequence.emit(POP_JUMP_IF_TRUE, straight)
    sequence.emit(store, _ARG)
    sequence.emit(JUMP_FORWARD, done)
    sequence.place(straight)
    sequence.emit(POP_TOP)
    sequence.place(done)
    return Template(sequence)
