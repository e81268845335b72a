"""Stand-ins take what C takes, stop where it stops, and add up as it does. Each traced and inline."""

from __future__ import annotations

import pytest

from tracekit._runtime.items import VirtualGenerator
from tracekit._runtime.resolve import call
from tracekit.testing import run_inline, run_traced, same_as_inline

ITEMS = """
def items(*xs):
    for x in xs or range(6):
        log("take", x)
        yield ask(x)

def endless():
    n = 0
    while True:
        yield ask(n)
        n += 1

def failing():
    yield ask(5)
    yield ask(0)
    raise KeyError(ask("failed"))

def attempt(f):
    try:
        log(f())
    except Exception as error:
        log(type(error).__name__, str(error))
"""

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
    "calling through operator": """
class Made:
    def __init__(self, x): self.x = ask(x)
with trace():
    log(operator.call(Made, 6).x, operator.call(ask, 7), operator.call(lambda *a, **k: ask(k), y=1))
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
    "comparing functions as keys": """
def compare(a, b): return ask((a > b) - (a < b))
with trace():
    key = functools.cmp_to_key(compare)
    log(sorted([3, 1, 2, 2, 5, 4, 0], key=key), min([3, 1], key=key), key(1) < key(2), key(1).obj)
    log(bisect.bisect([1, 2, 3], key(2), key=key), key(1) == key(1), key(2) >= key(3))
    attempt(lambda: sorted([1, "a"], key=functools.cmp_to_key(lambda a, b: ask(a) - b)))
    del key
""",
    "sorts compare as C does": """
class Value:
    def __init__(self, v): self.v = v
    def __lt__(self, other):
        log(self.v, other.v)
        return ask(self.v < other.v)
with trace():
    for n in (0, 1, 2, 3, 8, 25):
        xs = [Value(i * 7 % 11) for i in range(n)]
        log([x.v for x in sorted(xs)], [x.v for x in sorted(xs, reverse=True)])
        xs.sort(key=lambda x: x)
        log([x.v for x in xs])
    attempt(lambda: sorted([Value(1), Value(0), 3]))
    del xs
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
    "bisecting without a key": """
class Value:
    def __init__(self, v): self.v = v
    def __lt__(self, other): return ask(self.v < other.v)
class Row:
    def __len__(self): return ask(3)
    def __getitem__(self, i): return ask([1, 3, 5][i])
with trace():
    xs = [Value(1), Value(3)]
    bisect.insort(xs, Value(2))
    log(bisect.bisect_left(xs, Value(2)), bisect.bisect(xs, Value(2)), bisect.bisect(Row(), 4))
    log([x.v for x in xs])
    attempt(lambda: bisect.bisect(xs, Value(1), -1))
    del xs
""",
    "templates from a mapping": """
class Missing(dict):
    def __missing__(self, key): return ask(key)
class Shown:
    def __str__(self): return ask("shown")
class Twice:
    def __getitem__(self, key): return ask(key * 2)
with trace():
    log("{x} {y}".format_map(Missing(y=2)), "{x}".format_map({"x": Shown()}))
    log("{a:>4}".format_map(Twice()), "{x}".format_map({"x": 1}))
    attempt(lambda: "{0}".format_map(Twice()))
    attempt(lambda: "{} {}".format(Shown()))
    attempt(lambda: "{x}".format_map({}))
""",
    "subclasses of text and numbers are shown by their __str__": """
class Text(str):
    def __str__(self): return ask("T!")
class Number(int):
    def __str__(self): return ask("N!")
    __repr__ = __str__
with trace():
    log(f"{Text('x')} {Text('x'):>4} {Number(3)} {Number(3):03}", format(Text("q")))
    log("{}".format(Number(9)), "%s %d" % (Text("k"), Number(3)), "".join([Text("a"), "b"]))
""",
    "properties called by their slots": """
class Marked(property):
    def __get__(self, obj, owner=None):
        return self if obj is None else ("marked", super().__get__(obj, owner))
    def __set__(self, obj, value): super().__set__(obj, ask(value))
    def __delete__(self, obj): super().__delete__(obj)
class Holder:
    @Marked
    def a(self): return ask(1)
    @a.setter
    def a(self, value): log("set", ask(value))
    @a.deleter
    def a(self): log("deleted", ask(2))
    @property
    def b(self): return ask(3)
with trace():
    h = Holder()
    h.a = 5
    del h.a
    log(h.a, Holder.b.__get__(h), Holder.b.__get__(h, Holder), property.__get__(Holder.b, h))
    log(Holder.b.__get__(None, Holder) is Holder.b)
    attempt(lambda: Holder.b.__delete__(h))
    del h
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

MODULES = "import bisect, collections, fractions, functools, math, operator\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_c(name):
    same_as_inline(MODULES + ITEMS + PROGRAMS[name])


LONG_SORT = """
class Value:
    def __init__(self, v, tag): self.v, self.tag = v, tag
    def __lt__(self, other): return ask(self.v < other.v)
with trace():
    xs = [Value(i * 37 % 10, i) for i in range(80)]
    tags = [[x.tag for x in sorted(xs, reverse=back)] for back in (False, True)]
"""


def test_a_long_sort_is_stable():
    """Past the length up to which the comparisons are C's, the result still is."""
    (traced,) = run_traced(LONG_SORT)

    assert run_inline(LONG_SORT).names["tags"] == traced.names["tags"]


def test_a_generator_is_called_one_in_messages():
    def items():
        yield 1

    with pytest.raises(StopIteration) as ended:
        call(items).send(None)
    made = ended.value.value

    assert type(made) is VirtualGenerator
    assert type(made).__name__ == "generator"
