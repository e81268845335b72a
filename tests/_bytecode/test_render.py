"""Expressions come back from bytecode as they were written."""

from __future__ import annotations

import ast
import dis

import pytest

from tracekit._bytecode.render import UNKNOWN, expression_at

EXPRESSIONS = [
    "print(a.b[1] + c)",
    "m.layers[0].output[:, -1]",
    "m.layers[i + 1].output[0][:, 1:n]",
    "f(1, k=g(2), z=3)",
    "-(a @ b).c(d)[1:2]",
    "a not in b",
    "a in b",
    "a < b",
    "a == b.c",
    "a is not None",
    "[1, b, {'k': v}]",
    "'text with space'.join(q)",
    "(a, b)[0]",
    "(a,)",
    "obj.method(1)(2)",
    "obj.method(x.y(), k=1).z",
    "+a - ~b",
    "a ** (b // c) % d",
    "f(...)",
    "a[b:c]",
    "a[(b, c), d]",
]


def last(code):
    ends = {"RETURN_VALUE", "RETURN_CONST"}
    return [i.offset for i in dis.get_instructions(code) if i.opname not in ends][-1]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_as_written(text):
    code = compile(text, "<text>", "eval")
    shown = expression_at(code, last(code))

    assert ast.dump(ast.parse(text, mode="eval")) == ast.dump(ast.parse(shown, mode="eval"))


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_as_written_with_fast_locals(text):
    names = sorted({n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)})
    space = {}
    exec(f"def function({', '.join(names)}):\n return {text}", space)
    code = space["function"].__code__
    shown = expression_at(code, last(code))

    assert ast.dump(ast.parse(text, mode="eval")) == ast.dump(ast.parse(shown, mode="eval"))


def test_a_part_of_a_line():
    code = compile("x = f(a.output) + b.output", "<text>", "exec")
    attributes = [i.offset for i in dis.get_instructions(code) if i.argval == "output"]

    assert ["a.output", "b.output"] == [expression_at(code, offset) for offset in attributes]


def test_a_store_shows_what_is_stored():
    code = compile("x = f(1)", "<text>", "exec")
    (store,) = [i.offset for i in dis.get_instructions(code) if i.opname == "STORE_NAME"]

    assert expression_at(code, store) == "f(1)"


def test_what_cannot_be_told_is_left_open():
    code = compile("g((p if q else r).s)", "<text>", "eval")
    calls = [i.offset for i in dis.get_instructions(code) if i.opname == "CALL"]

    assert all(UNKNOWN in expression_at(code, call) for call in calls)


def test_long_ones_are_cut():
    code = compile(f"f({', '.join(['name' * 10] * 10)})", "<text>", "eval")

    assert len(expression_at(code, last(code))) == 120


def test_every_instruction_of_this_module_has_some_text():
    with open(__file__) as file:
        waiting = [compile(file.read(), "x", "exec")]
    while waiting:
        code = waiting.pop()
        for instruction in dis.get_instructions(code):
            assert isinstance(expression_at(code, instruction.offset), str)
        waiting += [const for const in code.co_consts if hasattr(const, "co_code")]
