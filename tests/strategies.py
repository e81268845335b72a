"""Programs, grown as text. Each new feature of the language is added here.

`blocks()` grows programs with one traced block, standing in one of `PLACES`; `programs()` grows
programs of several functions, generators and classes that call one another, with requests at
random places. Both are texts for `tracekit.testing.same_as_inline`: they use `trace()`, `ask(key)`
and `log(...)`.

A program always ends: loops are over short ranges, `while` loops count down, functions call only
functions that were written before them. Whatever may raise is caught or leaves the program;
both are fine.

One grower serves Hypothesis and bare seeds: it draws from a `random.Random`, and Hypothesis' own
(`randoms(use_true_random=False)`) records what is drawn and shrinks it.
"""

from __future__ import annotations

import random
import textwrap
import warnings
from random import Random

from hypothesis import strategies as st

PLACES = (
    "module",
    "function",
    "method",
    "class body",
    "closure",
    "generator",
    "loop",
    "handler",
    "finally",
    "one line",
    "second item",
    "two blocks",
    "recursion",
)

_NAMES = ("a", "b", "c", "d", "e")
_ERRORS = ("ValueError", "KeyError", "TypeError", "ZeroDivisionError", "IndexError")
_ADAPTERS = (
    "sorted([{e}, {e}], key=lambda k: num({e}) + num(k))",
    "list(map(lambda k: num(k) + num({e}), [{e}, {e}]))",
    "list(filter(lambda k: {e}, (num(k) for k in [{e}, {e}])))",
    "functools.reduce(lambda s, k: num(s) + num({e}), [{e}, {e}], 0)",
    "max([{e}, {e}], key=lambda k: num({e}))",
    "min((num({e}) for _ in range(2)), default=0)",
    "','.join(show({e}) for _ in range(2))",
    "dict(zip('ab', (num({e}) for _ in range(2))))",
    "next((k for k in [{e}, {e}] if {e}), 0)",
    "[*itertools.chain([{e}], (num({e}) for _ in range(2)))]",
    "list(itertools.accumulate(num({e}) for _ in range(3)))",
    "list(itertools.islice((num({e}) for _ in range(9)), small({e})))",
    "[*itertools.takewhile(lambda k: num(k) < 3, (num({e}) for _ in range(4)))]",
    "any(num({e}) > 2 for _ in range(3))",
    "all(num({e}) < 2 for _ in range(3))",
    "list(enumerate((num({e}) for _ in range(2)), small({e})))",
    "[*zip(range(2), (num({e}) for _ in range(3)))]",
    "sum((num({e}) for _ in range(2)), num({e}))",
    "tuple(reversed([num({e}), num({e})]))",
    "functools.partial(lambda x, *, y: num(x) + num(y), {e}, y={e})()",
    "by_hand(num({e}) for _ in range(3))",
    "delegated(num({e}) for _ in range(2))",
    "stacked({e}, {e})",
    "described({e})",
    "{**{'x': {e}}, **{'y': {e}}}",
    "filled({}, ((k, num({e})) for k in range(2)))",
    "ended([{e}, {e}], lambda k: num({e}))",
)
"""Calls of C and of the standard library that call back or iterate; `{e}` is an expression."""

_ASKING_OBJECTS = (
    "len(Many({e}))", "list(Many({e}))", "({e} in Many({e}))", "Many({e}).kept", "Many({e}).made_up",
    "f'{Many({e}):>9}'", "(Many({e}) + {e})", "({e} + Many({e}))", "bool(Many({e}))", "Many({e})[{e}]",
    "(Many({e}) < {e})", "Many({e})({e})", "Many.of({e}).value", "Many.plain({e})", "remembered(num({e}))",
    "sum([{e}, Many({e})])", "sorted([Many({e})], key=lambda m: m.kept)[0].kept", "Many({e}).set_to({e})",
    "str(Many({e}))", "[*Counting(small({e}))]", "dict(Many({e}).pairs())", "-Many({e})", "Derived({e}).kept",
    "even(small({e}))",
)  # fmt: skip
"""Objects of a class whose special methods ask for values, and functions that do."""

_BINARY = ("+", "-", "*", "//", "%", "&", "|", "^", "<<", "**")


