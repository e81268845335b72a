"""Stand-ins take what C takes, stop where it stops, and add up as it does. Each traced and inline."""

from __future__ import annotations

import pytest
from _runtime.driving import ITEMS

from tracekit._runtime.items import VirtualGenerator
from tracekit._runtime.resolve import call
from tracekit.testing import same_as_inline

PROGRAMS = {
    "sums of floats": """
with trace():
    tenths = [0.1] * 10
    log(sum(ask(x) for x in tenths), sum([ask(x) for x in tenths]), sum(map(ask, tenths), 0.5))
    log(sum(ask(x) for x in [1, 0.1, 10**20, -(10**20)]), sum(ask(x) for x in [1e16, 1, -1e16]))
    log(sum(ask(x) for x in [True, 0.1, 2j, 0.1, 0.2]), math.prod(ask(x) for x in tenths))
    log(sum(ask(x) for x in [0.1, 0.2, fractions.Fraction(1, 3), 0.1]))
    attempt(lambda: sum((ask(x) for x in "ab"), ""))
    attempt(lambda: sum(ask(x) for x in [0.1, "a"]))
""",
    "products of objects": """
class Value:
    def __init__(self, v): self.v = v
    def __mul__(self, other): return Value(ask(self.v) * getattr(other, "v", other))
    __rmul__ = __mul__
with trace():
    log(math.prod([Value(2), Value(3)]).v, math.prod((Value(i) for i in (1, 2)), start=Value(5)).v)
""",
    "sets stop when they know": """
with trace():
    for kind in (set, frozenset):
        two = kind({0, 1})
        for name in ("issubset", "issuperset", "isdisjoint", "intersection", "difference", "union"):
            log(name, getattr(two, name)(items()))
        log(two.isdisjoint(endless()), two.issuperset(endless()), kind().isdisjoint(items()))
        log(two.intersection(endless(), endless()), two.intersection(items(), {0}, items(0, 1)))
    two = {0, 1}
    two.intersection_update(items(), endless())
    log(two, {1, 2}.intersection())
""",
    "sets keep what came before an error": """
with trace():
    for name in ("update", "difference_update", "symmetric_difference_update"):
        for source in (failing(), items(5, 0, [], 6)):
            three = {0, 1, 2}
            attempt(lambda: getattr(three, name)(source))
            log(name, three)
    three.update(items(7), [8], items(9))
    log(three)
""",
    "deques keep what came before an error": """
with trace():
    line = collections.deque([9])
    attempt(lambda: line.extendleft(failing()))
    log(list(line))
""",
    "the first item that is refused is the last that is taken": """
with trace():
    for f in (
        lambda: set(items(1, [], 2)), lambda: frozenset(items(1, [], 2)),
        lambda: bytes(items(1, 300, 2)), lambda: bytearray(items(1, "a", 2)),
        lambda: bytearray(b"a").extend(items(1, 300)), lambda: dict.fromkeys(items(1, [], 2)),
        lambda: math.fsum(items(1, "a", 2)), lambda: {1}.issuperset(items(1, [], 2)),
        lambda: {1, 2}.isdisjoint(items(3, [], 2)), lambda: {1, 2}.intersection(items(1, [], 2)),
        lambda: {3}.union(items(1, {}, 2)), lambda: {1}.difference(items(1, [], 2)),
    ):
        attempt(f)
""",
    "wrong calls are refused in the original's words": """
with trace():
    for f in (
        lambda: {1}.isdisjoint(items(), items()), lambda: math.hypot(items()),
        lambda: {1} | items(), lambda: list.index([items]), lambda: enumerate(),
        lambda: list(items(), items()), lambda: sorted(items(), 3), lambda: sum(items(), start=""),
        lambda: max(key=ask), lambda: items()[0], lambda: items() + 1, lambda: len(items()),
        lambda: int(items()), lambda: [].index(items(), "a"), lambda: float(items()),
    ):
        attempt(f)
""",
    "iterables that are none": """
class Odd:
    def __iter__(self): return ask(5)
with trace():
    for f in (
        lambda: "".join(Odd()), lambda: 1 in Odd(), lambda: list(Odd()), lambda: [*Odd()],
        lambda: functools.reduce(max, Odd()), lambda: (lambda *a: a)(*Odd()), lambda: sum(Odd()),
        lambda: dict(Odd()), lambda: set(Odd()), lambda: enumerate(Odd()), lambda: zip(Odd()),
    ):
        attempt(f)
""",
    "what is enumerated may be named": """
with trace():
    log(list(enumerate(iterable=items(1, 2), start=3)), list(enumerate(items(1), ask(1))))
""",
    "lengths are asked for where C asks": """
class Sized(list):
    def __len__(self): return ask(super().__len__())
with trace():
    s = Sized([3, 1])
    log(list(s), tuple(s), [*s], (*s,), sorted(s), {*s}, set(s), max(s), Sized(s)[0])
    log("".join(Sized("ab")), (lambda *a: a)(*s), [x for x in s], list(reversed(s)), s[:])
    first, *rest = s
    plain = [1]
    plain.extend(s)
""",
    "bytes": """
class Good:
    def __bytes__(self): return ask(b"b")
class Bad:
    def __bytes__(self): return ask("b")
with trace():
    log(bytes(Good()))
    attempt(lambda: bytes(Bad()))
""",
    "looking for an element": """
class Value:
    def __init__(self, v): self.v = v
    def __eq__(self, other): return ask(self.v == getattr(other, "v", other))
    def __repr__(self): return f"Value({self.v})"
with trace():
    xs = [Value(1), Value(2), Value(3), Value(2)]
    log(xs.index(Value(2)), xs.index(Value(2), 2), xs.index(Value(2), -2, 9), xs.count(Value(2)))
    log(tuple(xs).index(Value(3)), tuple(xs).count(4), xs.index(3), [1, 2].index(2), "ab".index("b"))
    xs.remove(Value(2))
    log(repr(xs))
    for f in (
        lambda: xs.index(Value(9)), lambda: tuple(xs).index(Value(9)), lambda: xs.remove(Value(9)),
        lambda: xs.index(Value(3), 0, 1), lambda: xs.index(Value(1), "a"),
    ):
        attempt(f)
    del xs
""",
    "yield from a user's own iterator": """
class Source:
    def __init__(self): self.n = 0
    def __iter__(self): return self
    def __next__(self):
        self.n += 1
        if self.n > 3:
            raise StopIteration(ask("done"))
        return ask(self.n)
    def send(self, value): return ask(("sent", value))
    def throw(self, error): return ask(("thrown", type(error).__name__))
    def close(self): log("closed", ask("closing"))
class Bare:
    def __iter__(self): return self
    def __next__(self): return ask("item")
def through(source): return (yield from source)
with trace():
    g = through(Source())
    log(next(g), g.send(5), next(g), g.throw(KeyError("k")), next(g))
    try:
        next(g)
    except StopIteration as stop:
        log(stop.value)
    g = through(Source())
    next(g)
    g.close()
    for source in (Bare(), map(ask, "abc")):
        g = through(source)
        next(g)
        attempt(lambda: g.send(1))
        g = through(source)
        next(g)
        attempt(lambda: g.throw(KeyError("k")))
        g = through(source)
        next(g)
        g.close()
    del g, source
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_c(name):
    same_as_inline(ITEMS + PROGRAMS[name])


def test_a_generator_is_called_one_in_messages():
    def items():
        yield 1

    with pytest.raises(StopIteration) as ended:
        call(items).send(None)
    made = ended.value.value

    assert type(made) is VirtualGenerator
    assert type(made).__name__ == "generator"
