"""Interrupts at any moment of a block, and inside our own lines.

In a child process a timer delivers SIGALRM at hundreds of random moments, and its handler raises
`KeyboardInterrupt`. What has to hold then: it comes out of the `with` (or landed after it), the
inline copy of the body has never run, and after one more block nothing of ours is left. (An
exception in a `__del__` goes nowhere in Python, so an interrupt that lands in one of ours is lost,
as in any other; that is why the child says how many it has seen.)
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import pytest

import tracekit
from tracekit._bytecode.generator import make_twin
from tracekit._runtime.guards import HOOKS

SOURCE = str(Path(tracekit.__file__).resolve().parents[1])

PROGRAM = """
import gc, random, signal, sys, time
from tracekit._runtime.tracer import Tracer
from tracekit._runtime import skip
WANTED = int(sys.argv[1])
inline = 0

def handler(number, frame):
    raise KeyboardInterrupt

def is_twin():
    return bool(sys._getframe(1).f_code.co_flags & 0x20)

def helper(n):
    return sum(i for i in range(n))

def block(n):
    global inline
    with Tracer() as tracer:
        if not is_twin():
            inline += 1
        x = 0
        for i in range(n):
            try:
                x += helper(i)
            finally:
                y = i
    return x, y

expected = block(4)
block(4)
signal.signal(signal.SIGALRM, handler)
random.seed(int(sys.argv[2]))
start = time.perf_counter()
for _ in range(50):
    block(4)
span = (time.perf_counter() - start) / 50
hits = wrong = inside = 0
end = time.monotonic() + 60
while hits < WANTED and time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, random.random() * span * 1.2))
        try:
            if block(4) != expected:
                wrong += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as error:
        hits += 1
        entry = error.__traceback__
        while entry:
            inside += 'tracekit' in entry.tb_frame.f_code.co_filename
            entry = entry.tb_next
    except BaseException as error:
        import traceback; print('UNEXPECTED'); traceback.print_exception(error, file=sys.stdout)
    error = entry = None
signal.setitimer(signal.ITIMER_REAL, 0)
with Tracer():
    last = 1
gc.collect()
assert block(4) == expected
events = 0
if hasattr(sys, 'monitoring'):
    tool = skip.tool_id()
    events = sys.monitoring.get_events(tool)
print('wrong', wrong, 'inline', inline, 'armed', len(skip._armed), 'events', events,
      'trace', sys.gettrace(), 'left', sum(
          1 for o in gc.get_objects() if type(o) is Tracer and o._state == 'entered'))
print('hits', hits, file=sys.stderr)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_interrupts_at_hundreds_of_random_moments(seed):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "300", str(seed)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrong 0 inline 0 armed 0 events 0 trace None left 0\n"
    assert int(done.stderr.split()[-1]) >= 100


def handlers(log):
    try:
        with ExitStack() as stack:
            stack.callback(log.append, "with")
            try:
                try:
                    raise ValueError
                except TypeError:
                    log.append("not this one")
            finally:
                log.append("finally")
    except (ValueError, KeyboardInterrupt) as error:
        log.append(type(error))
        log.append(type(sys.exc_info()[1]))
    log.append(sys.exc_info()[1])


@pytest.mark.parametrize(
    ("moment", "logged"),
    [
        (0, ["finally", "with", KeyboardInterrupt, KeyboardInterrupt, None]),
        (1, ["with", KeyboardInterrupt, KeyboardInterrupt, None]),
        (2, ["finally", KeyboardInterrupt, KeyboardInterrupt, None]),
        (3, ["finally", "with", KeyboardInterrupt]),
        (4, ["finally", "with", ValueError, ValueError, None]),
    ],
)
def test_one_at_the_beginning_of_a_handler_goes_on_to_the_next(moment, logged):
    """The twin calls us there before the handled error is set; the stack is one short then."""
    met = []

    def unwrap(error):
        met.append(error)
        if len(met) == moment + 1:
            raise KeyboardInterrupt
        return error

    twin = make_twin(handlers.__code__, replace(HOOKS, unwrap=unwrap))
    log = []
    try:
        for _ in FunctionType(twin.code, globals())(log):
            raise AssertionError("nothing is asked for")
    except KeyboardInterrupt:
        log.append(KeyboardInterrupt)

    assert logged == log
    assert sys.exc_info()[1] is None
