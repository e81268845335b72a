"""What a body stores and can still store; what a function needs; which names stand beside a call."""

from __future__ import annotations

import dis
from types import CodeType, FunctionType

import pytest

from tracekit._bytecode.names import StoreMap, get_dependencies, names_beside, read_first

SCALE = 3


def enter_offset(function: FunctionType) -> int:
    return next(
        instruction.offset
        for instruction in dis.get_instructions(function)
        if instruction.opname == "BEFORE_WITH"
    )


def at_attribute(code: CodeType, name: str) -> int:
    """The offset where attribute *name* is loaded."""
    return next(
        instruction.offset
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval == name
    )


def straight(m):
    with m as t:
        m.first
        a = 1
        m.second
        b = a
        m.third
    return a, b, t


def looping(m):
    with m:
        for i in range(3):
            m.inside
            h = i
        m.after
        g = 2
    return h, g


def handling(m):
    with m:
        try:
            m.inside
            a = 1
        except KeyError as error:
            m.handling
            b = error
        finally:
            c = 3
        m.after
    return a, b, c


def branching(m):
    with m:
        if m.test:
            m.yes
            a = 1
        else:
            m.no
            b = 2
    return a, b


def outward(m):
    x = 0
    with m:

        def inner():
            nonlocal x
            x = 1

        m.after
    return x, inner


ROWS = [
    (straight, "first", {"a", "b"}),
    (straight, "second", {"b"}),
    (straight, "third", set()),
    (looping, "inside", {"h", "i", "g"}),
    (looping, "after", {"g"}),
    (handling, "inside", {"a", "b", "c", "error"}),
    (handling, "handling", {"b", "c", "error"}),
    (handling, "after", set()),
    (branching, "test", {"a", "b"}),
    (branching, "yes", {"a"}),
    (branching, "no", {"b"}),
    (outward, "after", {"x"}),
]


@pytest.mark.parametrize(
    ("function", "name", "expected"), ROWS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_stores_that_can_still_be_reached(function, name, expected) -> None:
    """At each attribute, exactly the names that a path from there stores to."""
    code = function.__code__
    found = StoreMap(code, enter_offset(function)).reachable(at_attribute(code, name))

    assert expected == set(found)


def test_after_the_body_nothing_is_stored() -> None:
    """An offset outside the body stands for its end."""
    assert set() == set(StoreMap(straight.__code__, enter_offset(straight)).reachable(10**6))


def test_dependencies_are_globals_and_cells() -> None:
    """Builtins and unbound names are no dependencies; nested code counts."""
    base = 2

    def needs(x):
        return [abs(x) * SCALE + base for _ in range(undefined)]  # noqa: F821

    assert {"SCALE": 3, "base": 2} == get_dependencies(needs)


def saving(n, save):
    n.save()
    save(n)
    m = (n + 1).save()
    return m


@pytest.mark.parametrize(("index", "expected"), [(0, {"n"}), (1, {"n"}), (2, {"m"})])
def test_names_beside_a_call(index, expected) -> None:
    """The receiver's or argument's name, or the name that the result is bound to."""
    calls = [i.offset for i in dis.get_instructions(saving) if i.opname == "CALL"]

    assert expected == set(names_beside(saving.__code__, calls[index]))


def reading_and_storing(m, a, b, c, d, e, xs):
    with m:
        a = c = 1
        for d in xs:
            b = a + b
        try:
            e = m.inside
        except KeyError:
            e
        [c for c in xs]
        f = lambda: c  # noqa: E731
    return a, b, c, d, e, f


def test_what_a_body_may_read_before_it_has_stored():
    code = reading_and_storing.__code__
    found = read_first(code, enter_offset(reading_and_storing))

    assert {"b", "e", "m", "xs"} <= found  # `e`: where `m.inside` raises
    assert found.isdisjoint({"a", "d", "f"})
