"""One row for each construct in which a value may be asked for: traced equals inline.

A row is a function of no arguments. It is run as it stands, and as its twin, with a model that
answers alike; value, log of side effects, error text with its chain, and the lines of the
traceback must be equal.
"""

from __future__ import annotations

import bisect
import collections.abc
import contextlib
import copy
import dataclasses
import enum
import functools
import heapq
import itertools
import math
import operator
import sys
import typing
from collections import OrderedDict, defaultdict, deque, namedtuple

import pytest
from _runtime.driving import Port, Wrong, inline, note, traced, want

ROWS = []


def row(function):
    ROWS.append(function)
    return function


# -- functions ----------------------------------------------------------------------------------


def helper(x, *more, scale=1, **kw):
    return want(x) * scale + sum(more) + len(kw)


class Base:
    tag = "base"

    def __init__(self, x=1):
        self.x = want(x)

    def method(self, y):
        return want(self.x + y)

    @staticmethod
    def static(y):
        return want(y)

    @classmethod
    def klass(cls, y):
        return cls.tag, want(y)

    @property
    def prop(self):
        return want(self.x)

    @prop.setter
    def prop(self, value):
        self.x = want(value)

    @prop.deleter
    def prop(self):
        want("deleted")

    @functools.cached_property
    def cached(self):
        note("computed")
        return want(self.x)


@row
def function_call():
    return (
        helper(1),
        helper(1, 2, 3, scale=4),
        helper(x=5, a=1, b=2),
        helper(*[1, 2], **{"scale": 3}),
    )


@row
def wrong_arguments():
    return helper()


@row
def error_in_helper():
    return helper("wrong")


@row
def error_is_caught():
    try:
        helper("wrong")
    except Wrong as error:
        note(str(error))
        return want(3)


@row
def error_chain():
    try:
        helper("wrong")
    except Wrong as error:
        raise KeyError(want(1)) from error


@row
def error_context():
    try:
        helper("wrong")
    except Wrong:
        [].pop()


@row
def bare_raise_in_helper():
    def again():
        want(1)
        raise

    try:
        helper("wrong")
    except Wrong:
        again()


@row
def finally_asks():
    try:
        return helper(1)
    finally:
        note(want(2))


@row
def closures_and_lambdas():
    total = 0

    def add(n):
        nonlocal total
        total += want(n)
        return total

    double = lambda v, k=2: want(v) * k
    return add(1), add(2), double(3), (lambda: total)()


@row
def recursion():
    def fact(n):
        return 1 if n == 0 else want(n) * fact(n - 1)

    def even(n):
        return True if n == 0 else odd(want(n) - 1)

    def odd(n):
        return False if n == 0 else even(n - 1)

    return fact(6), even(7), even(4)


@row
def deep_recursion():
    def down(n):
        return want(0) if n == 0 else 1 + down(n - 1)

    return down(250)


@row
def endless_recursion():
    def down(n):
        return down(n + 1)

    try:
        down(0)
    except RecursionError as error:
        return str(error).split(" while")[0].split(" in comp")[0]


@row
def partials():
    return (
        functools.partial(helper, 1)(2),
        functools.partial(functools.partial(helper, scale=2), 3)(scale=5),
        functools.partial(Base(1).method, 4)(),
    )


@row
def decorated():
    def twice(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs) + function(*args, **kwargs)

        return wrapper

    @twice
    def asked(x):
        return want(x)

    return asked(2), asked.__name__


@row
def default_arguments():
    def f(a=want(1), *, b=want(2)):
        return a, b

    return f(), f(3)


# -- classes ------------------------------------------------------------------------------------


@row
def methods():
    b = Base(3)
    return b.method(2), b.static(1), Base.static(2), b.klass(3), Base.klass(4), Base.method(b, 5)


@row
def bound_methods_as_values():
    b = Base(3)
    m, s, k = b.method, b.static, b.klass
    return m(1), s(2), k(3), list(map(m, [1, 2]))


@row
def properties():
    b = Base(3)
    before = b.prop
    b.prop = 9
    b.prop += 1
    del b.prop
    return before, b.x, b.prop, getattr(b, "prop"), hasattr(b, "prop")


@row
def property_error():
    class Bad:
        @property
        def p(self):
            return want("wrong")

    return Bad().p


@row
def property_attribute_error_falls_back():
    class Falls:
        @property
        def p(self):
            want(1)
            raise AttributeError("inner")

        def __getattr__(self, name):
            return want(name)

    return Falls().p, Falls().q, getattr(Falls(), "r", 1), hasattr(Falls(), "s")


@row
def missing_attribute():
    return Base(1).nothing


@row
def missing_attribute_default():
    class Choosy:
        def __getattr__(self, name):
            if want(name) != "ok":
                raise AttributeError(name)
            return 1

    c = Choosy()
    return getattr(c, "no", 5), hasattr(c, "no"), c.ok, hasattr(c, "ok")


@row
def cached_property():
    b = Base(3)
    return b.cached, b.cached, "cached" in b.__dict__


@row
def ports():
    class Node:
        output = Port("out")

    node = Node()
    value = node.output
    node.output = 3
    node.output += "!"
    return value, getattr(node, "output")


@row
def python_descriptors():
    class Data:
        def __set_name__(self, owner, name):
            self.name = name

        def __get__(self, obj, owner=None):
            return want((self.name, obj is None))

        def __set__(self, obj, value):
            want((self.name, value))

        def __delete__(self, obj):
            want((self.name, "del"))

    class NonData:
        def __get__(self, obj, owner=None):
            return want("nondata")

    class C:
        d = Data()
        n = NonData()

    c = C()
    c.d = 1
    first = c.n
    c.__dict__["n"] = "own"
    c.__dict__["d"] = "hidden"
    out = c.d, first, c.n, C.d, C.n
    del c.d
    return out


