"""What has become of a block, as text for the person who wrote it.

Where the block stands, which names go in and out, and line by line what is asked about before it
is done: calls, attributes, operators, loops. All of it comes from the bytecode, so it is the same
where no source text exists.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import Final

from tracekit._bytecode.cut import Cut, cut, line_at
from tracekit._bytecode.facts import OPNAMES
from tracekit._bytecode.program import Instr
from tracekit._bytecode.render import expression_at
from tracekit.errors import UnsupportedError

# Beginnings of the names of instructions -> what a reader calls what they do.
_KINDS: Final = (
    ("CALL_INTRINSIC", ""),
    ("CALL", "call"),
    ("LOAD_ATTR", "attribute"),
    ("LOAD_METHOD", "attribute"),
    ("LOAD_SUPER_ATTR", "attribute"),
    ("STORE_ATTR", "store"),
    ("DELETE_ATTR", "delete"),
    ("STORE_SUBSCR", "store"),
    ("STORE_SLICE", "store"),
    ("BINARY_SUBSCR", "item"),
    ("BINARY_SLICE", "item"),
    ("BINARY_OP", "operator"),
    ("COMPARE_OP", "operator"),
    ("CONTAINS_OP", "operator"),
    ("UNARY_", "operator"),
    ("FOR_ITER", "loop"),
    ("BEFORE_WITH", "with"),
    ("FORMAT", "format"),
)
_WIDTH: Final = 10


def explain(code: CodeType, enter_offset: int, *, after_target: bool = False) -> str:
    """Tell what was cut out of *code*, what is rewritten in it, and what is refused.

    Args:
        code: The code that holds the `with`.
        enter_offset: Bytes; the instruction that enters it.
        after_target: See `cut`.

    Returns:
        Several lines.
    """
    place = f"{code.co_filename}:{line_at(code, enter_offset)}, in {code.co_qualname}"
    lines = [f"block at {place}"]
    try:
        part = cut(code, enter_offset, after_target=after_target)
    except UnsupportedError as refusal:
        return "\n".join([*lines, "  refused:", *_indented(str(refusal))])
    lines.append(
        f"  runs in   {'__exit__, after the `as` target' if after_target else '__enter__'}"
    )
    lines += _row("reads", sorted(part.loads))
    lines += _row("binds", sorted(part.stores))
    lines += _row("shares", sorted({*part.cells, *part.frees}))
    lines.append("  asks first, in order of the bytecode:")
    lines += _listing(part) or ["    nothing: no instruction of it can run Python code"]
    return "\n".join(lines)


def _row(title: str, names: list[str]) -> list[str]:
    return [f"  {title:<{_WIDTH}}{', '.join(names)}"] if names else []


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.split("\n")]


def _listing(part: Cut) -> list[str]:
    real = {
        instruction.offset: instruction.offset
        for instruction in dis.get_instructions(part.code)
        if instruction.opname != "EXTENDED_ARG"
    }
    lines: list[str] = []
    seen = ""
    for instr in part.program.instrs:
        if type(instr) is not Instr or instr.offset < 0:
            continue
        kind = next((kind for head, kind in _KINDS if OPNAMES[instr.op].startswith(head)), "")
        if not kind:
            continue
        # A lifted instruction begins at its EXTENDED_ARG.
        offset = next(at for at in range(instr.offset, len(part.code.co_code), 2) if at in real)
        lineno = line_at(part.code, instr.offset)
        line = f"    line {lineno:<5}{kind:<{_WIDTH}}{expression_at(part.code, offset)}"
        if line != seen:
            lines.append(line)
            seen = line
    return lines
