"""`tracer.explain()`: what was cut, what is rewritten, what is refused."""

from __future__ import annotations

import pytest

from tracekit._runtime.tracer import Tracer
from tracekit.errors import LeavesBlockError


def test_it_tells_names_places_and_instructions():
    def f(values):
        kept = []
        with Tracer() as tracer:
            for value in values:
                kept.append(value.real + 1)
            last = kept[-1]
        see = lambda: last
        return tracer.explain()

    text = f([1, 2])
    first = f.__code__.co_firstlineno

    lines = text.split("\n")
    assert lines[0].endswith(f"test_explain.py:{first + 2}, in {f.__code__.co_qualname}")
    assert "  reads     kept, value, values" in lines
    assert "  binds     last, tracer, value" in lines
    assert "  shares    last" in lines
    assert f"    line {first + 4:<5}attribute value.real" in lines
    assert f"    line {first + 4:<5}operator  value.real + 1" in lines
    assert f"    line {first + 4:<5}call      kept.append(value.real + 1)" in lines
    assert f"    line {first + 5:<5}item      kept[-1]" in lines


def test_without_source_it_is_the_same():
    space = {"Tracer": Tracer}
    exec("with Tracer() as t:\n    x = len([1, 2])\n", space)

    assert "call      len([1, 2])" in space["t"].explain()


def test_it_works_in_the_block():
    with Tracer() as tracer:
        text = tracer.explain()

    assert "call      tracer.explain()" in text


def test_it_shows_the_refusal():
    tracer = Tracer()

    def f():
        with tracer:
            return 1

    with pytest.raises(LeavesBlockError):
        f()

    text = tracer.explain()
    assert "refused:" in text
    assert "`return` on line" in text


def test_nothing_to_ask():
    with Tracer() as tracer:
        pass

    assert "nothing: no instruction" in tracer.explain()


def test_before_it_is_entered():
    tracer = Tracer()
    text = tracer.explain()
    tracer.run(lambda: None)

    assert text == "Tracer: no block has been captured"
