"""Positions read from the middle of a table are those read from its start."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from tracekit._bytecode.cut import line_at
from tracekit._bytecode.positions import Positions

FOLDER = Path(__file__).parent
FILES = [
    FOLDER.parents[1] / "src" / "tracekit" / "_bytecode" / "cut.py",
    FOLDER.parents[1] / "src" / "tracekit" / "_runtime" / "guards.py",
    *sorted(FOLDER.parent.joinpath("corpus").glob("*.py")),
    Path(ast.__file__),
    Path(pytest.__file__),
]
LONG = "\n".join(
    [f"name{at} = [{at}, 'text'] + other(  {at},\n\n  {at}\n)" for at in range(900)]
    + [f"{'    ' * 30}".join(["x = (", "1", ")"])]
    + [f"a = b(c); d = a if b else {at}  # one line\n\n\n" for at in range(300)]
)


def codes_of(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from codes_of(const)


def compiled(path: Path) -> Iterator[CodeType]:
    return codes_of(compile(path.read_text("utf-8"), str(path), "exec"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_stretch_is_as_read_from_the_start(path: Path) -> None:
    for code in compiled(path):
        inside = list(code.co_positions())
        positions = Positions(code)
        step = max(2 * (len(inside) // 11), 2)
        for start in range(0, 2 * len(inside), step):
            assert inside[start // 2 : start // 2 + 30] == positions.between(start, start + 60)


def test_long_code_at_every_seventh_instruction() -> None:
    code = compile(LONG, "<long>", "exec")
    inside = list(code.co_positions())
    ascending = Positions(code)

    assert len(inside) > 10_000
    for unit in range(0, len(inside), 7):
        assert inside[unit] == ascending.at(2 * unit)
    for unit in range(len(inside) - 1, 0, -701):
        assert inside[unit] == Positions(code).at(2 * unit)
        assert inside[unit] == ascending.at(2 * unit)  # and backwards


def test_without_columns() -> None:
    """As `-X no_debug_ranges` leaves it: entries of a line alone."""
    from tracekit._bytecode.assemble import assemble
    from tracekit._bytecode.lift import lift

    program = lift(compile(LONG, "<long>", "exec"))
    for instr in program.instrs:
        location = getattr(instr, "location", None)
        if location is not None:
            instr.location = (location[0], location[0], None, None)
    code, _ = assemble(program)
    inside = list(code.co_positions())

    assert {None} == {column for *_, column in inside}
    for unit in range(3, len(inside), 501):
        assert inside[unit] == Positions(code).at(2 * unit)


def test_past_the_end() -> None:
    code = compile(LONG, "<long>", "exec")
    size = len(code.co_code)
    last = list(code.co_positions())[-1]

    assert Positions(code).at(size) is None
    assert Positions(code).between(size - 2, size + 40) == [last]
    assert line_at(code, size) == code.co_firstlineno


def test_lines_that_go_back() -> None:
    """Positions need not ascend: the parts of a `for` do not, and generated code may do anything."""
    tree = ast.parse("\n".join(f"a{at} = b({at})" for at in range(400)))
    for at, statement in enumerate(tree.body):
        for node in ast.walk(statement):
            if hasattr(node, "lineno"):
                node.lineno = node.end_lineno = 1 + (at * 7919) % 100_000
    code = compile(tree, "<generated>", "exec")
    inside = list(code.co_positions())

    for unit in range(0, len(inside), 5):
        assert inside[unit] == Positions(code).at(2 * unit)
