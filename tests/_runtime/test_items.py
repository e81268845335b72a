"""Generators that hand out items and suspend: refusals, closing, and what they look like."""

from __future__ import annotations

import gc
import json
import re
import weakref

import pytest
from _runtime.driving import Refused, inline, note, traced, want

from tracekit._protocol import Raised
from tracekit._runtime.resolve import call
from tracekit.errors import CannotSuspendError
from tracekit.testing import same_as_inline


def gen(n=3):
    for i in range(n):
        yield want(i)


def test_c_code_that_steps_an_asking_generator_is_refused_at_the_request():
    def block():
        return bytearray(map(want, [1])).hex(), json.dumps({}), "".join, memoryview(gen())

    outcome = traced(block)

    assert outcome.error.startswith("TypeError")

    def drives():
        return (
            re.compile("x").sub("", "x"),
            dict.fromkeys(zip(gen(), [1])),
            __import__("array").array("i", gen()),
        )

    outcome = traced(drives)

    assert outcome.error.startswith("CannotSuspendError")
    line = gen.__code__.co_firstlineno + 2
    assert "`gen`" in outcome.error
    assert f"{__file__}:{line}" in outcome.error
    assert outcome.lines[-1] == ("gen", line)


def test_a_refusal_can_be_handled_where_it_is_raised():
    def careful():
        try:
            yield want(1)
        except CannotSuspendError:
            yield 7

    def block():
        return __import__("array").array("i", careful()).tolist()

    assert traced(block).value == [7]


def test_a_callback_of_c_is_called_as_it_stands():
    def block():
        return re.sub("a", lambda match: want("b"), "aa")

    assert inline(block).value == "bb"
    assert traced(block).error.startswith(Refused.__name__)


def test_c_code_may_step_what_does_not_ask():
    def plain():
        yield from (1, 2)

    def block():
        import array

        return array.array("i", plain()).tolist(), note(list(plain()))

    assert traced(block).value == ([1, 2], [1, 2])


def test_a_generator_that_leaves_the_block_goes_on():
    def plain():
        try:
            yield 1
            yield 2
        finally:
            note("end")

    kept = traced(plain).value
    assert next(kept) == 1
    assert list(kept) == [2]
    assert traced(gen).value.close() is None
    left = traced(gen).value
    with pytest.raises(CannotSuspendError):
        next(left)


def test_a_dropped_generator_runs_its_finally():
    def careful():
        try:
            yield 1
        finally:
            note("closed")

    def block():
        for _ in careful():
            break
        return note("after")

    assert traced(block).log == inline(block).log


def test_a_delegated_generator_that_is_under_way_is_held():
    def started():
        g = gen()
        next(g)
        return g

    def outer():
        yield from started()

    assert inline(lambda: list(outer())).value == [1, 2]
    assert traced(lambda: list(outer())).value == [1, 2]


def test_closing_a_suspended_run_runs_finally_blocks_innermost_first():
    log = []

    def inner():
        try:
            yield want(1)
        finally:
            log.append("inner")

    def outer():
        try:
            return [x for x in inner()]
        finally:
            log.append("outer")

    driven = call(outer)
    driven.send(None)
    driven.close()

    assert log == ["inner", "outer"]


def test_an_error_as_the_answer_is_raised_by_who_asked():
    def outer():
        try:
            return list(gen())
        except KeyError as error:
            return str(error)

    driven = call(outer)
    driven.send(None)
    with pytest.raises(StopIteration) as stop:
        driven.send(Raised(KeyError("k")))

    assert stop.value.value == "'k'"


def test_nothing_is_kept_by_a_finished_run():
    class Big:
        def __iter__(self):
            yield want(1)

        @property
        def p(self):
            return want(2)

    big = Big()
    alive = weakref.ref(big), weakref.ref(Big)

    def block():
        return [*big], big.p, sum(big), list(map(lambda x: x, big))

    assert traced(block).requests == 4
    del big, Big, block
    gc.collect()

    assert [each() for each in alive] == [None, None]


ABANDONED = {
    "a generator": "next(iter(g()))",
    "behind enumerate": "next(enumerate(g()))",
    "in a generator expression": "next(x for x in g())",
    "behind map in one": "next(x for x in map(lambda v: v, g()))",
    "delegated to": "next(passes(g()))",
    "delegated to, not rewritten": "next(passes(iter([1, 2])))",
    "thrown into": "throws(passes(g()))",
}


@pytest.mark.parametrize("how", ABANDONED)
def test_an_abandoned_generator_is_closed_at_once(how, no_residue):
    """Without the garbage collector, which would come later: no error of ours holds a frame."""
    gc.disable()
    try:
        same_as_inline(
            f"""
def g():
    try:
        for i in range(3):
            yield ask(i)
    finally:
        log('closed')
def passes(it):
    try:
        yield from it
    finally:
        log('passed')
def throws(it):
    next(it)
    try:
        it.throw(KeyError('k'))
    except KeyError as error:
        return error.args
def first():
    return {ABANDONED[how]}
with trace():
    seen = first()
    log('returned')
"""
        )
    finally:
        gc.enable()
