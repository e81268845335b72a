"""Code objects to take apart: written to hold what each part of the rewriting can get wrong."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType

from tracekit._bytecode.facts import OPMAP
from tracekit._bytecode.opcodes import FAST_PAIRS

_NAMES = {op: name for name, op in OPMAP.items()}


def code_objects(code: CodeType) -> Iterator[CodeType]:
    """*code* and all code objects in its constants."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from code_objects(const)


def listing(code: CodeType) -> list[tuple[str, object, object]]:
    """Instructions with their meaning and position; offsets left out, 3.13's pairs split."""
    found: list[tuple[str, object, object]] = []
    for instruction in dis.get_instructions(code):
        name, value, where = instruction.opname, instruction.argval, instruction.positions
        if name == "EXTENDED_ARG":
            continue
        if instruction.opcode in FAST_PAIRS:
            first, second = FAST_PAIRS[instruction.opcode]
            assert instruction.arg is not None
            found.append((_NAMES[first], instruction.arg >> 4, where))
            found.append((_NAMES[second], instruction.arg & 15, where))
            continue
        if instruction.opcode in dis.hasjrel:
            value = "jump"
        elif name in ("LOAD_FAST", "STORE_FAST"):
            value = instruction.arg
        found.append((name, value, where))
    return found


def long_function(statements: int) -> CodeType:
    """A function with a handler whose first instruction needs EXTENDED_ARG, and long jumps."""
    lines = ["def f(k):"]
    lines += [f"    v{i} = {i}.5 + k" for i in range(statements)]
    lines += ["    try:", f"        w = v{statements - 1} + missing{statements}"]
    lines += ["    except NameError as e:", "        w = str(e)"]
    lines += ["    for i in range(3):"]
    lines += [f"        v{i} = v{i} + i" for i in range(statements)]
    lines += ["    return w, v0"]
    module = compile("\n".join(lines), "<long>", "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


WIDE = (
    "def f(a):\n"
    + "    x = ("
    + " + ".join(["a"] * 60)
    + " +\n"
    + " " * 140
    + "a.real +\n"
    + " " * 150
    + "a.imag)\n    return x\n"
)
"""Columns past 127, one and two lines below each other."""