@row
def getattribute():
    class Spy:
        def __init__(self):
            self.a = 1

        @property
        def p(self):
            return want("p")

        def __getattribute__(self, name):
            note(name)
            want(name)
            return super().__getattribute__(name)

        def method(self):
            return self.a

    s = Spy()
    return s.a, s.method(), s.p


@row
def setattr_delattr():
    class Watch:
        def __setattr__(self, name, value):
            want(("set", name))
            object.__setattr__(self, name, value)

        def __delattr__(self, name):
            want(("del", name))
            super().__delattr__(name)

    w = Watch()
    w.a = 1
    setattr(w, "b", 2)
    del w.a
    delattr(w, "b")
    return vars(w)


@row
def super_chains():
    class Child(Base):
        tag = "child"

        def __init__(self, x):
            super().__init__(x)
            self.y = want(x + 1)

        def method(self, y):
            return super().method(y) + super(Child, self).method(y)

        @property
        def prop(self):
            return super().prop + 1

        @classmethod
        def klass(cls, y):
            return super().klass(y)

    class Grand(Child):
        def method(self, y):
            return super().method(y) * 2

    g = Grand(5)
    return g.x, g.y, g.method(1), g.prop, Grand.klass(2), g.klass(3)


@row
def new_and_init():
    class Made:
        def __new__(cls, *args):
            made = super().__new__(cls)
            made.first = want(args)
            return made

        def __init__(self, *args):
            self.second = want(len(args))

    class Other:
        def __new__(cls):
            return want(7)

        def __init__(self):
            note("never")

    m = Made(1, 2)
    return m.first, m.second, Other()


@row
def init_returns_something():
    class Bad:
        def __init__(self):
            return want(1)

    return Bad()


@row
def init_wrong_arguments():
    return Base(1, 2, 3)


@row
def no_init():
    class Empty:
        pass

    try:
        return Empty(1)
    except TypeError as error:
        return str(error)


@row
def abstract():
    import abc

    class A(abc.ABC):
        @abc.abstractmethod
        def f(self): ...

    class B(A):
        def f(self):
            return want(1)

    try:
        A()
    except TypeError as error:
        note(str(error))
    return B().f()


@row
def call_method():
    class Callable:
        def __call__(self, x, k=1):
            return want(x) + k

    c = Callable()
    return c(1), c(2, k=5), list(map(c, [1])), functools.partial(c, 3)()


@row
def dataclass():
    @dataclasses.dataclass(order=True)
    class D:
        x: int
        y: int = 2
        z: list = dataclasses.field(default_factory=lambda: want([1]))

        def __post_init__(self):
            self.y = want(self.y)

    d = D(1)
    e = dataclasses.replace(d, x=5)
    return repr(d), repr(e), dataclasses.asdict(d), D(1) == D(1), D(1) < D(2)


@row
def named_tuple():
    P = namedtuple("P", "a b")

    class Q(typing.NamedTuple):
        a: int
        b: int = 2

        def total(self):
            return want(self.a) + self.b

    return P(want(1), 2), P(*(want(i) for i in range(2))), Q(3).total(), P.__module__ == __name__


@row
def enums():
    class Color(enum.Enum):
        RED = 1
        BLUE = 2

        @property
        def asked(self):
            return want(self.value)

        def method(self):
            return want(self.name)

    return repr(Color(1)), Color.RED.asked, Color["BLUE"].method(), [c.asked for c in Color]


@row
def generic_class():
    T = typing.TypeVar("T")

    class Box(typing.Generic[T]):
        def __init__(self, x):
            self.x = want(x)

        @classmethod
        def __class_getitem__(cls, item):
            note(("item", item))
            return super().__class_getitem__(item)

    return Box(1).x, Box[int](2).x


@row
def class_getitem():
    class C:
        def __class_getitem__(cls, item):
            return want(item)

    return C[3]


@row
def class_body_asks():
    outer = 5

    class C(Base):
        a = want(1)
        b = [want(i) + outer for i in range(2)]

        def m(self):
            return __class__.__name__, want(self.a)

    return C.a, C.b, C(1).m(), C.__qualname__.split(".")[-1]


@row
def class_body_with_metaclass():
    class Meta(type):
        @classmethod
        def __prepare__(meta, name, bases, **kw):
            note(("prepare", name, sorted(kw)))
            return {"extra": 1}

        def __new__(meta, name, bases, ns, **kw):
            return super().__new__(meta, name, bases, ns)

        def __init__(cls, name, bases, ns, **kw):
            super().__init__(name, bases, ns)

    class C(metaclass=Meta, flag=1):
        b = want(extra)

    return C.b, C.extra, type(C).__name__


@row
def init_subclass():
    class P:
        def __init_subclass__(cls, **kw):
            note(sorted(kw))

    class C(P, a=1):
        x = want(2)

    return C.x


# -- operators ----------------------------------------------------------------------------------


class Num:
    def __init__(self, v):
        self.v = v

    def __repr__(self):
        return f"Num({self.v})"


def _fill(names, make):
    for name in names.split():
        setattr(Num, f"__{name}__", make(name))


_fill(
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod",
    lambda n: lambda self, other: want((n, self.v, getattr(other, "v", other))),
)
_fill(
    "radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul rand ror rxor rlshift rrshift rdivmod",
    lambda n: lambda self, other: want((n, self.v, other)),
)
_fill("lt le gt ge eq ne", lambda n: lambda self, other: want((n, self.v)))
_fill("neg pos invert abs", lambda n: lambda self: want((n, self.v)))
_fill("int index", lambda n: lambda self: want(self.v))
_fill("float", lambda n: lambda self: float(want(self.v)))
_fill("floor ceil trunc", lambda n: lambda self: want((n, self.v)))
_fill("round", lambda n: lambda self, d=None: want((n, self.v, d)))
_fill("hash", lambda n: lambda self: want(hash(self.v)))
_fill("iadd", lambda n: lambda self, other: want((n, self.v, other)))