class Grower:
    """Grows statements and expressions.

    Names hold small integers nearly always, so that most programs run far before they raise.

    Args:
        random: Where choices come from.
        asks: How often, out of 100, an expression is a request.
        size: About how many statements a suite may hold in all.
    """

    def __init__(self, random: Random, *, asks: int = 0, size: int = 12) -> None:
        self.random = random
        self.asks = asks
        self.left = size
        self.loops = 0  # loops around the present statement, within its function
        self.in_function = False
        self.deletes = True
        self.outside = False  # growing definitions before the block: nothing may ask yet
        self.counter = 0
        self.callables: list[tuple[str, int]] = []
        self.generators: list[str] = []
        self.classes: list[str] = ["Thing"]

    # Choices.

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def pick(self, options):
        return options[self.random.randrange(len(options))]

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def name(self) -> str:
        return self.pick(_NAMES)

    # Expressions.

    def atom(self) -> str:
        kind = self.random.randrange(10)
        if kind < 6:
            return self.name()
        return str(self.random.randrange(-1, 5)) if kind < 9 else self.pick(("True", "None", "'s'"))

    def expression(self, depth: int = 3) -> str:
        if self.asks and self.chance(self.asks):
            return f"ask({self.expression(depth - 1) if depth > 1 else self.atom()})"
        if depth <= 0 or self.chance(25):
            return self.atom()
        grow = self.pick(
            (
                self._binary, self._binary, self._compare, self._bool, self._ternary, self._call,
                self._call, self._container, self._subscript, self._comprehension, self._lambda,
                self._fstring, self._unary, self._walrus, self._star_call, self._method,
                self._generator_expression, self._slice, self._adapter,
                *((self._asking_object,) if self.asks else ()),
            )
        )  # fmt: skip
        return grow(depth - 1)

    def _binary(self, depth: int) -> str:
        op = self.pick(_BINARY)
        right = self.expression(depth)
        if op in {"<<", "**", "*"}:
            # Neither numbers nor texts may grow without bounds in a loop.
            return f"(num({self.expression(depth)}) {op} small({right}))"
        return f"({self.expression(depth)} {op} {right})"

    def _compare(self, depth: int) -> str:
        op = self.pick(("<", "==", "!=", ">=", "is", "is not"))
        chain = f" < {self.expression(depth)}" if self.chance(20) else ""
        # `is` on numbers would compare what the compiler folds.
        left = f"num({self.expression(depth)})"
        right = f"num({self.expression(depth)})" if not op.startswith("is") else "None"
        return f"({left} {op} {right}{chain})"

    def _bool(self, depth: int) -> str:
        return f"({self.expression(depth)} {self.pick(('and', 'or'))} {self.expression(depth)})"

    def _ternary(self, depth: int) -> str:
        parts = (self.expression(depth), self.expression(depth), self.expression(depth))
        return "({} if {} else {})".format(*parts)

    def _call(self, depth: int) -> str:
        if self.callables and self.chance(70):
            name, count = self.pick(self.callables)
            arguments = [self.expression(depth) for _ in range(count)]
            if count and self.chance(15):
                arguments[-1] = f"*[{arguments[-1]}]"
            return f"{name}({', '.join(arguments)})"
        function = self.pick(("num", "small", "abs", "str", "repr", "len", "bool"))
        return f"{function}({self.expression(depth)})"

    def _star_call(self, depth: int) -> str:
        items = ", ".join(self.expression(depth) for _ in range(2))
        return self.pick(
            (
                f"max(*[num(x) for x in ({items})])",
                f"dict(x={self.expression(depth)}, **{{'y': 1}})",
            )
        )

    def _container(self, depth: int) -> str:
        one, two = self.expression(depth), self.expression(depth)
        return self.pick(
            (f"[{one}, {two}]", f"({one}, {two})", f"{{{one!s}: {two}}}", f"[*({one},), {two}]")
        )

    def _subscript(self, depth: int) -> str:
        return f"({self.expression(depth)}, {self.expression(depth)})[{self.atom()}]"

    def _slice(self, depth: int) -> str:
        return f"[1, 2, {self.expression(depth)}][{self.atom()}:]"

    def _comprehension(self, depth: int) -> str:
        variable = self.pick((*_NAMES, "x"))
        condition = f" if {self.expression(depth)}" if self.chance(30) else ""
        source = f"for {variable} in range(small({self.expression(depth)})){condition}"
        item = self.expression(depth)
        return self.pick(
            (
                f"[{item} {source}]",
                f"{{{variable}: {item} {source}}}",
                f"len({{str({item}) {source}}})",
                f"sum(num({item}) {source})",
            )
        )

    def _generator_expression(self, depth: int) -> str:
        maker = self.pick(("list", "tuple", "any", "all"))
        return f"{maker}({self.expression(depth)} for x in (1, {self.atom()}))"

    def _lambda(self, depth: int) -> str:
        variable = self.pick((*_NAMES, "x"))
        default = f"={self.expression(depth)}" if self.chance(30) else ""
        call = "" if default and self.chance(50) else self.expression(depth)
        return f"(lambda {variable}{default}: {self.expression(depth)})({call or self.atom()})"

    def _fstring(self, depth: int) -> str:
        inner = self.expression(depth)
        if any(mark in inner for mark in "'\"\\{}"):
            inner = self.name()
        return f'f"<{{({inner})!{self.pick("rs")}:>4}}>"'

    def _adapter(self, depth: int) -> str:
        return self._filled(self.pick(_ADAPTERS), depth)

    def _asking_object(self, depth: int) -> str:
        return self._filled(self.pick(_ASKING_OBJECTS), depth)

    def _filled(self, template: str, depth: int) -> str:
        # Each gap is grown anew; those that are evaluated for each item stay small.
        while "{e}" in template:
            template = template.replace("{e}", self.expression(min(depth, 1)), 1)
        return template

    def _unary(self, depth: int) -> str:
        return f"({self.pick(('-', 'not ', '~'))}{self.expression(depth)})"

    def _walrus(self, depth: int) -> str:
        return f"({self.name()} := {self.expression(depth)})"

    def _method(self, depth: int) -> str:
        use = self.pick((".up(1)", ".value", ".twice", ".twice[0]"))
        return f"{self.pick(self.classes)}({self.expression(depth)}){use}"

    def at_once(self) -> str:
        """Grow an expression that is evaluated where a definition stands."""
        return self.atom() if self.outside else self.expression(2)

    def report(self, line: str) -> list[str]:
        """Give a line that uses what was defined, unless that has to wait for the block."""
        return [] if self.outside else [line]

    # Statements.

    def guarded(self, depth: int) -> list[str]:
        """Grow a suite in which an error of one statement does not end the others."""
        lines = []
        for _ in range(self.random.randrange(2, 6)):
            lines += ["try:", *self._indent(self.statement(depth))]
            lines += ["except Exception:", "    log(sys.exception())"]
        return lines

    def suite(self, depth: int) -> list[str]:
        """Grow one to three statements; the lines are not indented."""
        lines = []
        for _ in range(self.random.randrange(1, 4)):
            lines += self.statement(depth)
        return lines

    def statement(self, depth: int) -> list[str]:
        self.left -= 1
        simple = (
            self._assign, self._assign, self._assign, self._augmented, self._unpack, self._log,
            self._print, self._expression_statement, self._import, self._assert, self._subscript_set,
            self._attribute_set, self._raise, self._annotated,
        )  # fmt: skip
        if self.left <= 0 or depth <= 0:
            if self.loops and self.chance(10):
                return [f"if {self.expression(1)}: {self.pick(('break', 'continue'))}"]
            if self.deletes and self.chance(8):
                return [f"del {self.name()}"]
            return self.pick(simple)()
        compound = (
            self._if, self._for, self._while, self._try, self._try_finally, self._with, self._def,
            self._class, self._match, self._closure, self._generator, self._try_star, self._nonlocal,
            self._decorated,
        )  # fmt: skip
        if self.chance(55):
            return self.pick(compound)(depth - 1)
        return self.pick(simple)()

    def _assign(self) -> list[str]:
        targets = f"{self.name()} = {self.name()} = " if self.chance(10) else f"{self.name()} = "
        return [targets + self.expression()]

    def _annotated(self) -> list[str]:
        return [f"_{self.name()}: int = {self.expression()}"]

    def _augmented(self) -> list[str]:
        return [f"{self.name()} {self.pick(('+', '-', '|'))}= {self.expression()}"]

    def _unpack(self) -> list[str]:
        first, second = self.random.sample(_NAMES, 2)
        return [
            self.pick(
                (
                    f"{first}, {second} = {self.expression(2)}, {self.expression(2)}",
                    f"{first}, *{second} = [{self.expression(2)}, 1, 2]",
                    f"({first}, [{second}]) = ({self.expression(2)}, [{self.atom()}])",
                    f"{first}, {second} = {self.expression(2)}",
                )
            )
        ]

    def _log(self) -> list[str]:
        return [f"log({self.expression()})"]

    def _print(self) -> list[str]:
        return [f"print(show({self.expression()}), end={self.expression(0)!r})"]

    def _expression_statement(self) -> list[str]:
        return [self.expression()]

    def _import(self) -> list[str]:
        return [self.pick(("import math", "from math import floor as a", "import os.path as b"))]

    def _assert(self) -> list[str]:
        return [f"assert {self.expression(2)}, {self.expression(1)}"]

    def _subscript_set(self) -> list[str]:
        return [
            self.pick(
                (
                    f"shared[{self.atom()}] = {self.expression()}",
                    f"shared[{self.expression(1)}] += {self.expression()}",
                    f"del shared[{self.atom()}]",
                )
            )
        ]

    def _attribute_set(self) -> list[str]:
        verb = self.pick(("=", "+="))
        return [f"thing.value {verb} {self.expression()}"]

    def _raise(self) -> list[str]:
        error = f"{self.pick(_ERRORS)}({self.expression(1)})"
        cause = self.pick(("", "", " from None", " from KeyError('cause')"))
        if self.asks and self.chance(40):
            return [f"if {self.expression(1)}: ask({error})"]
        return [f"if {self.expression(1)}: raise {error}{cause}"]

    def _indent(self, lines: list[str]) -> list[str]:
        return ["    " + line for line in lines]

    def _if(self, depth: int) -> list[str]:
        lines = [f"if {self.expression()}:", *self._indent(self.suite(depth))]
        if self.chance(30):
            lines += [f"elif {self.expression()}:", *self._indent(self.suite(depth))]
        if self.chance(50):
            lines += ["else:", *self._indent(self.suite(depth))]
        return lines

    def _looped(self, depth: int) -> list[str]:
        self.loops += 1
        lines = self.suite(depth)
        self.loops -= 1
        return self._indent(lines)

    def _otherwise(self, depth: int) -> list[str]:
        return ["else:", *self._indent(self.suite(depth))] if self.chance(25) else []

    def _for(self, depth: int) -> list[str]:
        target = self.pick((self.name(), f"{self.name()}, x"))
        if "," in target:
            source = f"enumerate([{self.expression(1)}, {self.atom()}])"
        else:
            source = self.pick(
                (
                    "range(3)",
                    f"(1, {self.expression(1)})",
                    f"range(small({self.expression(1)}))",
                    f"list({self.pick(self.generators)}(2))" if self.generators else "'ab'",
                    f"{self.pick(self.generators)}(3)" if self.generators else "{1: 2}.items()",
                )
            )
        return [f"for {target} in {source}:", *self._looped(depth), *self._otherwise(depth)]

    def _while(self, depth: int) -> list[str]:
        count = self.fresh("n")
        head = [f"{count} = {self.random.randrange(1, 4)}", f"while ({count} := {count} - 1) >= 0:"]
        return [*head, *self._looped(depth), *self._otherwise(depth)]

    def _handler(self, depth: int) -> list[str]:
        caught = self.pick((*_ERRORS, "(KeyError, TypeError)", "Exception"))
        alias = self.pick(("", f" as {self.name()}", " as error")) if self.deletes else ""
        last = self.pick(("", "", "", "raise", "log(sys.exception())"))
        body = [*self.suite(depth), *filter(None, [last])]
        return [f"except {caught}{alias}:", *self._indent(body)]

    def _try(self, depth: int) -> list[str]:
        lines = ["try:", *self._indent(self.suite(depth)), *self._handler(depth)]
        if self.chance(25):
            lines += ["except Exception:", *self._indent(self.suite(depth))]
        lines += self._otherwise(depth)
        if self.chance(30):
            lines += self._finally(depth)
        return lines

    def _finally(self, depth: int) -> list[str]:
        # `continue` and `break` in a `finally` swallow errors; 3.14 warns of it.
        loops, self.loops = self.loops, 0
        lines = ["finally:", *self._indent(self.suite(depth))]
        self.loops = loops
        return lines

    def _try_finally(self, depth: int) -> list[str]:
        return ["try:", *self._indent(self.suite(depth)), *self._finally(depth)]

    def _try_star(self, depth: int) -> list[str]:
        loops, self.loops = self.loops, 0  # no `break` in an `except*`
        errors = f"[{self.pick(_ERRORS)}({self.atom()}), {self.pick(_ERRORS)}({self.atom()})]"
        lines = [
            "try:",
            *self._indent(self.suite(depth)),
            *self._indent([f"if {self.expression(1)}: raise ExceptionGroup('g', {errors})"]),
            f"except* {self.pick(_ERRORS)}{' as error' if self.deletes else ''}:",
            *self._indent(self.suite(depth)),
        ]
        self.loops = loops
        return lines

    def _with(self, depth: int) -> list[str]:
        alias = self.pick(("", f" as {self.name()}"))
        swallow = self.pick(("", "", ", swallow=True"))
        item = f"manager({self.expression(1)}{swallow}){alias}"
        if self.chance(20):
            item += f", manager({self.atom()})"
        if self.chance(15):
            item = "decorated_manager()"
        return [f"with {item}:", *self._indent(self.suite(depth))]

    def _function_body(self, depth: int) -> list[str]:
        """Grow the body of a function, with loops and `del` of its own."""
        saved = self.loops, self.in_function, self.outside
        known = len(self.callables), len(self.generators), len(self.classes)
        self.loops, self.in_function, self.outside = 0, True, False
        lines = ["d = e = 1"] if self.chance(80) else []
        lines += self.suite(depth)
        self.loops, self.in_function, self.outside = saved
        # What is defined in a function is not seen outside.
        del self.callables[known[0] :], self.generators[known[1] :], self.classes[known[2] :]
        return self._indent(lines)

    def _def(self, depth: int) -> list[str]:
        name = self.fresh("f")
        head = f"def {name}(a, b={self.at_once()}, *, c=2):"
        body = [*self._function_body(depth), f"    return {self.expression()}"]
        self.callables.append((name, 1))
        return [head, *body]

    def _decorated(self, depth: int) -> list[str]:
        lines = self._def(depth)
        return [self.pick(("@twice", "@tagged(1)", "@functools.cache")), *lines]

    def _closure(self, depth: int) -> list[str]:
        name = self.fresh("g")
        variable = self.name()
        body = [f"    return ({variable}, {self.expression(1)})"]
        self.callables.append((name, 0))
        bind = [f"{variable} = {self.at_once()}"]
        return [f"def {name}():", *body, *bind, *self.report(f"log({name}())")]

    def _nonlocal(self, depth: int) -> list[str]:
        name = self.fresh("h")
        variable = self.name()
        word = "nonlocal" if self.in_function else "global"
        lines = [
            f"def {name}():",
            f"    {word} {variable}",
            f"    {variable} = {self.expression(2)}",
            f"    return {variable}",
        ]
        self.callables.append((name, 0))
        own = [f"{variable} = {self.atom()}"] if self.in_function else []
        return [*own, *lines, f"log({name}(), {variable})"]

    def _generator(self, depth: int) -> list[str]:
        name = self.fresh("gen")
        lines = [
            f"def {name}(a, b=1):",
            "    for c in range(2):",
            f"        {self.pick(('sent = ', ''))}yield {self.expression(2)}",
            *self._indent(self._indent(self._assign())),
            "    d = e = c",
            f"    {self.pick(('yield from (1, 2)', f'yield {self.expression(2)}'))}",
            f"    return {self.expression(1)}",
        ]
        self.generators.append(name)
        use = f"log({self.pick(('list', 'tuple', 'sum_of'))}({name}({self.atom()})))"
        return [*lines, *self.report(use)]

    def _class(self, depth: int) -> list[str]:
        name = self.fresh("C")
        lines = [
            f"class {name}{self.pick(('', '(Thing)'))}:",
            f"    a = {self.at_once()}",
            f"    {self.name()} = {self.at_once()}",
            "    def __init__(self, value):",
            f"        self.value = value if {self.atom()} else {self.expression(1)}",
            "    def up(self, by=1):",
            f"        return (self.value, by, {self.expression(2)})",
            "    @property",
            "    def twice(self):",
            f"        return [self.value, {self.expression(1)}]",
            "    def __add__(self, other):",
            f"        return (self.value, {self.expression(1)})",
        ]
        use = self.pick((".up()", ".twice", " + 1", ".a", ".value"))
        self.classes.append(name)
        return [*lines, *self.report(f"log({name}({self.expression(1)}){use})")]

    def _match(self, depth: int) -> list[str]:
        subject = self.pick((self.expression(2), f"({self.expression(1)}, {self.atom()})"))
        first, second = self.random.sample(_NAMES, 2)
        guard = f" if {self.expression(1)}" if self.chance(40) else ""
        return [
            f"match {subject}:",
            f"    case {self.pick(('0', '1 | 2', 'None', 'True'))}:",
            *self._indent(self._indent(self.suite(depth))),
            f"    case ({first}, {second}){guard}:",
            *self._indent(self._indent(self.suite(depth))),
            f"    case [int({first}), *_] | {{'x': {first}}}:",
            *self._indent(self._indent(self._log())),
            f"    case Thing(value={first}):",
            *self._indent(self._indent(self._log())),
            f"    case {self.pick(('_', second))}:",
            *self._indent(self._indent(self.suite(depth))),
        ]


