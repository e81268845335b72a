"""Thousands of traces: nothing is kept, and memory stays flat. With the collector off."""

from __future__ import annotations

import gc
import os
import tracemalloc
import weakref
from importlib.util import find_spec

import pytest

from tracekit import Tracer
from tracekit._bytecode.facts import HAS_MONITORING
from tracekit.testing import Residue, run_traced

BLOCKS = {
    "plain": "with trace():\n    x = [i for i in range(3)]\n",
    "asks": "def f(): return ask(1)\nwith trace():\n    x = f() + ask(2)\n",
    "raises": "try:\n    with trace():\n        ask(ValueError('v'))\nexcept ValueError: pass\n",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_code_that_is_thrown_away_takes_its_twins_along(name):
    """Each program is compiled anew, as a notebook does all day."""
    tracemalloc.start()
    for _ in range(1000):  # fills the tables that hold so many and no more
        run_traced(BLOCKS[name])
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(1000):
        run_traced(BLOCKS[name])
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert after - before < 200_000


def test_one_block_many_times_without_the_collector():
    class Held:
        pass

    def run():
        held = Held()
        with Tracer() as tracer:
            inside = held
        return weakref.ref(held), weakref.ref(tracer)

    residue = Residue()
    gc.collect()
    gc.disable()
    try:
        alive = [ref for _ in range(5000) for ref in run() if ref() is not None]
    finally:
        gc.enable()

    assert [] == alive
    residue.check()


def test_a_model_is_freed_without_the_collector():
    torch = pytest.importorskip("torch")
    import tracekit

    def run():
        model = tracekit.Model(torch.nn.Linear(4, 4))
        with model.trace(torch.ones(1, 4)):
            out = model.output
        return weakref.ref(model), weakref.ref(out)

    run()
    gc.collect()
    gc.disable()
    try:
        alive = [ref for _ in range(500) for ref in run() if ref() is not None]
    finally:
        gc.enable()

    assert [] == alive


TRACES = int(os.environ.get("TRACEKIT_SOAK_TRACES", "20000"))


# An interrupt that falls into a callback of a weak reference is lost by the interpreter, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mixed_traces_that_fail_at_random_points():
    """Of all kinds, interrupted by signals, in several threads, by several wrappers."""
    pytest.importorskip("torch")
    import soaking

    done = soaking.soak(TRACES, seed=1)

    assert {action.__name__ for action in soaking.ACTIONS} <= set(done)


@pytest.mark.skipif(not HAS_MONITORING, reason="nothing tells where it looks for signals")
def test_each_kind_of_trace_interrupted_at_each_point():
    pytest.importorskip("torch")
    import soaking
    from test_torch_interrupts import interrupt

    results = interrupt(*[action.__name__ for action in soaking.ACTIONS])

    assert len(results) == len(soaking.ACTIONS)
    assert {name: [] for name in results} == {name: one["found"] for name, one in results.items()}


def test_mixed_traces_without_the_collector():
    pytest.importorskip("torch")
    import soaking

    done = soaking.soak(TRACES // 4, seed=2, signals=False, threads=0, collector=False)

    assert TRACES // 4 == sum(done.values())


@pytest.mark.skipif(find_spec("torch") is None, reason="models are of torch")
@pytest.mark.parametrize("number", range(23))
def test_each_word_of_the_vocabulary(number):
    """Two thousand traces of each: memory is flat, and no hook is left."""
    import features

    assert len(features.FEATURES) == 23
    features.repeat([features.FEATURES[number]], 2000)