@row
def operators():
    a, b = Num(1), Num(2)
    return (
        [
            a + b,
            a - b,
            a * b,
            a / b,
            a // b,
            a % b,
            a**b,
            a @ b,
            a & b,
            a | b,
            a ^ b,
            a << b,
            a >> b,
        ],
        [a + 1, 1 + a, 1 - a, 2 * a, 2 / a, 2 // a, 2 % a, 2**a, 2 @ a, 2 & a, 2 | a, 2 ^ a],
        [
            2 << a,
            2 >> a,
            [1] + a,
            [1] * a,
            "x" + a,
            (1,) * a,
            divmod(a, 2),
            divmod(2, a),
            pow(a, 2),
        ],
        [a < b, a <= b, a > b, a >= b, a == b, a != b, 1 < a, 1 == a, 1 != a],
        [-a, +a, ~a, abs(a), int(a), float(a), round(a), round(a, 2), hash(a)],
        [math.floor(a), math.ceil(a), math.trunc(a), operator.index(a)],
    )


@row
def inplace_operators():
    a = Num(1)
    b = a
    a += 5
    b -= 2
    c = [1]
    c += (want(i) for i in range(3))
    d = {1: 2}
    d |= ((want(i), i) for i in range(2))
    e = deque([1])
    e += (want(i) for i in range(2))
    return a, b, c, d, e


@row
def unsupported_operands():
    class P:
        def __add__(self, other):
            want("add")
            return NotImplemented

        __radd__ = __lt__ = __pow__ = __iadd__ = __mul__ = __add__

    out = []
    p = P()
    for op in (
        lambda: p + 1, lambda: 1 + p, lambda: p < 1, lambda: 1 > p, lambda: p**2, lambda: p * 2,
        lambda: p + "s", lambda: [] + p, lambda: "s" + p, lambda: p - 1, lambda: -p,
        lambda: p + p, lambda: p @ p, lambda: 2 * p, lambda: p * [1],
    ):  # fmt: skip
        try:
            out.append(op())
        except TypeError as error:
            out.append(str(error))
    try:
        p += 1
    except TypeError as error:
        out.append(str(error))
    return out


@row
def reflected_subclass_first():
    class A:
        def __add__(self, other):
            return want("A.add")

        def __radd__(self, other):
            return want("A.radd")

        def __eq__(self, other):
            return want("A.eq")

        def __lt__(self, other):
            return want("A.lt")

        __hash__ = None

    class B(A):
        def __radd__(self, other):
            return want("B.radd")

        def __eq__(self, other):
            return want("B.eq")

        def __gt__(self, other):
            return want("B.gt")

        __hash__ = None

    class C(A):
        pass

    a, b, c = A(), B(), C()
    return a + b, b + a, a + c, c + a, a == b, b == a, a < b, b < a, a != b


@row
def default_not_equal():
    class E:
        def __init__(self, v):
            self.v = v

        def __eq__(self, other):
            if not isinstance(other, E):
                return NotImplemented
            return want(self.v) == other.v

    a, b, c = E(1), E(1), E(2)
    return a == b, a != b, a == c, a != c, a == 1, a != 1, 1 == a, [a] == [a], a in [1, c]


@row
def total_ordering():
    @functools.total_ordering
    class T:
        def __init__(self, v):
            self.v = v

        def __eq__(self, other):
            return want(self.v) == other.v

        def __lt__(self, other):
            return want(self.v) < other.v

    a, b = T(1), T(2)
    return a < b, a <= b, a > b, a >= b, sorted([b, a])[0] is a, min(b, a) is a, max([a, b]) is b


@row
def truth_values():
    class B:
        def __init__(self, v):
            self.v = v

        def __bool__(self):
            return want(self.v)

    class L:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return want(self.n)

    out = []
    for o in (B(True), B(False), L(0), L(2)):
        if o:
            out.append("yes")
        out.append(not o)
        out.append(1 if o else 2)
        out.append(type(o and 1).__name__)
        out.append(type(o or 1).__name__)
        while not o:
            break
        out.append(bool(o))
    out += [len(L(3)), any([B(False), B(True)]), all([B(True), L(0)])]
    return out


@row
def bad_truth_and_length():
    class Bad:
        def __bool__(self):
            return want(3)

        def __len__(self):
            return want(-1)

    out = []
    for f in (lambda: not Bad(), lambda: len(Bad()), lambda: bool(Bad())):
        try:
            out.append(f())
        except (TypeError, ValueError) as error:
            out.append((type(error).__name__, str(error)))
    return out


@row
def chained_comparison():
    a = Num(1)
    return 0 < a < 3, want(1) < want(2) < want(3), want(3) < want(2) < want(9)


@row
def bool_operators_in_conditions():
    out = []
    for i in range(4):
        if want(i) > 1 and want(i) < 3 or not want(i):
            out.append(i)
    assert want(1) == 1, want("never")
    return out


@row
def assertion_fails():
    assert want(0), f"message {want(1)}"


# -- containers ---------------------------------------------------------------------------------


class Bag:
    def __init__(self, *items):
        self.items = list(items)

    def __getitem__(self, key):
        return want(self.items[key])

    def __setitem__(self, key, value):
        self.items[key] = want(value)

    def __delitem__(self, key):
        want(("del", key))
        del self.items[key]

    def __contains__(self, item):
        return want(item in self.items)

    def __len__(self):
        return want(len(self.items))


@row
def subscripts():
    b = Bag(1, 2, 3, 4)
    first, part = b[0], b[1:3]
    b[0] = 9
    b[1:2] = [7, 8]
    b[0] += 1
    del b[-1]
    del b[0:1]
    return first, part, b.items, 7 in b, 5 in b, 5 not in b, len(b)


@row
def subscript_errors():
    out = []
    for f in (lambda: Bag()[3], lambda: Base(1)[0], lambda: 3 in Base(1)):
        try:
            out.append(f())
        except (IndexError, TypeError) as error:
            out.append(str(error))
    return out


@row
def old_iteration():
    class Old:
        def __getitem__(self, i):
            if i > 2:
                raise IndexError
            return want(i)

        def __len__(self):
            return want(3)

    o = Old()
    return (
        [x for x in o], list(o), 1 in o, 9 in o, tuple(o), sum(o), list(reversed(o)), list(iter(o)),
        list(zip(o, o)), max(o),
    )  # fmt: skip


@row
def user_iterators():
    class Count:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            note("iter")
            return self

        def __next__(self):
            if self.n == 0:
                raise StopIteration
            self.n -= 1
            return want(self.n)

    class Tree:
        def __init__(self, *kids):
            self.kids = kids

        def __iter__(self):
            yield want(len(self.kids))
            for kid in self.kids:
                yield from kid

    out = []
    for x in Count(3):
        out.append(x)
    else:
        out.append("else")
    a, *rest = Count(4)
    it = iter(Count(2))
    out += [next(it), next(it), next(it, "default")]
    try:
        next(it)
    except StopIteration as stop:
        out.append(("stop", stop.value))
    return (
        out, a, rest, [*Count(2)], {*Count(2)}, tuple(Count(2)), sorted(Count(3)), 1 in Count(3),
        list(Tree(Tree(), Tree(Tree()))), note(*Count(1)), dict.fromkeys(Count(2)),
        list(enumerate(Count(2), 5)), list(zip(Count(3), Count(2))), ",".join(map(str, Count(2))),
    )  # fmt: skip


@row
def not_iterable():
    out = []

    class Bad:
        def __iter__(self):
            return want(5)

    for f in (
        lambda: list(Bad()),
        lambda: [x for x in Bad()],
        lambda: iter(Bad()),
        lambda: (*Bad(),),
    ):
        try:
            out.append(f())
        except TypeError as error:
            out.append(str(error))
    for x in Base(1):
        pass


@row
def unpacking():
    def gen(n):
        for i in range(n):
            yield want(i)

    a, b = gen(2)
    c, *d, e = gen(5)
    (f, g), h = gen(2), 1
    out = [a, b, c, d, e, f, g, h, [*gen(2), *gen(1)], (*gen(2),), {*gen(2)}]
    for n in (1, 3):
        try:
            x, y = gen(n)
        except ValueError as error:
            out.append(str(error))
    return out


@row
def infinite_unpacking():
    def forever():
        while True:
            yield want(1)

    try:
        a, b = forever()
    except ValueError as error:
        return str(error)


@row
def mappings():
    class M:
        def keys(self):
            yield want("a")
            yield want("b")

        def __getitem__(self, key):
            return want(key * 2)

    def f(**kw):
        return kw

    return {**M(), "c": 1}, f(**M()), f(z=1, **M()), dict(M()), dict(M(), z=2), {} | dict(M())


@row
def missing_keys():
    class D(dict):
        def __missing__(self, key):
            return want(key)

    d = D(a=1)
    dd = defaultdict(lambda: want([]))
    dd["x"].append(1)
    dd["x"].append(2)
    return d["a"], d["b"], d, dict(dd), D.get(d, "q")


@row
def collection_mixins():
    class Seq(collections.abc.Sequence):
        def __len__(self):
            return want(3)

        def __getitem__(self, i):
            if i >= 3:
                raise IndexError
            return want(i)

    class Map(collections.abc.MutableMapping):
        def __init__(self):
            self.d = {}

        def __getitem__(self, k):
            return want(self.d[k])

        def __setitem__(self, k, v):
            self.d[k] = want(v)

        def __delitem__(self, k):
            del self.d[k]

        def __iter__(self):
            for k in self.d:
                yield want(k)

        def __len__(self):
            return len(self.d)

    s, m = Seq(), Map()
    m.update(a=1, b=2)
    return (
        list(s), 2 in s, s.index(1), s.count(2), list(reversed(s)), m.get("a"), m.get("z", 4),
        list(m.items()), dict(m), m.pop("a"), m.setdefault("q", 3), sorted(m), m == {"b": 2, "q": 3},
    )  # fmt: skip


@row
def builtin_subclasses():
    class L(list):
        def first(self):
            return want(self[0])

    class T(tuple):
        __slots__ = ()

    class D(dict):
        pass

    def gen():
        for i in range(3):
            yield want(i)

    x = L(gen())
    x.extend(gen())
    return x, x.first(), T(gen()), D((want(i), i) for i in range(2)), L(x), set(gen()), deque(gen())


@row
def user_collections():
    class U(collections.UserList):
        def __getitem__(self, i):
            return want(super().__getitem__(i))

    u = U(want(i) for i in range(3))
    c = collections.Counter(want(x) for x in "abca")
    o = OrderedDict((want(k), 1) for k in "ab")
    ch = collections.ChainMap({"a": 1}, {"b": 2})
    return u[1], list(u), c, o, ch["b"]


# -- generators ---------------------------------------------------------------------------------


@row
def generator_in_for():
    def gen(n):
        note("start")
        for i in range(n):
            yield want(i)
        note("end")
        return "returned"

    out = []
    for x in gen(3):
        note(x)
        out.append(x)
        if x == 1:
            continue
    for x in gen(5):
        if x == 2:
            break
    else:
        out.append("else")
    return out


@row
def generator_protocol():
    def echo():
        got = None
        while True:
            try:
                got = yield want(got)
            except KeyError as error:
                got = yield want(str(error))
            finally:
                note("finally")

    e = echo()
    out = [next(e), e.send(1), e.throw(KeyError("k")), e.send(2)]
    e.close()
    e.close()
    try:
        e.send(1)
    except StopIteration as stop:
        out.append(repr(stop))
    e = echo()
    try:
        e.send(3)
    except TypeError as error:
        out.append(str(error))
    try:
        e.throw(ValueError("before start"))
    except ValueError as error:
        out.append(str(error))
    return out, next(e, "gone")


@row
def generator_return_value():
    def inner():
        got = yield want(1)
        note(got)
        yield want(2)
        return want(3)

    def outer():
        value = yield from inner()
        note(value)
        yield value
        try:
            yield from [want(4), 5]
        finally:
            note("done")

    g = outer()
    out = [next(g), g.send("sent"), next(g), next(g), list(g)]
    h = inner()
    try:
        while True:
            out.append(next(h))
    except StopIteration as stop:
        out.append(stop.value)
    return out


@row
def generator_delegation():
    def inner():
        try:
            yield want(1)
        except KeyError:
            yield want("caught")
        yield 3

    class It:
        def __iter__(self):
            return self

        n = 0

        def __next__(self):
            self.n += 1
            if self.n > 2:
                raise StopIteration(want("value"))
            return want(self.n)

    def outer(x):
        value = yield from x
        yield ("value", value)

    g = outer(inner())
    out = [next(g), g.throw(KeyError()), list(g)]
    out += [
        list(outer(It())),
        list(outer("ab")),
        list(outer(map(want, [1]))),
        list(outer(range(2))),
    ]
    try:
        list(outer(5))
    except TypeError as error:
        out.append(str(error))
    return out


@row
def generator_closes():
    def gen():
        try:
            yield want(1)
            yield want(2)
        finally:
            note(("closing", want(3)))

    g = gen()
    next(g)
    g.close()
    return [x for x in gen()], list(g)


@row
def generator_ignores_exit():
    def gen():
        while True:
            try:
                yield want(1)
            except GeneratorExit:
                pass

    g = gen()
    next(g)
    try:
        g.close()
    except RuntimeError as error:
        out = str(error)
    try:
        g.throw(ZeroDivisionError)
    except ZeroDivisionError:
        pass
    return out


@row
def generator_raises_stopiteration():
    def gen():
        yield want(1)
        raise StopIteration(want(2))

    return list(gen())


@row
def next_raises_in_generator():
    def gen():
        yield want(1)
        yield next(iter([]))

    return [x for x in gen()]


@row
def generator_already_running():
    def gen():
        yield next(g)

    g = gen()
    try:
        next(g)
    except ValueError as error:
        return str(error)


@row
def generator_looks_like_one():
    import inspect
    import types

    def gen():
        x = yield want(1)

    g = gen()
    before = inspect.getgeneratorstate(g)
    next(g)
    return (
        isinstance(g, types.GeneratorType), inspect.isgenerator(g), g.__name__, before,
        inspect.getgeneratorstate(g), g.gi_code is gen.__code__, iter(g) is g, repr(g)[:30],
        isinstance(g, collections.abc.Generator), g.gi_frame.f_code.co_name, g.gi_yieldfrom,
    )  # fmt: skip


@row
def comprehensions():
    xs = range(3)
    return (
        [want(x) for x in xs], {want(x) for x in xs}, {want(x): want(-x) for x in xs},
        list(want(x) for x in xs), [[want(y) for y in range(x)] for x in xs],
        [x for x in xs if want(x)], [y for x in xs for y in (want(x),)],
        sum(want(x) for x in (want(y) for y in xs)), [(lambda: want(x))() for x in xs],
    )  # fmt: skip


@row
def generator_expression_lazy():
    g = (note(want(x)) for x in range(5))
    note("made")
    return next(g), next(g), list(g), list(g)


@row
def walrus_in_comprehension():
    return [last := want(x) for x in range(3)], last


# -- with ---------------------------------------------------------------------------------------


class Manager:
    def __init__(self, name, swallow=False):
        self.name, self.swallow = name, swallow

    def __enter__(self):
        return want(self.name)

    def __exit__(self, kind, error, tb):
        note((self.name, kind and kind.__name__, str(error), tb is not None))
        return want(self.swallow)


@row
def managers():
    with Manager("a") as a, Manager("b") as b:
        note((a, b))
    with Manager("c", swallow=True):
        want("wrong")
    for i in range(2):
        with Manager(i):
            if i == 0:
                continue
            break
    with Manager("d"):
        return want(1)


@row
def manager_does_not_swallow():
    with Manager("a"):
        want("wrong")


@row
def no_manager():
    with Base(1):
        pass


@contextlib.contextmanager
def managed(name, swallow=False):
    note(("enter", name))
    try:
        yield want(name)
    except Wrong as error:
        note(("caught", str(error)))
        if not swallow:
            raise
    finally:
        note(("exit", want(name)))


@row
def contextmanagers():
    with managed("a") as a, managed("b", swallow=True) as b:
        note((a, b))
        want("wrong")
    try:
        with managed("c"):
            want("wrong")
    except Wrong:
        note("outside")

    @managed("decorator")
    def f(x):
        return want(x)

    return f(1), f(2)


@row
def stopiteration_through_contextmanager():
    with managed("a"):
        raise StopIteration(want(1))


@row
def exit_stack():
    with contextlib.ExitStack() as stack:
        a = stack.enter_context(managed("a"))
        b = stack.enter_context(Manager("b", swallow=True))
        stack.callback(want, "callback")
        stack.push(lambda *error: note(error[0] and error[0].__name__))
        want("wrong")
    with contextlib.suppress(Wrong):
        want("wrong")
    with contextlib.closing(x for x in [1]) as g:
        note(next(g))
    with contextlib.nullcontext(want(5)) as n:
        return a, b, n


# -- text ---------------------------------------------------------------------------------------


@row
def texts():
    class T:
        def __str__(self):
            return want("str")

        def __repr__(self):
            return want("repr")

        def __format__(self, spec):
            return want(f"format {spec}")

    class R:
        def __repr__(self):
            return want("répr")

    t, r = T(), R()
    return (
        f"{t} {t!s} {t!r} {t:x} {t!s:>5} {r} {r!a} {want(1)} {want(2)=} {want(1.5):.2f}", str(t),
        repr(t), format(t), format(t, "q"), str(r), ascii(r), f"{r!s:>8}", str(1), format(2, "x"),
    )  # fmt: skip


@row
def texts_from_templates():
    class T:
        def __str__(self):
            return want("str")

        def __repr__(self):
            return want("repr")

        @property
        def p(self):
            return want("property")

    t = T()
    return (
        "%s %r %5.1f%% %s" % (t, t, 1.25, 2), "%s" % t, "%(k)s %(k)r" % {"k": t}, "%*d %s" % (5, 3, t),
        "{} {!r:>6} {k} {k.p} {x[a]:.2f}".format(t, t, k=t, x={"a": 1.5}), "{:d}".format(3),
        "%-8s|" % t, "%s" % (t,), "%s %s" % ("a", 1), 7 % 4, "%d" % 3,
    )  # fmt: skip


@row
def template_errors():
    class T:
        def __str__(self):
            return want("str")

    out = []
    for f in (lambda: "%s %s" % T(), lambda: "%d" % T(), lambda: "%s" % (T(), T())):  # noqa: F507
        try:
            out.append(f())
        except TypeError as error:
            out.append(str(error))
    return out


@row
def text_errors():
    class Bad:
        def __repr__(self):
            return want(3)

        __str__ = __format__ = __repr__

    out = []
    for f in (
        lambda: str(Bad()),
        lambda: repr(Bad()),
        lambda: f"{Bad()!r}",
        lambda: f"{Base(1):x}",
    ):
        try:
            out.append(f())
        except TypeError as error:
            out.append(str(error))
    return out


# -- match --------------------------------------------------------------------------------------


@row
def matching():
    class Point:
        __match_args__ = ("x", "y")

        def __init__(self, x, y):
            self._x, self._y = x, y

        @property
        def x(self):
            return want(self._x)

        @property
        def y(self):
            return want(self._y)

    out = []
    for p in (Point(0, 1), Point(2, 2), 5, "s", Point(3, 4), [1, 2], {"k": 1}):
        match p:
            case Point(0, y):
                out.append(("zero", y))
            case Point(x=2) if want(True):
                out.append("two")
            case Point(a, b):
                out.append((a, b))
            case int(n):
                out.append(n)
            case [first, *_]:
                out.append(first)
            case {"k": k}:
                out.append(k)
            case _:
                out.append("other")
    try:
        match Point(1, 2):
            case Point(1, 2, 3):
                pass
    except TypeError as error:
        out.append(str(error))
    return out


@row
def matching_of_user_collections():
    class Row(collections.abc.Sequence):
        def __init__(self, *xs):
            self.xs = xs

        def __len__(self):
            return want(len(self.xs))

        def __getitem__(self, i):
            note(i)
            want("item")
            return self.xs[i]

    class Table(collections.abc.Mapping):
        def __init__(self, **d):
            self.d = d

        def __len__(self):
            return want(len(self.d))

        def __iter__(self):
            return (want(k) for k in self.d)

        def __getitem__(self, k):
            want(k)
            return self.d[k]

    class Own(dict):
        def get(self, k, d=None):
            return super().get(want(k), d)

    def match(value):
        match value:
            case [0, *_]:
                return "zero"
            case [x]:
                return "one", x
            case [x, *_, 9]:
                return "nine", x
            case [x, [y, z], *rest]:
                return "nested", x, y, z, rest
            case [x, *rest]:
                return "more", x, rest
            case {"k": 1}:
                return "k is 1"
            case {"k": [a, b]}:
                return "k is a pair", a, b
            case {"k": v, **others}:
                return "k", v, others
            case {"z": {"w": w}}:
                return "z", w
            case {}:
                return "a mapping"

    class Same:
        a = b = "k"

    out = [
        match(value)
        for value in (
            Row(0, 1), Row(5), Row(1, 2, 9), Row(1, Row(2, 3), 4), Row(1, 2), Row(), Table(k=1),
            Table(k=Row(1, 2)), Table(k=2, j=3), Table(z=Table(w=4)), Table(), Own(k=1), Own(k=3, l=4),
            {"k": 1}, [1, 2], (0,), "text", 3,
        )
    ]  # fmt: skip
    try:
        match Table(k=1):
            case {Same.a: 1, Same.b: 1}:
                pass
    except ValueError as error:
        out.append(str(error))
    return out


# -- raise --------------------------------------------------------------------------------------


class Described(Exception):
    def __init__(self, *args):
        super().__init__(want("description"), *args)


@row
def raised_classes():
    class Made(Exception):
        def __new__(cls, *args):
            want("made")
            return super().__new__(cls, *args)

    class NoError(Exception):
        def __new__(cls, *args):
            return want(5)

    def plain():
        raise Described

    def with_a_cause():
        raise Described from Made

    def instance_with_a_cause():
        raise Made from Described(1)

    def no_error():
        raise NoError

    def no_exception():
        raise 5

    def no_exception_class():
        raise int

    def no_cause():
        raise Described from 5

    def straight():
        raise KeyError

    def asserted():
        assert not want(1), want("message")

    out = []
    for f in (
        plain, with_a_cause, instance_with_a_cause, no_error, no_exception, no_exception_class,
        no_cause, straight, asserted,
    ):  # fmt: skip
        try:
            f()
        except Exception as error:
            cause = error.__cause__
            out.append((type(error), error.args, type(cause), cause and cause.args))
            note(error.__context__)
    return str(out)


@row
def raised_class_leaves():
    raise Described


# -- callbacks that C drives --------------------------------------------------------------------


def numbers(n=4):
    for i in range(n):
        note(("item", i))
        yield want(i)


def ask_key(x):
    return want(-x)


@row
def consumers():
    return (
        list(numbers()), tuple(numbers()), set(numbers()), frozenset(numbers()), sum(numbers()),
        sum(numbers(), 10), any(numbers()), all(numbers()), min(numbers()), max(numbers()),
        sorted(numbers()), sorted(numbers(), reverse=True), dict(enumerate(numbers())),
        list(zip(numbers(), "ab")), list(map(ask_key, numbers())), bytes(numbers()),
        list(filter(ask_key, numbers())), list(filter(None, numbers())), math.prod(numbers()),
        "-".join(str(x) for x in numbers()), list(reversed(list(numbers()))), 2 in numbers(),
        next(numbers()), len(list(numbers())), dict((k, k) for k in numbers()), [*numbers(2)],
    )  # fmt: skip


@row
def keys():
    xs = [3, 1, 2]
    xs.sort(key=ask_key)
    ys = ["b", "a"]
    ys.sort(key=lambda s: want(s), reverse=True)
    return (
        xs, ys, sorted([1, 3, 2], key=ask_key), min([1, 3, 2], key=ask_key), max(1, 3, 2, key=ask_key),
        max([], key=ask_key, default=5), min((), default=want(1)), heapq.nlargest(2, [1, 3, 2], key=ask_key),
        heapq.nsmallest(1, numbers()), list(heapq.merge([1, 3], [2], key=lambda x: want(x))),
        bisect.bisect([1, 2, 3], 2, key=lambda x: want(x)),
        sorted([1, 2, 3, 4], key=lambda x: want(x % 2), reverse=True),
    )  # fmt: skip


@row
def key_errors():
    out = []
    for f in (
        lambda: max(x for x in ()), lambda: min([], key=ask_key), lambda: sum(("a" for _ in "ab")),
        lambda: sum((want(i) for i in "ab"), ""), lambda: sorted((want(x) for x in [1, "a"])),
        lambda: max(numbers(), key=5), lambda: functools.reduce(ask_key, (x for x in ())),
        lambda: dict(want(x) for x in [1]), lambda: dict(want((x,)) for x in [1]),
        lambda: next(numbers(0)), lambda: ",".join(numbers()), lambda: list(zip(numbers(), 5)),
        lambda: list(zip(numbers(2), numbers(3), strict=True)), lambda: sorted([1], key=helper),
        lambda: list(zip(numbers(3), numbers(2), strict=True)), lambda: max([1], [2], key=ask_key, default=1),
    ):  # fmt: skip
        try:
            out.append(f())
        except Exception as error:
            out.append((type(error).__name__, str(error)))
    return out


@row
def sort_of_a_list_that_is_looked_at():
    xs = [3, 1, 2]
    xs.sort(key=lambda x: note(len(xs)) + want(x))
    try:
        xs.sort(key=lambda x: xs.append(want(x)))
    except (ValueError, TypeError) as error:
        note(str(error))
    return xs


@row
def reduce():
    return (
        functools.reduce(lambda a, b: want(a + b), [1, 2, 3]),
        functools.reduce(operator.add, numbers(), 10),
        functools.reduce(lambda a, b: want(a), [1]),
    )


@row
def mutators():
    xs, s, d, q = [1], {1}, {"a": 1}, deque([1])
    xs.extend(numbers(2))
    list.extend(xs, numbers(1))
    s.update(numbers(2), numbers(3))
    d.update((k, want(k)) for k in "bc")
    d.update({"z": 1}, y=2)
    q.extend(numbers(2))
    xs[1:2] = numbers(2)
    return xs, s, d, q, s.union(numbers(5)), {1, 2} & set(numbers(2)), {7}.issubset(numbers())


@row
def extend_fails_halfway():
    def gen():
        yield 1
        yield want("wrong")

    xs = [0]
    try:
        xs.extend(gen())
    except Wrong:
        pass
    return xs


@row
def lazy_order():
    m = map(ask_key, numbers(2))
    f = filter(lambda x: want(x) < 2, numbers(3))
    z = zip(m, f)
    note("made")
    return next(z), list(z), isinstance(m, map), list(enumerate(map(want, "ab")))


@row
def iter_forms():
    source = iter([1, 2, 3, 0, 4])
    xs = list(iter(lambda: want(next(source)), 0))
    it = iter(numbers(3))
    return xs, next(it), list(it), next(iter(numbers(0)), "none"), next(map(ask_key, [5]))


@row
def stopiteration_from_next_in_body():
    try:
        next(numbers(0))
    except StopIteration as stop:
        note(stop.value)
    it = iter([])
    next(it)


@row
def stopiteration_from_callback():
    def f(x):
        if x == 2:
            raise StopIteration
        return want(x)

    return list(map(f, [1, 2, 3]))


@row
def iterators_of_itertools():
    i = itertools
    return (
        list(i.chain(numbers(2), "a")), list(i.chain.from_iterable(numbers(n) for n in range(2))),
        list(i.islice(numbers(), 2)), list(i.islice(numbers(9), 1, 8, 3)), list(i.product(numbers(2), "ab")),
        list(i.starmap(lambda a, b: want(a + b), [(1, 2), (3, 4)])),
        list(i.takewhile(lambda x: want(x) < 2, numbers())), list(i.dropwhile(lambda x: want(x) < 2, numbers())),
        list(i.accumulate(numbers())), list(i.accumulate([1, 2], lambda a, b: want(a * b), initial=3)),
        [(k, list(g)) for k, g in i.groupby([1, 1, 2, 2, 1], key=lambda x: want(x))],
        [k for k, g in i.groupby(numbers())], list(i.zip_longest(numbers(2), "abc", fillvalue=0)),
        list(i.compress(numbers(), [1, 0, 1])), list(i.filterfalse(lambda x: want(x) % 2, numbers())),
        list(i.pairwise(numbers())), list(i.permutations(numbers(3), 2)), list(i.combinations(numbers(3), 2)),
        [list(t) for t in i.tee(numbers(3))], list(i.islice(i.cycle(numbers(2)), 5)),
        list(zip(i.count(), numbers(2))), list(i.islice(i.repeat(want(1)), 2)),
        list(map(want, i.chain([1], [2]))),
    )  # fmt: skip


@row
def operator_functions():
    b = Base(3)
    n = Num(1)
    return (
        operator.attrgetter("prop", "x")(b), operator.attrgetter("prop.real")(b),
        operator.methodcaller("method", 2)(b), operator.itemgetter(0, 1)(Bag(5, 6)), operator.add(n, 2),
        operator.getitem(Bag(7), 0), operator.contains(Bag(7), 7), operator.lt(n, 2), operator.neg(n),
        list(map(operator.attrgetter("prop"), [b, b])), sorted([b], key=operator.attrgetter("prop")) == [b],
        operator.methodcaller("method", y=4)(b), operator.truth(Bag()), operator.iadd([1], numbers(2)),
    )  # fmt: skip


@row
def caches():
    calls = []

    @functools.lru_cache(maxsize=None)
    def unbounded(x):
        calls.append(x)
        return want(x)

    @functools.lru_cache(maxsize=2)
    def bounded(x, *, k=1):
        calls.append((x, k))
        return want(x)

    @functools.cache
    def fib(n):
        return n if n < 2 else fib(n - 1) + want(fib(n - 2))

    class C:
        @functools.lru_cache
        def m(self, x):
            calls.append("m")
            return want(x)

    c = C()
    out = [
        unbounded(1),
        unbounded(1),
        unbounded("1"),
        bounded(1),
        bounded(1),
        bounded(2),
        bounded(3),
        bounded(1),
    ]
    out += [bounded(1, k=2), fib(7), c.m(1), c.m(1)]
    bounded.cache_clear()
    out.append(bounded(1))
    try:
        unbounded([])
    except TypeError as error:
        out.append(str(error))
    return out, calls


@row
def singledispatch():
    @functools.singledispatch
    def f(x):
        return want("default")

    @f.register
    def _(x: int):
        return want(x)

    class C:
        @functools.singledispatchmethod
        def m(self, x):
            return want("any")

        @m.register
        def _(self, x: str):
            return want(x)

        p = functools.partialmethod(m, 5)

    return f(1), f("s"), C().m(2), C().m("t"), C().p()


@row
def builtin_functions_that_do_not_ask():
    xs = [1, 2]
    return (
        len(xs),
        isinstance(1, int),
        getattr(xs, "pop")(),
        str(5),
        int("7"),
        sorted([2, 1]),
        locals()["xs"],
    )


@row
def locals_and_super_and_class():
    class A:
        def f(self):
            x = want(1)
            return sorted(locals()), __class__.__name__, x

    return A().f(), sorted(locals())


@row
def straight_function_with_callback():
    # `copy` is no plumbing: it is rewritten for the one call, because of what it is handed.
    import re

    found = typing.cast("int", want(1))
    return found, copy.copy([1]), re.sub("a", "b", "aa")


@row
def global_and_print():
    import io

    class P:
        def __str__(self):
            return want("printed")

    out = io.StringIO()
    print(P(), 1, sep="-", file=out)
    return out.getvalue()


@row
def try_star():
    try:
        try:
            raise ExceptionGroup("g", [ValueError(want(1)), KeyError(want(2))])
        except* ValueError as group:
            note([str(e) for e in group.exceptions])
            want(3)
    except ExceptionGroup as rest:
        return str(rest.exceptions[0])


@row
def exception_info():
    out = []
    try:
        want("wrong")
    except Wrong:
        out.append(sys.exc_info()[0].__name__)

        def look():
            want(1)
            return sys.exc_info()[0].__name__

        out.append(look())
    out.append(sys.exc_info()[0])
    return out


@row
def error_lines():
    def deep(n):
        if n:
            return deep(
                n - 1,
            )
        return [
            want(1),
            want("wrong"),
        ]

    class E:
        def __getitem__(self, i):
            return deep(2)

    for _ in [1]:
        E()[0]


def _ids(function):
    return function.__name__


@pytest.mark.parametrize("function", ROWS, ids=_ids)
def test_traced_equals_inline(function):
    expected, actual = inline(function), traced(function)

    left, right = expected.same(actual)
    assert left == right
    assert actual.requests == sum(1 for word, _ in expected.log if word == "want")
