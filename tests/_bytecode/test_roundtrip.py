"""Lifting and assembling: what comes back runs, and reads, as what went in."""

from __future__ import annotations

import ast
import dis
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType

import bytecode
import pytest
from samples import WIDE, code_objects, listing, long_function

from tracekit._bytecode.assemble import assemble
from tracekit._bytecode.lift import Table, entries_of, lift

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
FILES = ["ast.py", "dataclasses.py", "difflib.py", "argparse.py", "contextlib.py", "typing.py"]


def again(code: CodeType) -> CodeType:
    return assemble(lift(code))[0]


def has_pairs(code: CodeType) -> bool:
    return any(
        "FAST" in name and name.count("FAST") > 1
        for name in (instruction.opname for instruction in dis.get_instructions(code))
    )


@pytest.mark.parametrize("name", FILES)
def test_library_code_comes_back(name: str) -> None:
    """Same instructions, lines, columns and handlers; byte for byte where nothing is split."""
    path = LIBRARY / name
    for code in code_objects(compile(path.read_bytes(), str(path), "exec", dont_inherit=True)):
        made = again(code)

        assert listing(code) == listing(made), code
        if not has_pairs(code):
            assert code.co_code == made.co_code, code
            assert code.co_linetable == made.co_linetable, code
            assert code.co_exceptiontable == made.co_exceptiontable, code


@pytest.mark.parametrize("name", FILES)
def test_second_round_trip_changes_nothing(name: str) -> None:
    """What was split or laid out anew once stays as it is."""
    path = LIBRARY / name
    for code in code_objects(compile(path.read_bytes(), str(path), "exec", dont_inherit=True)):
        once = again(code)
        twice = again(once)

        assert once.co_code == twice.co_code
        assert once.co_exceptiontable == twice.co_exceptiontable
        assert list(once.co_lines()) == list(twice.co_lines())
        assert list(once.co_positions()) == list(twice.co_positions())


@pytest.mark.parametrize("statements", [3, 40, 300, 3000])
def test_long_code_keeps_its_handlers(statements: int) -> None:
    """EXTENDED_ARG before handlers, names, jumps; lifted twice, it still catches."""
    code = long_function(statements)
    twice = again(again(code))
    inline = FunctionType(code, {"range": range, "str": str, "NameError": NameError})
    made = FunctionType(twice, {"range": range, "str": str, "NameError": NameError})

    assert inline(2) == made(2)
    assert f"missing{statements}" in made(2)[0]


def test_the_library_loses_a_handler_behind_extended_arg() -> None:
    """Why the exception table is our own. When this fails, the library's can be tried again."""
    code = long_function(300)
    for _ in range(2):
        code = bytecode.Bytecode.from_code(code).to_code()
    function = FunctionType(code, {"range": range, "str": str, "NameError": NameError})

    with pytest.raises(NameError):
        function(2)


def test_columns_past_127_keep_their_lines() -> None:
    """The line table has a short form whose columns must be below 128."""
    code = next(c for c in compile(WIDE, "<wide>", "exec").co_consts if isinstance(c, CodeType))
    made = again(code)

    assert listing(code) == listing(made)
    assert [line for *_, line in code.co_lines()] == [line for *_, line in made.co_lines()]


def test_code_without_columns_comes_back() -> None:
    """As `-X no_debug_ranges` leaves it: lines only."""
    source = ast.parse("def f(a):\n    try:\n        return a.b\n    except E: pass\n")
    code = compile(source, "<f>", "exec").co_consts[0]
    program = lift(code)
    for instr in program.instrs:
        location = getattr(instr, "location", None)
        if location is not None:
            instr.location = (location[0], location[0], None, None)
    made, _ = assemble(program)

    assert list(code.co_lines()) == list(made.co_lines())
    assert {None} == {position[2] for position in made.co_positions()}
    assert list(made.co_positions()) == list(again(made).co_positions())


def test_constants_are_loaded_by_identity() -> None:
    """Any object can be a constant; equal ones are not mixed up."""
    code = (lambda: 1.0).__code__
    program = lift(code)
    one, other = [1], [1]

    assert program.const(one) != program.const(other)
    assert program.const(one) == program.const(one)


@pytest.mark.parametrize("statements", [3, 300])
def test_table_finds_the_covering_entry(statements: int) -> None:
    """Looking an offset up agrees with looking through the whole table."""
    code = long_function(statements)
    entries = entries_of(code)
    table = Table(code)

    assert entries
    for offset in range(0, len(code.co_code), 2):
        covering = [e for e in entries if e.start_offset <= offset < e.stop_offset]
        assert (covering[0] if covering else None) == table.covering(offset)
