"""A twin claims the stack that it needs. If not, it writes past its frame, and no test notices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from stackdepth import needed_depth

from tracekit._bytecode import generator
from tracekit.testing import run_traced

CORPUS = sorted(Path(__file__).parents[1].joinpath("corpus").glob("*.py"))

MANY = {
    "positional": f"log({', '.join(f'ask({i})' for i in range(60))})",
    "keywords": f"log(dict({', '.join(f'k{i}=ask({i})' for i in range(60))}))",
    "method": f"log('{{}}'.format({', '.join(map(str, range(60)))}))",
    "spread": "log(*[ask(i) for i in range(3)], **{})",
    "nested": "log(" + "max(1, 2, " * 20 + "ask(3)" + ")" * 20 + ")",
    "list": f"x = [{', '.join(f'ask({i})' for i in range(60))}]",
    "class": f"class C(object, {', '.join(f'k{i}=1' for i in range(20))}):\n"
    "        def __init_subclass__(cls, **k): pass",
    "class with bases": "class B:\n        def __init_subclass__(cls, **k): pass\n"
    f"    class C(B, {', '.join(f'k{i}=ask(1)' for i in range(20))}): pass",
}


@pytest.fixture
def twins(monkeypatch):
    """Collect what is assembled."""
    made = []
    assemble = generator.assemble

    def collecting(program, extra_stack=0):
        code, offsets = assemble(program, extra_stack)
        made.append(code)
        return code, offsets

    monkeypatch.setattr(generator, "assemble", collecting)
    return made


def too_small(twins):
    return [
        f"{code.co_qualname} needs {needed_depth(code)}, has {code.co_stacksize}"
        for code in twins
        if needed_depth(code) > code.co_stacksize
    ]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path, twins):
    run_traced(path.read_text("utf-8"), filename=str(path))

    assert twins
    assert [] == too_small(twins)


@pytest.mark.parametrize("name", MANY)
def test_calls_with_many_arguments(name, twins):
    run_traced(f"with trace():\n    {MANY[name]}\n")

    assert twins
    assert [] == too_small(twins)


def test_the_measure_agrees_with_the_compiler():
    """On code as compiled, the depth found is what the compiler claims, or a slot or two less."""
    waiting = [compile(path.read_text("utf-8"), str(path), "exec") for path in CORPUS]
    waiting.append(compile(Path(__file__).read_text("utf-8"), __file__, "exec"))
    found = []
    while waiting:
        code = waiting.pop()
        waiting += [const for const in code.co_consts if isinstance(const, type(code))]
        if not code.co_stacksize - 2 <= needed_depth(code) <= code.co_stacksize:
            found.append((code.co_qualname, needed_depth(code), code.co_stacksize))

    assert [] == found
