"""What instructions do, called as functions. Each traced and inline."""

from __future__ import annotations

import pytest
from _runtime.driving import ITEMS

from tracekit.testing import same_as_inline

PROGRAMS = {
    "calling through operator": """
class Made:
    def __init__(self, x): self.x = ask(x)
with trace():
    log(operator.call(Made, 6).x, operator.call(ask, 7), operator.call(lambda *a, **k: ask(k), y=1))
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
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_c(name):
    same_as_inline(ITEMS + PROGRAMS[name])
