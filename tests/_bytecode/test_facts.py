"""What each Python does, as a table: a new CPython reports itself here."""

from __future__ import annotations

import sys

import pytest

from tracekit._bytecode import facts

EXPECTED: dict[str, tuple[object, object, object]] = {
    #                                        3.11   3.12   3.13
    "COMPREHENSIONS_ARE_INLINED": (False, True, True),
    "GENERATOR_GUARDS_STOPITERATION": (False, True, True),
    "CALLS_HAVE_PRECALL": (True, False, False),
    "KEYWORD_NAMES_ARE_AN_INSTRUCTION": (True, True, False),
    "NULL_IS_ABOVE_THE_CALLABLE": (False, False, True),
    "METHODS_HAVE_THEIR_OWN_LOAD": (True, False, False),
    "SEND_LEAVES_THE_RECEIVER": (False, True, True),
    "YIELD_IN_SEND_LOOP": (0, 0, 1),
    "JUMPS_NEED_A_BOOL": (False, False, True),
    "CONDITIONAL_JUMPS_HAVE_A_DIRECTION": (True, False, False),
    "COMPARE_SHIFT": (0, 4, 5),
    "COMPARE_BOOL_BIT": (0, 0, 16),
    "LOOPS_END_WITH_END_FOR": (False, True, True),
    "F_LOCALS_WRITES_THROUGH": (False, False, True),
    "HAS_MONITORING": (False, True, True),
    "SUPER_ATTRIBUTES_ARE_ONE_INSTRUCTION": (False, True, True),
    "ENTERS_WITH_BEFORE_WITH": (True, True, True),
    "LOCATIONS_ARE_SHARED": (False, True, True),
    "IS_SUPPORTED": (True, True, True),
}
COLUMN = sys.version_info[1] - 11


@pytest.mark.parametrize("name", EXPECTED)
def test_fact(name: str) -> None:
    """Each probed fact is what was found when the rewriting was written."""
    if not 0 <= COLUMN < len(EXPECTED[name]):
        pytest.fail(f"no column for this Python; here {name} = {getattr(facts, name)!r}")

    assert EXPECTED[name][COLUMN] == getattr(facts, name)


def test_no_pseudo_opcode_is_taken_for_a_real_one() -> None:
    """The compiler's pseudo opcodes never stand in a code object."""
    assert all(0 <= op < 256 for op in facts.OPMAP.values())
