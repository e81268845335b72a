"""Guards say no quickly, look without touching, and forget users' classes."""

from __future__ import annotations

import collections
import gc
import textwrap
import weakref
from pathlib import PurePath

import pytest
from _runtime.driving import inline, traced, want

from tracekit._runtime.guards import HOOKS, forget
from tracekit.testing import same_as_inline

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


PATCHED = {
    "a property": """
class C:
    x = property(lambda self: ask(1))
with trace():
    c = C()
    seen = [c.x]
    C.x = property(lambda self: ask(2))
    seen.append(c.x)
    C.x = 7
    seen.append(c.x)
    del C.x
    seen.append(getattr(c, 'x', None))
""",
    "with setattr": """
class C:
    x = property(lambda self: ask(1))
with trace():
    c = C()
    seen = [c.x]
    setattr(C, 'x', property(lambda self: ask(2)))
    seen.append(c.x)
""",
    "special methods": """
class C:
    def __init__(self): self.n = ask(0)
    def __len__(self): return 1
    def __getattr__(self, name): return ask(name)
with trace():
    c = C()
    seen = [c.n, len(c), c.y]
    C.__len__ = lambda self: ask(5)
    C.__getattr__ = lambda self, name: ask(name * 2)
    def start(self): self.n = ask(9)
    C.__init__ = start
    seen += [C().n, len(c), c.y]
""",
    "defaults and code": """
def f(x=1): return ask(x)
with trace():
    seen = [f(), f()]
    f.__defaults__ = (2,)
    seen.append(f())
    f.__code__ = (lambda x: ask(x + 10)).__code__
    seen.append(f())
    setattr(f, '__defaults__', (3,))
    seen.append(f())
""",
}


@pytest.mark.parametrize("what", PATCHED)
def test_what_is_patched_in_a_block_counts_at_once(what):
    outcome = same_as_inline(PATCHED[what])

    assert outcome.refused is None


def test_what_is_patched_by_code_that_is_not_rewritten_is_right_or_refused():
    same_as_inline(
        """
from unittest import mock
class C:
    x = property(lambda self: ask(1))
    def __len__(self): return ask(2)
with trace():
    c = C()
    seen = [c.x, len(c)]
    with mock.patch.object(C, 'x', 5), mock.patch.object(C, '__len__', lambda self: 3):
        seen += [c.x, len(c)]
    seen.append(len(c))
    seen.append(c.x)
""",
        may_refuse=True,
    )


def test_items_that_ask_behind_some_that_do_not():
    outcome = same_as_inline(
        """
class A:
    def __add__(self, other): return ask(1)
    def __radd__(self, other): return ask(2)
    def __bool__(self): return ask(False)
with trace():
    seen = [sum([0, A()]), sum([0.5, 1, A()], 3), all([1, A()]), any((0, A())), any({0, A()}),
            all({1: A()}.values()), list(map(bool, [1, A()])), len(list(filter(None, [1, A()])))]
"""
    )

    assert outcome.refused is None


class Asking(metaclass=Unhashed):
    """Asks, and its class cannot be looked up in a set."""

    def __init__(self, v=1):
        self.v = v

    def __abs__(self):
        return want(self.v)

    def __call__(self, x):
        return want(x)

    def __getattr__(self, name):
        return want(name)

    def __iter__(self):
        return iter([want(1)])

    def __lt__(self, other):
        return want(True)

    def __len__(self):
        return want(3)

    def __bool__(self):
        return want(True)


def test_calls_with_objects_of_classes_without_a_hash():
    def block():
        a = Asking(5)
        return (
            abs(a), a(2), a.other, [*a], list(a), a < a, len(a), max(a, a).v, sum(a), bool(a),
            list(map(abs, [a])), [a] and len([a]), tuple(x for x in a), getattr(a, "named"),
            (lambda x, *, y: (x.v, y.v))(a, y=a), sorted([a, a])[0].v, textwrap.dedent("x"),
        )  # fmt: skip

    left, right = inline(block).same(traced(block))
    assert left == right