PRELUDE = """\
import contextlib, functools, itertools, sys
def num(x):
    return x if type(x) is int and abs(x) < 10**6 else len(str(x))
def small(x):
    return num(x) % 4
def show(x):
    return str(num(x))
def sum_of(items):
    return sum(num(item) for item in items)
def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        function(*args, **kwargs)
        return function(*args, **kwargs)
    return wrapper
def tagged(tag):
    def decorate(function):
        function.tag = tag
        return function
    return decorate
class Thing:
    __match_args__ = ("value",)
    def __init__(self, value):
        self.value = value
    def up(self, by):
        return self.value + by
    @property
    def twice(self):
        return [self.value, self.value]
class manager:
    def __init__(self, value, swallow=False):
        self.value, self.swallow = value, swallow
    def __enter__(self):
        log("enter", self.value)
        return self.value
    def __exit__(self, kind, error, traceback):
        log("exit", kind)
        return self.swallow
@contextlib.contextmanager
def decorated_manager():
    log("in")
    try:
        yield 1
    finally:
        log("out")
def by_hand(gen):
    seen = [next(gen, None)]
    try:
        seen.append(gen.send(None))
        seen.append(gen.throw(KeyError("thrown")))
    except (KeyError, StopIteration) as error:
        seen.append(type(error).__name__)
    gen.close()
    return seen
def passing(gen):
    try:
        return (yield from gen)
    finally:
        log("passed")
def delegated(gen):
    return [*passing(passing(gen))]
def stacked(one, two):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(manager(one))
        stack.callback(log, "callback", show(two))
        stack.enter_context(decorated_manager())
        return num(first) + num(two)
@functools.singledispatch
def described(value):
    return "other"
@described.register
def _(value: int):
    return "int" + show(value)
@described.register(str)
def _(value):
    return "text"
def filled(target, pairs):
    target.update(pairs)
    return target
def ended(items, key):
    items.extend(num(key(item)) for item in list(items))
    items.sort(key=lambda v: (num(v), key(v)))
    return items
class Many:
    limit = 3
    def __init__(self, value):
        self.value = ask(num(value))
    def __len__(self):
        return small(ask(self.value))
    def __iter__(self):
        for i in range(small(self.value)):
            yield ask(i)
    def __contains__(self, item):
        return num(item) == ask(self.value)
    @functools.cached_property
    def kept(self):
        return ask(self.value)
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return ask(len(name))
    def __format__(self, spec):
        return format(show(ask(self.value)), spec)
    def __str__(self):
        return show(ask(self.value))
    def __add__(self, other):
        return num(ask(self.value)) + num(other)
    def __radd__(self, other):
        return num(other) - num(ask(self.value))
    def __neg__(self):
        return -num(ask(self.value))
    def __bool__(self):
        return num(ask(self.value)) > 1
    def __getitem__(self, key):
        if num(key) > self.limit:
            raise IndexError(num(key))
        return ask(num(key))
    def __lt__(self, other):
        return num(ask(self.value)) < num(other)
    def __call__(self, *args):
        return [ask(num(arg)) for arg in args]
    @classmethod
    def of(cls, value):
        return cls(ask(num(value)))
    @staticmethod
    def plain(value):
        return ask(num(value))
    @property
    def changed(self):
        return ask(self.value)
    @changed.setter
    def changed(self, value):
        self.value = ask(num(value))
    def set_to(self, value):
        self.changed = value
        return self.changed
    def pairs(self):
        return ((ask(i), i) for i in range(2))
class Derived(Many):
    def __init__(self, value):
        super().__init__(value)
        log("derived", self.value)
    @functools.cached_property
    def kept(self):
        return (super().__len__(), super().plain(self.value))
class Counting:
    def __init__(self, left):
        self.left = left
    def __iter__(self):
        return self
    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return ask(self.left)
@functools.lru_cache
def remembered(value):
    return ask(value)
def even(n):
    return ask(True) if n <= 0 else odd(n - 1)
def odd(n):
    return ask(False) if n <= 0 else even(n - 1)
shared, thing = {0: 0, 1: 1}, Thing(2)
a, b, c, d = 1, 2, 3, 4
"""

