"""Text is made of objects as C makes it. Each traced and inline."""

from __future__ import annotations

import pytest
from _runtime.driving import ITEMS

from tracekit.testing import same_as_inline

PROGRAMS = {
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
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_c(name):
    same_as_inline(ITEMS + PROGRAMS[name])
