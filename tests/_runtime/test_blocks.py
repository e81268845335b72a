"""Blocks of every shape do what the same lines do inline: names, errors, tracebacks, state.

Each program is run twice by the oracle of `tracekit.testing`: once with a context manager that
does nothing, once traced. `tests/corpus` has longer ones; here is what the grammar of `with`, the
scopes and the exception machinery offer, one by one.
"""

from __future__ import annotations

import pytest

from tracekit.testing import same_as_inline

# What a body may begin with, and consist of.
BODIES = {
    "pass": "pass",
    "docstring": "'text'",
    "ellipsis": "...",
    "number": "1",
    "name": "log",
    "try": "try:\n    x = 1 / 0\nexcept ZeroDivisionError as e:\n    x = str(e)",
    "try-finally": "try:\n    x = ask(1)\nfinally:\n    y = ask(2)",
    "try-else": "try:\n    x = 1\nexcept KeyError:\n    pass\nelse:\n    y = 2",
    "for": "for i in range(3):\n    log(i)\nelse:\n    done = True",
    "for-break": "for i in range(3):\n    if i == 1:\n        break\nelse:\n    missed = True",
    "for-continue": "for i in range(4):\n    if i % 2:\n        continue\n    log(i)",
    "while": "n = 3\nwhile n:\n    n -= 1\n    log(n)",
    "while-first": "while not ask(True):\n    pass",
    "while-true": "while True:\n    break",
    "with": "with trace() as inner:\n    x = ask(1)\ny = x + 1",
    "with-plain": "import io\nwith io.StringIO() as f:\n    print('a', file=f)\n    x = f.getvalue()",
    "def": "def f(a, *b, c=1, **d):\n    return a, b, c, d\nx = f(1, 2, c=3, e=4)",
    "def-default": "def f(a=ask(3)):\n    return a\nx = f()",
    "lambda": "x = (lambda a: a + ask(1))(2)",
    "class": "class C:\n    y = ask(3)\n    def m(self):\n        return self.y\nx = C().m()",
    "class-decorated": "def d(c):\n    c.z = 9\n    return c\n@d\nclass C:\n    pass\nx = C.z",
    "import": "import math\nx = math.pi",
    "import-from": "from math import pi as p, tau\nx = p + tau",
    "import-dotted": "import os.path as q\nx = q.join('a', 'b')",
    "raise": "raise ValueError(1)",
    "raise-from": "raise ValueError(1) from KeyError(2)",
    "raise-from-none": "raise ValueError(1) from None",
    "assert": "assert log is None, f'no {1 + 1}'",
    "if": "if ask(0):\n    x = 1\nelif ask(1):\n    x = 2\nelse:\n    x = 3",
    "if-last": "x = 0\nif ask(0):\n    x = 1",
    "match": "match ask((1, 2)):\n    case (a, b) if a < b:\n        x = a + b\n    case _:\n        x = 0",
    "match-class": "match 3:\n    case int(n):\n        x = n",
    "match-mapping": "match {'k': 1, 'r': 2}:\n    case {'k': v, **rest}:\n        x = v, rest",
    "walrus": "if (n := ask(5)) > 3:\n    x = n",
    "annotation": "x: int = ask(3)",
    "annotation-only": "x: int",
    "augmented": "x = 1\nx += ask(2)\nx <<= 1",
    "augmented-item": "d = {'a': [1]}\nd['a'] += [ask(2)]",
    "unpack": "a, (b, *c), d = ask((1, (2, 3, 4), 5))",
    "chain": "a = b = ask([1])",
    "compare": "x = 1 < ask(2) < 3",
    "boolean": "x = ask(0) or ask([]) or ask(7)",
    "conditional": "x = ask(1) if ask(0) else ask(2)",
    "list": "x = [i * j for i in range(3) for j in range(i) if i != j]",
    "set-dict": "x = {i for i in 'aab'}, {k: v for k, v in zip('ab', 'cd')}",
    "generator": "x = sum(ask(i) for i in range(3))",
    "comprehension-asks": "x = [ask(i) for i in range(3)]",
    "comprehension-closure": "fs = [lambda: i for i in range(3)]\nx = [f() for f in fs]",
    "star": "a = [1, 2]\nk = {'sep': '-'}\nprint(*a, **k)",
    "fstring": "x = f'{ask(3)!r:>5}|{1 + 1=}'",
    "delete": "x = 1\ndel x",
    "delete-item": "d = {1: 2}\ndel d[1]",
    "delete-slice": "l = [1, 2, 3]\ndel l[1:]",
    "slice": "l = list(range(9))\nl[1:ask(3)] = [0]\nx = l[::2]",
    "one-liner-many": "x = 1; y = 2; z = x + y",
    "print": "print('hello')",
    "except-as-deleted": "try:\n    raise KeyError(1)\nexcept KeyError as e:\n    pass",
    "except-star": (
        "try:\n    raise ExceptionGroup('g', [ValueError(1), KeyError(2)])\n"
        "except* ValueError as e:\n    x = e.exceptions\nexcept* KeyError as e:\n    y = len(e.exceptions)"
    ),
    "except-star-rest": (
        "try:\n    raise ExceptionGroup('g', [ValueError(1), KeyError(2)])\n"
        "except* ValueError:\n    x = 1"
    ),
    "nested-try": (
        "try:\n    try:\n        1 / 0\n    finally:\n        x = 1\nexcept ZeroDivisionError:\n"
        "    try:\n        raise\n    except ZeroDivisionError as again:\n        y = repr(again)"
    ),
    "error-in-handler": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['k']",
    "error-in-finally": "try:\n    1 / 0\nfinally:\n    {}['k']",
    "error-in-helper": "def h(v):\n    return [][v]\nx = h(2)",
    "error-in-c": "x = sorted([1, 'a'])",
    "error-in-key": "x = sorted([1, 0], key=lambda v: 1 / v)",
    "error-operators": "x = 1 + (2 *\n    (3 - 'a'))",
    "error-attribute": "x = (1).nothing",
    "error-name": "x = nothing_of_that_name",
    "error-call": "x = log.__class__(1, 2, 3, 4, 5, 6, 7)",
    "error-key": "x = {}['key']['other']",
    "error-request": "x = ask(ValueError('served'))",
    "error-unpack": "a, b = ask((1, 2, 3))",
    "group-raised": "raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [KeyError(2)])])",
    "stop-iteration": "next(iter(()))",
    "stop-iteration-raised": "raise StopIteration(5)",
    "warning": "import warnings\nwith warnings.catch_warnings(record=True) as w:\n    warnings.simplefilter('always')\n    warnings.warn('careful')\nx = [str(i.message) for i in w], w[0].lineno",
    "type-alias-names": "int_ = int\nx: 'int_' = 3",
    "wide": "x = [" + ", ".join(f"ask({i})" for i in range(40)) + "]",
    "long": "\n".join(f"v{i} = {i}" for i in range(300)) + "\nx = v299",
    "long-names": "\n".join(f"print({'a' * 50!r}, {i})" for i in range(3)),
}

