"""Guards say no quickly, look without touching, and forget users' classes."""

from __future__ import annotations

import collections
import gc
import weakref
from pathlib import PurePath

import pytest
from _runtime.driving import inline, traced, want

from tracekit._runtime.guards import HOOKS, forget

CASES = [
    (HOOKS.attr("x"), 1),
    (HOOKS.store_attr("x"), 2),
    (HOOKS.delete_attr("x"), 1),
    (HOOKS.binary(0), 2),
    (HOOKS.binary(13), 2),
    (HOOKS.compare("=="), 2),
    (HOOKS.compare("!="), 2),
    (HOOKS.unary("-"), 1),
    (HOOKS.truth, 1),
    (HOOKS.contains, 2),
    (HOOKS.subscr, 2),
    (HOOKS.store_subscr, 3),
    (HOOKS.delete_subscr, 2),
    (HOOKS.iter, 1),
    (HOOKS.unpack, 1),
    (HOOKS.mapping, 1),
    (HOOKS.enter, 1),
    (HOOKS.format(""), 1),
    (HOOKS.format("r"), 1),
]


class Touchy:
    """Everything that a guard must not touch raises, and is found in no rewritten method."""

    __class__ = property(lambda self: 1 / 0)


class Unhashed(type):
    __hash__ = None

    def __eq__(cls, other):
        raise AssertionError


class OfUnhashed(metaclass=Unhashed):
    pass


@pytest.mark.parametrize(("guard", "operands"), CASES, ids=repr)
def test_plain_operands_are_let_be(guard, operands):
    for value in (1, "s", [1], {}, None, 1.5, PurePath("a"), collections.deque(), len, int):
        assert guard(*[value] * operands) is None
        assert guard(*[value] * operands) is None


@pytest.mark.parametrize(("guard", "operands"), CASES, ids=repr)
def test_guards_look_without_touching(guard, operands):
    for value in (Touchy(), OfUnhashed(), OfUnhashed):
        if value is OfUnhashed and guard in (HOOKS.compare("=="), HOOKS.compare("!=")):
            continue  # the metaclass's `__eq__` is rewritten: here it is what is asked for
        assert guard(*[value] * operands) is None
    forget()


def test_a_class_patched_between_runs_is_judged_anew():
    class C:
        x = 1

    c = C()

    def block():
        return c.x

    assert traced(block).value == 1
    C.x = property(lambda self: want(5))
    assert traced(block).value == 5
    C.__add__ = lambda self, other: want(other)
    assert traced(lambda: c + 3).value == 3


def test_no_class_is_kept_after_forget():
    class C:
        def __len__(self):
            return 1

    def block():
        c = C()
        c.x = 1
        return c.x, len(c), bool(c), c == 1, c in [1], str(c), [c] * 2, {"k": c}

    traced(block)
    alive = weakref.ref(C)
    del C, block
    gc.collect()

    assert alive() is None


def test_save_of_an_object_is_its_own():
    class C:
        def save(self):
            return want("own")

    def block():
        return C().save()

    assert inline(block).value == traced(block).value == "own"