EPILOGUE = "log('end', sys.exception())\n"


def _lines(*parts: str | list[str]) -> str:
    flat: list[str] = []
    for part in parts:
        flat += [part] if isinstance(part, str) else part
    return "".join(f"{line}\n" for line in flat)


def _in(indent: int, lines: list[str]) -> list[str]:
    return [" " * indent + line for line in lines]


def grow_block(random: Random, *, asks: int = 0, deletes: bool = True, place: str = "") -> str:
    """Grow a program with one traced block.

    Args:
        random: Where choices come from.
        asks: How often, out of 100, an expression is a request.
        deletes: Whether names may be unbound in the block.
        place: One of `PLACES`; empty for any.
    """
    grower = Grower(random, asks=asks)
    grower.deletes = deletes
    place = place or grower.pick(PLACES)
    local = place in {"function", "method", "closure", "generator", "recursion"}
    grower.in_function = local or place == "class body"
    helpers = definitions(grower, 2) if asks and grower.chance(60) else []
    grower.left = 12
    if place == "class body":
        # `nonlocal` needs a function around, and the class is at module level.
        grower.in_function = False
    body = grower.guarded(3) if grower.chance(50) else grower.suite(3)
    item = grower.pick(("trace()", "trace() as t", "trace() as (t)", "trace() as shared['t']"))
    if grower.chance(10):
        item = f"manager(1), {item}, manager(2)"
    head = f"with {item}:"
    block = [head, *_in(4, body)]
    bound = grower.chance(75)  # otherwise `e` is only bound if the block binds it
    own = ["a, b, c, d = 1, 2, 3, 4", *(["e = 5"] if bound else [])]
    report = ["log({k: v for k, v in locals().items() if k in set('abcde')})"]
    match place:
        case "module":
            text = _lines(block)
        case "function":
            text = _lines(
                "def run(a, b=2, *args, **kwargs):", _in(4, [*own[1:], "c, d = 3, 4", *block, *report]),
                "run(1)",
            )  # fmt: skip
        case "method":
            text = _lines(
                "class Runner(Thing):",
                "    def run(self):",
                _in(8, [*own, *block, *report, "return super().up(1)"]),
                "log(Runner(5).run())",
            )
        case "class body":
            text = _lines("class Body(Thing):", _in(4, [*own, *block]), "log(Body.a)")
        case "closure":
            text = _lines(
                "def outer():",
                _in(4, own),
                "    def run():",
                "        nonlocal a, b",
                "        c = d = 0",
                _in(8, [*block, *report]),
                "    def peek(): return (a, b)",
                "    run()",
                "    log(peek(), a, b, c)",
                "outer()",
            )
        case "generator":
            text = _lines(
                "def items():", _in(4, own), "    yield a", _in(4, block), _in(4, report),
                "    yield b", "    yield c",
                "log(list(items()))",
            )  # fmt: skip
        case "loop":
            text = _lines("for a in range(3):", _in(4, block), _in(4, report))
        case "handler":
            text = _lines("try:", "    raise KeyError('outer')", "except KeyError as outer:",
                          _in(4, [*block, "log(sys.exception())"]))  # fmt: skip
        case "finally":
            text = _lines("try:", "    a = 5", "finally:", _in(4, [*block, *report]))
        case "one line":
            short = [line for line in body if not line.startswith(" ")]
            simple = all(
                not line.endswith(":") and not line.startswith(("@", "if ")) for line in short
            )
            one = "; ".join(short) if simple else "a = b; b = c"
            text = _lines(f"{head} {one}")
        case "second item":
            text = _lines(f"with manager(0, swallow=True), {item}, manager(3) as e:", _in(4, body))
        case "two blocks":
            text = _lines(block, "with trace(): e = a, b", report)
        case "recursion":
            text = _lines(
                "def run(depth):", _in(4, own), "    if depth: run(depth - 1)", _in(4, block),
                _in(4, report), "run(2)",
            )  # fmt: skip
    guard = grower.chance(50)
    if guard:
        text = "try:\n" + textwrap.indent(text, "    ") + "except ZeroDivisionError: log('guard')\n"
    return PRELUDE + _lines(["e = 5"] if bound else [], helpers) + text + EPILOGUE