PLACES = {
    "module": "with trace() as t:\n{body}\nlog('after')\n",
    "function": "def f():\n    with trace() as t:\n{body:1}\n    log('after')\n    return sorted(locals())\nlog(f())\n",
    "no-target": "def f():\n    with trace():\n{body:1}\n    return sorted(locals())\nlog(f())\n",
    "loop": "def f():\n    for outer in range(2):\n        with trace() as t:\n{body:2}\n    return sorted(locals())\nlog(f())\n",
    "method": "class K:\n    def m(self):\n        with trace() as t:\n{body:2}\n        return sorted(locals())\nlog(K().m())\n",
    "class-body": "class K:\n    with trace() as t:\n{body:1}\nlog(sorted(set(vars(K)) - {{'__static_attributes__', '__firstlineno__'}}))\n",
    "class-in-function": "def f():\n    free = 1\n    class K:\n        a = free\n        with trace() as t:\n            b = free\n{body:2}\n    return sorted(set(vars(K)) - {{'__static_attributes__', '__firstlineno__'}})\nlog(f())\n",
    "generator": "def f():\n    yield 1\n    with trace() as t:\n{body:1}\n    yield sorted(locals())\nlog(list(f()))\n",
    "coroutine": "async def f():\n    with trace() as t:\n{body:1}\n    return sorted(locals())\ntry:\n    f().send(None)\nexcept StopIteration as e:\n    log(e.value)\n",
    "in-try": "def f():\n    try:\n        with trace() as t:\n{body:2}\n    except Exception as error:\n        log(type(error), error.__context__)\n    finally:\n        log(sorted(locals()))\nf()\n",
    "in-except": "import sys\ndef f():\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        with trace() as t:\n            log(sys.exc_info()[1])\n{body:2}\n        log(sys.exc_info()[1])\n    return sorted(locals())\nlog(f())\n",
    "in-finally": "def f():\n    try:\n        log('try')\n    finally:\n        with trace() as t:\n{body:2}\n    return sorted(locals())\nlog(f())\n",
    "in-with": "import io\ndef f():\n    with io.StringIO() as s, trace() as t, io.StringIO() as u:\n{body:1}\n    return sorted(locals())\nlog(f())\n",
    "in-if": "def f(v=1):\n    if v:\n        with trace() as t:\n{body:2}\n    else:\n        log('else')\n    return sorted(locals())\nlog(f())\n",
    "closure": "def f():\n    a = 1\n    def g():\n        nonlocal a\n        with trace() as t:\n            a += 1\n{body:2}\n        return a\n    return g(), a\nlog(f())\n",
    "globals-declared": "x = y = None\ndef f():\n    global x, y\n    with trace() as t:\n{body:1}\nf()\n",
    "cells": "def f():\n    x = y = i = n = e = None\n    def see():\n        return [repr(v) for v in (x, y, i, n)]\n    with trace() as t:\n{body:1}\n    return see()\nlog(f())\n",
    "last": "def f():\n    with trace() as t:\n{body:1}\nlog(f())\n",
    "returns-after": "def f():\n    for outer in range(3):\n        with trace() as t:\n{body:2}\n        return outer\nlog(f())\n",
}


