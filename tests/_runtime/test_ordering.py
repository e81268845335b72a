"""Sorts, extremes and bisections compare as C does. Each traced and inline."""

from __future__ import annotations

import pytest
from _runtime.driving import ITEMS

from tracekit.testing import run_inline, run_traced, same_as_inline

PROGRAMS = {
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
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_in_c(name):
    same_as_inline(ITEMS + PROGRAMS[name])


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
