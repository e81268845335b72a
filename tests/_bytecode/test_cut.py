"""Cutting bodies: what is inside, what is refused, and by which name. `slow/test_corpus.py` is the
same for every `with` of the standard library."""

from __future__ import annotations

import dis
from types import CodeType

import pytest

from tracekit._bytecode.cut import cut
from tracekit._bytecode.program import Instr
from tracekit.errors import AsyncWithError, LeavesBlockError, WithBlockNotFoundError


def compiled(text, name="f"):
    waiting = [compile(text, "<text>", "exec")]
    for code in waiting:
        if code.co_name == name:
            return code
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]
    raise AssertionError(name)


def first_with(code, opname="BEFORE_WITH"):
    return next(i.offset for i in dis.get_instructions(code) if i.opname == opname)


def cut_first(text, **options):
    code = compiled(text)
    return cut(code, first_with(code), **options)


LEAVING = {
    "return": ("return", "def f():\n with c:\n  a\n  return\n b", 4),
    "return a value": ("return", "def f():\n with c:\n  return a()", 3),
    "return a constant": ("return", "def f():\n with c:\n  a\n  return 12345", 4),
    "return False, five wide": ("return", "def f():\n for i in x:\n  with c:\n   return False", 4),
    "return in a loop": ("return", "def f():\n for i in x:\n  with c:\n   if i: return\n   a", 4),
    "return in an except": (
        "return",
        "def f():\n with c:\n  try: a\n  except E as e: return\n  b",
        4,
    ),
    "return through a with": ("return", "def f():\n with c:\n  with d:\n   return a\n  b", 4),
    "break": ("break", "def f():\n for i in x:\n  with c:\n   if i: break\n   a\n b", 4),
    "break, then a return": (
        "break",
        "def f():\n for i in x:\n  with c:\n   if i: break\n   a\n return False",
        4,
    ),
    "break of a while": ("break", "def f():\n while x:\n  with c:\n   if a: break\n   b", 4),
    "continue": ("continue", "def f():\n for i in x:\n  with c:\n   if i: continue\n   a\n  b", 4),
    "continue at the end": (
        "continue",
        "def f():\n for i in x:\n  with c:\n   if i: continue\n   a",
        4,
    ),
    "yield": ("yield", "def f():\n with c:\n  yield 1", 3),
    "yield from": ("yield", "def f():\n with c:\n  yield from x", 3),
    "await": ("await", "async def f():\n with c:\n  await x", 3),
    "async for": ("await", "async def f():\n with c:\n  async for i in x: pass", 3),
    "async with in it": ("await", "async def f():\n with c:\n  async with d: pass", 3),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_leaves_is_refused_by_its_name_and_line(name):
    word, text, lineno = LEAVING[name]
    with pytest.raises(LeavesBlockError) as caught:
        cut_first(text)

    assert f"`{word}` on line {lineno} leaves the traced block" == caught.value.args[0]
    assert ".run(" in caught.value.fix


STAYING = [
    "def f():\n with c:\n  for i in x:\n   if i: break\n   if a: continue\n  b",
    "def f():\n with c:\n  while True:\n   break",
    "def f():\n with c:\n  def g(): return 1\n  h = lambda: (yield)\n return a",
    "def f():\n for i in x:\n  with c:\n   a\n  return b",
    "def f():\n for i in x:\n  with c:\n   a\n  continue",
    "def f():\n for i in x:\n  with c:\n   a\n  break\n return 1",
    "def f():\n while x:\n  with c:\n   a",
    "def f():\n with c:\n  raise a",
    "def f():\n with c:\n  try: a\n  finally: b\n return 1",
    "def f():\n with c: a",
    "async def f():\n with c:\n  a\n await b",
    "def f():\n with c:\n  a\n yield b",
]


@pytest.mark.parametrize("text", STAYING)
def test_what_stays_is_cut(text):
    assert (
        cut_first(text).lineno == [i for i, s in enumerate(text.split("\n"), 1) if "with" in s][0]
    )


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n for i in x:\n  with c:\n   a\n   continue",
        "def f():\n with c:\n  a\n  return",
    ],
)
def test_a_way_out_that_is_the_end_means_the_same(text):
    """Accepted where bytecode cannot tell it from the end of the body, else refused by name."""
    try:
        body = cut_first(text)
    except LeavesBlockError as refusal:
        assert text.split()[-1] in str(refusal)
    else:
        assert body.stores == frozenset()


def test_names():
    body = cut_first(
        "def f(a, b, *c):\n d = e = 1\n def g(): return d\n"
        " with x() as y:\n  z = a + d + h\n  del e\n return z"
    )

    assert set(body.arguments) == {"y", "z", "a", "e"}
    assert body.cells == ("d",)
    assert body.frees == ()
    assert {"a", "d", "h"} <= body.loads
    assert body.stores == {"y", "z", "e"}
    assert body.takes_value


def test_all_names_for_debuggers():
    body = cut_first("def f(a, b):\n u = 1\n with x() as y:\n  z = a", all_names=True)

    assert set(body.arguments) == {"a", "b", "u", "y", "z"}
    assert body.stores == {"y", "z"}


def test_after_the_target():
    body = cut_first("def f():\n with x() as y:\n  z = y", after_target=True)

    assert not body.takes_value
    assert body.stores == {"z"}


def test_positions_and_lines_are_kept():
    text = "def f():\n with x():\n  a = b.c\n  d(a,\n    b)\n"
    body = cut_first(text)
    lines = {
        instr.location[0]
        for instr in body.program.instrs
        if type(instr) is Instr and instr.offset >= 0 and instr.location
    }

    assert lines >= {3, 4, 5}


def test_an_async_with_is_refused():
    code = compiled("async def f():\n async with c: pass")
    with pytest.raises(AsyncWithError):
        cut(code, first_with(code, "BEFORE_ASYNC_WITH"))


def test_anything_else_is_no_with():
    code = compiled("def f():\n c.__enter__()")
    with pytest.raises(WithBlockNotFoundError):
        cut(code, first_with(code, "RESUME"))