def definitions(grower: Grower, count: int) -> list[str]:
    """Grow functions, generators and classes at module level, without calling them."""
    saved = grower.in_function, grower.deletes
    grower.outside, grower.in_function, grower.deletes = True, False, False
    lines: list[str] = []
    for _ in range(count):
        grower.left = 5
        lines += grower.pick(
            (grower._def, grower._def, grower._generator, grower._class, grower._class,
             grower._closure, grower._decorated)
        )(2)  # fmt: skip
    grower.outside = False
    grower.in_function, grower.deletes = saved
    return lines


def grow_program(random: Random, *, asks: int = 12) -> str:
    """Grow a program of several functions, generators and classes, and a block that calls them.

    Args:
        random: Where choices come from.
        asks: How often, out of 100, an expression is a request.
    """
    grower = Grower(random, asks=asks)
    helpers = definitions(grower, grower.random.randrange(2, 6))
    grower.deletes = False
    grower.left = 10
    body = [*grower.guarded(2), f"e = {grower.expression()}"]
    return (
        PRELUDE + _lines("e = 5", helpers) + _lines("with trace() as t:", _in(4, body)) + EPILOGUE
    )


def compiles(text: str) -> bool:
    """Whether a grown text is a program. Few are not: a `nonlocal` without a binding around."""
    with warnings.catch_warnings():
        # Of what the compiler would rather not see, such as `(1, 2)["s"]`.
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(text, "<grown>", "exec")
        except (SyntaxError, ValueError):
            return False
    return True


def from_seed(seed: int, kind: str, **options: object) -> str:
    """Grow the program with a number, the same on each Python.

    Args:
        seed: Any number.
        kind: "block" or "program".
        options: For `grow_block` or `grow_program`.
    """
    grow = {"block": grow_block, "program": grow_program}[kind]
    source = random.Random(seed)
    while True:
        text = grow(source, **options)
        if compiles(text):
            return text


def blocks(**options: object) -> st.SearchStrategy[str]:
    """Programs with one traced block. Options as for `grow_block`."""
    randoms = st.randoms(use_true_random=False)
    return randoms.map(lambda source: grow_block(source, **options)).filter(compiles)


def programs(**options: object) -> st.SearchStrategy[str]:
    """Programs of several functions and a block that calls them."""
    randoms = st.randoms(use_true_random=False)
    return randoms.map(lambda source: grow_program(source, **options)).filter(compiles)
