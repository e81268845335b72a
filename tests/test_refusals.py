"""What cannot be captured is refused before anything runs, with the line and the way out."""

from __future__ import annotations

import contextlib
import re

import pytest

from tracekit import (
    AlreadyEnteredError,
    AsyncWithError,
    LeavesBlockError,
    Tracer,
    UnsupportedPythonError,
    WithBlockNotFoundError,
)
from tracekit._runtime import tracer as tracer_module
from tracekit.testing import same_as_inline


class Counting:
    """A backend that must not be called."""

    def __init__(self):
        self.called = 0

    def __call__(self, tracer, body):
        self.called += 1


@pytest.fixture
def backend():
    return Counting()


class TestNotAWith:
    def test_entered_by_hand(self, backend, no_residue):
        with pytest.raises(WithBlockNotFoundError) as caught:
            Tracer(backend=backend).__enter__()

        text = str(caught.value)
        assert "__enter__" in text
        assert ".run(" in text
        assert "test_refusals.py:" in text
        assert 0 == backend.called

    def test_entered_by_an_exit_stack(self, backend, no_residue):
        with pytest.raises(WithBlockNotFoundError, match="ExitStack"):
            with contextlib.ExitStack() as stack:
                stack.enter_context(Tracer(backend=backend))

        assert 0 == backend.called

    def test_the_way_out_works(self, no_residue):
        assert 3 == Tracer().run(lambda: 3)


LEAVING = {
    "return": "def run():\n    with tracer:\n        x = 1\n        return x\nrun()",
    "bare return": "def run():\n    with tracer:\n        x = 1\n        return\n    y = 2\nrun()",
    "return in a loop": "def run():\n    with tracer:\n        for x in [1]:\n            return x\nrun()",
    "return in try": (
        "def run():\n    with tracer:\n        try:\n            return 1\n"
        "        finally:\n            x = 2\nrun()"
    ),
    "break": "for i in range(3):\n    with tracer:\n        if i: pass\n        break",
    "break under a condition": (
        "for i in range(3):\n    with tracer:\n        x = i\n        if x < 5: break\n    y = 1"
    ),
    "continue": "for i in range(3):\n    with tracer:\n        x = i\n        continue\n    y = 1",
    "break of a while": "while True:\n    with tracer:\n        x = 1\n        break",
    "yield": "def run():\n    with tracer:\n        x = 1\n        yield x\nlist(run())",
    "yield from": "def run():\n    with tracer:\n        x = 1\n        yield from [x]\nlist(run())",
    "await": (
        "async def run():\n    with tracer:\n        x = 1\n        await other()\n"
        "async def other(): pass\ntry:\n    run().send(None)\nexcept StopIteration: pass"
    ),
}


@pytest.mark.parametrize("name", LEAVING)
def test_leaving_the_block_is_refused(name, backend, no_residue):
    """By name and line, and nothing of the block has run."""
    names = {"tracer": Tracer(backend=backend)}
    word = re.search(r"return|break|continue|yield|await", name)

    with pytest.raises(LeavesBlockError) as caught:
        exec(compile(LEAVING[name], "<leaving>", "exec"), names)

    assert word is not None
    assert word[0] in str(caught.value)
    assert re.search(r"<leaving>:\d", str(caught.value))
    assert 0 == backend.called
    assert "x" not in names


STAYING = {
    "a break of an inner loop": "with trace():\n    for x in (1, 2): break",
    "a return of an inner function": "with trace():\n    def f(): return 1\n    x = f()",
    "a loop that goes on": "for i in (1, 2):\n    with trace(): x = i\n    if i: continue",
    "a return right after": "def f():\n    with trace(): x = 1\n    return x\nlog(f())",
    "nothing after": "def f():\n    with trace(): x = 1\nlog(f())",
    "a break right after": "for i in (1, 2):\n    with trace(): x = i\n    break",
    "an if at the end of a loop": "for i in (1, 2):\n    with trace():\n        if i: x = i",
    "a while true inside": "with trace():\n    while True:\n        x = 1\n        break",
    "only pass": "with trace(): pass",
    "a raise": "try:\n    with trace(): raise KeyError\nexcept KeyError: x = 1",
    "an endless try": "with trace():\n    try: x = 1\n    finally: y = 2",
}


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_inside_is_not_refused(name, no_residue):
    same_as_inline(STAYING[name])


def test_async_with(no_residue):
    async def run():
        async with Tracer():
            pass

    coroutine = run()
    with pytest.raises(AsyncWithError, match="write `with`"):
        coroutine.send(None)


def test_a_tracer_is_entered_once(no_residue):
    tracer = Tracer()
    with tracer:
        x = 1
    with pytest.raises(AlreadyEnteredError):
        with tracer:
            x = 2

    assert 1 == x


def test_an_unknown_python_imports_and_refuses_the_first_trace(monkeypatch, backend):
    monkeypatch.setattr(tracer_module, "IS_SUPPORTED", False)

    with pytest.raises(UnsupportedPythonError, match=r"Python 3\.\d+"):
        with Tracer(backend=backend):
            pass
    assert 0 == backend.called


def test_a_tracer_that_is_never_entered_warns():
    with pytest.warns(ResourceWarning, match="never entered"):
        Tracer()
