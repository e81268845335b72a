"""Which word leaves a block: `return`, `break` or `continue`.

The bytecode of all three is a call of `__exit__` and a jump or a return. What tells them apart is
what the compiler leaves for debuggers: a NOP at the place of the statement, the line it puts a
`return` on, and where one comes to. Only the text of a refusal depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .opcodes import (
    BACKWARD_JUMPS,
    CALL,
    LOAD_CONST,
    POP_TOP,
    PRECALL,
    RETURN_CONST,
    RETURNS,
    SWAP,
    UNCONDITIONAL_JUMPS,
    numbers,
)

if TYPE_CHECKING:
    from .cut import Walk

_EXIT_CALL: Final = frozenset({SWAP, LOAD_CONST, PRECALL, CALL, POP_TOP})
_MARKS: Final = numbers("NOP", "POP_EXCEPT", "DELETE_FAST", "DELETE_NAME", "DELETE_DEREF")
_WORDS: Final = ("return", "break", "continue")
_NOWHERE: Final = (None, None, None, None)
_FAR: Final = 64


def word_for(walk: Walk, offset: int, after_offset: int) -> str:
    """Give the word of the statement that leaves by the exit at *offset*.

    Args:
        walk: The body, walked.
        offset: Bytes; where the call of `__exit__` begins.
        after_offset: Bytes; what follows it.

    Returns:
        The word; where bytecode does not tell, two with "or" between.
    """
    if walk.unit(offset).op == SWAP or not _is_in_loop(walk):
        return "return"
    lineno, returned = _return_after(walk, after_offset)
    word = word_at(walk, offset)
    if lineno == -1:
        return word or "continue"
    inside = {walk.line(at) for at in walk.units}
    # The compiler puts a `return` on the line of the `with` or of one around it, on none, or
    # where it stands.
    with_line = walk.line(walk.enter_offset) or 0
    is_inside = not lineno or lineno <= with_line or lineno in inside
    if is_inside and returned is not None:
        return "return"
    # Behind a `finally` that the way out runs through, one cannot tell.
    return word or ("return" if is_inside else "return or break")


def _is_in_loop(walk: Walk) -> bool:
    offset = 0
    while offset < len(walk.raw):
        unit = walk.unit(offset)
        offset = unit.stop_offset
        if unit.op in BACKWARD_JUMPS and offset - 2 * unit.arg <= walk.enter_offset < offset:
            return True
    return False


def mark_of(walk: Walk, offset: int) -> int:
    """Where what stands before the calls of `__exit__` begins, in bytes.

    A NOP at the place of the statement, or the end of an `except` that it leaves, too.
    """
    starts = sorted(walk.units)
    index = starts.index(walk.exits[offset])
    while index > 0 and walk.units[starts[index]].op in _EXIT_CALL:
        # The `__exit__` of a `with` in the body.
        index -= 1
    return starts[index]


def word_at(walk: Walk, offset: int) -> str:
    """The statement whose place the mark of the exit at *offset* has, if any."""
    unit = walk.units[mark_of(walk, offset)]
    if unit.op in _MARKS:
        lineno, end_lineno, column, end_column = walk.positions.at(unit.start_offset) or _NOWHERE
        if lineno == end_lineno and column is not None and end_column is not None:
            for word in _WORDS:
                if end_column - column == len(word):
                    return word
    return ""


def _return_after(walk: Walk, after_offset: int) -> tuple[int | None, object]:
    """The line of the `return` that is come to from here, and the constant it returns.

    -1 for another round of a loop; 0 where neither is found.
    """
    returned: object = None
    for _ in range(_FAR):
        unit = walk.unit(after_offset)
        if unit.op in {LOAD_CONST, RETURN_CONST}:
            returned = walk.code.co_consts[unit.arg]
        if unit.op in RETURNS:
            return walk.line(unit.start_offset), returned
        if unit.op in UNCONDITIONAL_JUMPS:
            if unit.op in BACKWARD_JUMPS:
                return -1, None
            after_offset = unit.stop_offset + 2 * unit.arg
        else:
            after_offset = unit.stop_offset
            if after_offset >= len(walk.raw):
                break
    return 0, None