def fill(place: str, body: str) -> str:
    def indented(depth):
        return "\n".join("    " * depth + line for line in body.split("\n"))

    text = place
    for depth in range(3):
        text = text.replace("{body:%d}" % depth, indented(depth + 1))
    text = text.replace("{body}", indented(1))
    return text.replace("{{", "{").replace("}}", "}") if "{{" in place else text


@pytest.mark.parametrize("place", PLACES)
def test_body_in_place(place):
    """Every body in every place: names, values, log, exceptions with lines and carets."""
    problems = []
    for name, body in BODIES.items():
        program = fill(PLACES[place], body)
        if place == "globals-declared" and (": int" in body or ": 'int_'" in body):
            continue  # not Python
        try:
            same_as_inline(program)
        except AssertionError as error:
            problems.append(f"{name}: {error}")

    assert not problems, "\n\n".join(problems)


PROGRAMS = {
    "items before and after": """
import contextlib
@contextlib.contextmanager
def noted(name):
    log('enter', name)
    try:
        yield name
    except ValueError as error:
        log(name, 'sees', error)
        raise
    finally:
        log('exit', name)
def f():
    with noted('a') as a, trace() as t, noted('b') as b:
        log(a, b)
        x = ask(1)
        raise ValueError(x)
try:
    f()
except ValueError as error:
    log(error)
""",
    "an item after it swallows": """
import contextlib
def f():
    with trace() as t, contextlib.suppress(ValueError), contextlib.suppress(KeyError):
        x = 1
        raise ValueError
    return x
log(f())
""",
    "an item before it swallows": """
import contextlib
def f():
    with contextlib.suppress(ValueError), trace() as t:
        x = 1
        raise ValueError
    return x
log(f())
""",
    "two tracers in one with": """
def f():
    with trace() as a, trace() as b:
        x = ask(1)
    return x, sorted(locals())
log(f())
""",
    "three tracers, parenthesised, many lines": """
def f():
    with (
        trace(
        ) as a,
        trace() as b,
        trace(),
    ):
        x = ask(1)
        y = (x +
             'a')
log(f())
""",
    "a header of many lines, with a comment and a call": """
def make(*args, **kwargs):
    return trace()
def f():
    with make(
        1,  # one
        key=[
            2,
        ],
    ) as t:
        x = [][0]
f()
""",
    "targets": """
class Box: pass
box, d, l = Box(), {}, [None, None]
with trace() as box.t: a = 1
with trace() as d['k']: b = 2
with trace() as l[ask(1)]: c = 3
with trace() as l[0]: pass
log(type(box.t) is type(d['k']) is type(l[1]) is type(l[0]))
def f():
    with trace() as box.deep, trace() as d[ask('z')]:
        e = 4
    return e
log(f(), sorted(d))
""",
    "a target that fails": """
def f():
    d = ()
    with trace() as d[0]:
        x = 1
f()
""",
    "a target that is a global": """
def f():
    global g
    with trace() as g:
        x = 1
    return x
log(f(), 'g' in globals())
""",
    "a target that is a cell": """
def f():
    with trace() as t:
        x = 1
    return (lambda: t is not None)(), x
log(f())
""",
    "one line": """
def f():
    with trace() as t: x = 1
    with trace(): y = x + ask(1); z = y
    if z: 
        with trace(): w = 1 / (z - 2)
log(f())
""",
    "many on one line": "with trace(): x = 1\nwith trace(): y = x; z = [ask(i) for i in range(y)]\n",
    "recursion": """
def f(n):
    with trace() as t:
        if n:
            x = f(n - 1) + n
        else:
            x = ask(0)
    return x
log(f(6))
""",
    "recursion that fails": """
def f(n):
    with trace() as t:
        x = f(n - 1) + n if n else 1 / 0
    return x
log(f(4))
""",
    "super without arguments": """
class A:
    def m(self): return ask('A')
    @property
    def p(self): return 'p'
class B(A):
    def m(self):
        with trace() as t:
            x = super().m() + super().p
        return x
    @classmethod
    def c(cls):
        with trace():
            x = super().__name__ if hasattr(super(), '__name__') else __class__.__name__
        return x
log(B().m(), B.c())
""",
    "super in a nested function": """
class A:
    def m(self): return 'A'
class B(A):
    def m(self):
        with trace() as t:
            def inner(me): return super(B, me).m()
            x = inner(self)
            y = (lambda s: super().m())
            z = y(self)
        return x, z
log(B().m())
""",
    "private names": """
class C:
    __v = 3
    def m(self, __arg=1):
        __x = 5
        with trace() as t:
            __x += self.__v + __arg
            self.__w = __x
            def __f(): return __x
            y = __f()
        return y, __x, sorted(vars(self))
log(C().m())
""",
    "annotations of the future": """
from __future__ import annotations
def f():
    with trace() as t:
        x: Nothing = 1
        def g(a: Unknown) -> Missing: return a
        y = g.__annotations__
    return x, y
log(f())
""",
    "annotations in a module": "with trace():\n    x: int = ask(3)\nlog(__annotations__)\n",
    "annotations in a class": """
class C:
    with trace():
        x: int = ask(3)
        y: str
log(C.__annotations__)
""",
    "names deleted and unbound": """
def f():
    a = b = c = 1
    d = 2
    def see(): return d
    with trace() as t:
        del a
        b = 2
        del b
        if ask(0):
            e = 1
        del d
    r = []
    for name in ('a', 'b', 'c', 'd', 'e'):
        r.append(name in locals())
    try: see()
    except NameError as error: r.append(str(error))
    try: a
    except UnboundLocalError as error: r.append(str(error))
    return r
log(f())
""",
    "a name unbound inside": """
def f(flag):
    with trace() as t:
        if flag:
            x = 1
        y = x
    return y
log(f(1))
f(0)
""",
    "a name unbound twice": """
def f():
    with trace() as t:
        del x
f()
""",
    "a name of a closure, not bound yet": """
def f():
    with trace() as t:
        y = x
    x = 1
    return (lambda: x)
f()
""",
    "nonlocal": """
def f():
    n = 0
    def g():
        nonlocal n
        for i in range(3):
            with trace() as t:
                n += ask(i)
        def h(): return n
        with trace() as t:
            n *= h()
    g()
    return n
log(f())
""",
    "global": """
count = 0
def f():
    global count, made
    with trace() as t:
        count += ask(2)
        made = count
        del count
f()
log(made, 'count' in globals())
""",
    "closures made before and in it": """
def f():
    x = 0
    def before(): 
        nonlocal x
        x += 1
        return x
    with trace() as t:
        before()
        x += 10
        def inside():
            nonlocal x
            x += 100
            return x
        a = before()
        b = inside()
    return x, a, b, inside(), before()
log(f())
""",
    "closures over arguments": """
def f(x, *args, k=1, **kw):
    g = lambda: (x, args, k, kw)
    with trace() as t:
        x += 1
        args += (3,)
        k = ask(5)
        kw['z'] = 1
        r = g()
    return r, g()
log(f(1, 2, k=3, m=4))
""",
    "the handled exception": """
import sys
def now(): return repr(sys.exc_info()[1]), repr(sys.exception())
def f():
    with trace():
        a = now()
    try:
        1 / 0
    except ZeroDivisionError:
        with trace() as t:
            b = now()
            try:
                {}['k']
            except KeyError as error:
                c = now(), repr(error.__context__)
                ask(1)
                d = now()
            e = now()
            ask(2)
            g = now()
        h = now()
    return a, b, c, d, e, g, h, now()
log(f())
""",
    "bare raise": """
def again(): raise
def f():
    try:
        1 / 0
    except ZeroDivisionError:
        with trace() as t:
            ask(1)
            again()
f()
""",
    "bare raise without an exception": """
def f():
    with trace() as t:
        ask(1)
        raise
f()
""",
    "contexts": """
def f():
    try:
        1 / 0
    except ZeroDivisionError as z:
        with trace() as t:
            try:
                raise KeyError(1)
            except KeyError as k:
                raise ValueError(2)
try:
    f()
except ValueError as error:
    log(error.__context__, error.__context__.__context__, error.__cause__, error.__suppress_context__)
f()
""",
    "causes": """
def f():
    with trace() as t:
        try:
            [].pop()
        except IndexError as error:
            raise RuntimeError('r') from error
f()
""",
    "finally overrides": """
def f():
    for i in range(3):
        with trace():
            for j in range(3):
                try:
                    raise ValueError(j)
                finally:
                    if j == 1: break
                    else: continue
            x = i, j
    return x
log(f())
""",
    "a generator held open around it": """
def gen():
    try:
        yield 1
        with trace() as t:
            x = ask(2)
        yield x
        with trace() as t:
            y = yielded = 3
        sent = yield y
        with trace():
            z = sent + 1
        yield z
    finally:
        with trace():
            log('closing')
g = gen()
log(next(g), next(g), next(g), g.send(8))
g.close()
""",
    "a generator that fails in it": """
def gen():
    yield 1
    with trace() as t:
        next(iter([]))
for v in gen():
    log(v)
""",
    "a task around it": """
import asyncio
async def other(n):
    await asyncio.sleep(0)
    return n
async def one(n):
    a = await other(n)
    with trace() as t:
        x = a + ask(1)
        y = asyncio.current_task().get_name() == f'n{n}'
    b = await other(x)
    with trace():
        z = b + 1
    return x, y, z
async def main():
    tasks = [asyncio.create_task(one(n), name=f'n{n}') for n in range(3)]
    return await asyncio.gather(*tasks)
log(asyncio.run(main()))
""",
    "an async generator": """
import asyncio
async def agen():
    for i in range(3):
        with trace() as t:
            x = i * ask(2)
        yield x
async def main():
    return [v async for v in agen()]
log(asyncio.run(main()))
""",
    "an async with around it": """
import asyncio
class A:
    async def __aenter__(self): return 5
    async def __aexit__(self, *e): log('aexit', e[0]); return True
async def main():
    async with A() as a:
        with trace() as t:
            x = a
            raise ValueError(x)
    return x
log(asyncio.run(main()))
""",
    "threads": """
import threading
results = {}
def work(n):
    total = 0
    for i in range(20):
        with trace() as t:
            total += n
            x = i
    results[n] = total, x
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
log(sorted(results.items()))
del threads, thread, results
""",
    "generated functions": """
import types, functools, dataclasses
def source():
    with trace() as t:
        x = ask(1)
        y = base
    return x + y
copy = types.FunctionType(source.__code__, {**globals(), 'base': 10}, 'copy')
base = 1
log(source(), copy())
@functools.wraps(source)
def wrapped(): return source() + 1
@functools.lru_cache
def cached():
    with trace(): z = source()
    return z
@dataclasses.dataclass
class D:
    v: int = 2
    def __post_init__(self):
        with trace() as t:
            self.v += ask(1)
namespace = {'trace': trace, 'ask': ask}
exec('def made(a):\\n with trace() as t:\\n  b = a + ask(1)\\n return b', namespace)
log(wrapped(), cached(), D().v, D(3).v, namespace['made'](4))
renamed = source.__code__.replace(co_name='other', co_filename='elsewhere.py')
log(types.FunctionType(renamed, globals())())
""",
    "exec with one and two namespaces": """
text = 'with trace() as t:\\n a = ask(1)\\n def f(): return a\\n b = [a + i for i in range(2)]\\n'
one = {'trace': trace, 'ask': ask}
exec(text, one)
log(one['a'], one['b'], one['f']())
one = None
two = {}
exec(text, {'trace': trace, 'ask': ask}, two)
log(sorted(two))
""",
    "a namespace that is a mapping": """
class Space(dict):
    def __setitem__(self, k, v):
        log('set', k) if k != 't' else None
        super().__setitem__(k, v)
    def __missing__(self, k):
        if k in ('trace', 'ask'): return globals()[k]
        raise KeyError(k)
exec('with trace() as t:\\n a = ask(1)\\n b = a\\n del a', globals(), Space())
""",
    "tracebacks as they print": """
import traceback
def helper(v):
    return {'a': 1}[
        v
    ]
def f():
    with trace() as t:
        x = 1
        y = (x +
             helper('b') + 2)
try:
    f()
except KeyError as error:
    log(''.join(traceback.format_exception(error)))
    entries = []
    tb = error.__traceback__
    while tb:
        code = tb.tb_frame.f_code
        positions = list(code.co_positions())[tb.tb_lasti // 2]
        entries.append((code.co_name, code.co_qualname, tb.tb_lineno, positions))
        tb = tb.tb_next
    log(entries)
""",
    "an error with notes": """
def f():
    with trace() as t:
        error = ValueError(1)
        error.add_note('mine')
        raise error
try: f()
except ValueError as error: log(error.__notes__)
""",
    "frames as helpers see them": """
import sys
def who():
    frame = sys._getframe(1)
    return frame.f_code.co_name, frame.f_lineno, frame.f_code.co_filename
def f():
    with trace() as t:
        x = who()
        y = [who() for i in range(1)]
        z = (lambda: who())()
    return x, y, z
log(f())
""",
    "locals and vars": """
def f(a):
    with trace() as t:
        b = a
        seen = sorted(set(locals()) - {'t'})
    return seen
log(f(1))
""",
    "exec and eval in it": """
def f(a):
    with trace() as t:
        b = eval('a + 1')
        d = {}
        exec('c = a + b', {'a': a, 'b': b}, d)
    return b, d
log(f(1))
""",
    "a module in eval and exec": "with trace():\n    exec('x = 5')\n    y = eval('x + 1')\n",
    "loop control inside only": """
def f():
    r = []
    for i in range(3):
        with trace() as t:
            for j in range(5):
                if j == 1: continue
                if j == 3: break
                r.append((i, j))
            else:
                r.append('else')
    while True:
        with trace():
            while True:
                if ask(1): break
            stop = True
        if stop: break
    return r
log(f())
""",
    "short endings are copied": """
def f(v):
    for i in v:
        if i:
            with trace() as t:
                if i > 1:
                    x = i
        else:
            continue
        if i > 2:
            return x
    return 'end'
log(f([0, 1, 2, 3]), f([0]), f([]), f([1]))
""",
    "wide lines": "def f():\n    with trace() as t:\n        x = "
    + " + ".join(f"ask({i})" for i in range(60))
    + " + 'a'\nf()\n",
    "far jumps": "def f():\n    for i in range(2):\n        with trace() as t:\n            for j in range(2):\n"
    + "".join(f"                if j == {i}: v{i} = j\n" for i in range(400))
    + "            w = j\n    return w, v1\nlog(f())\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    same_as_inline(PROGRAMS[name])


@pytest.mark.parametrize(
    "error", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException(1)"]
)
def test_what_is_no_exception(error):
    """It leaves the block as it would inline, through `finally`s."""
    same_as_inline(
        f"""
import traceback
def f():
    with trace() as t:
        x = 1
        try:
            raise {error}
        finally:
            y = ask(2)
    z = 3
try:
    f()
except BaseException as error:
    log(type(error), error.args, error.__context__)
    log([(f.f_code.co_name, n) for f, n in traceback.walk_tb(error.__traceback__)])
"""
    )
