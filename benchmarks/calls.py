"""What a call costs inside a block: straight, rewritten, asking, and ten helpers deep.

Usage: python benchmarks/calls.py

Each row is a loop in a block against the same loop outside, in turns in one process, in ns per
call, medians; "more" is the difference. A greenlet that goes down the same helpers is printed
beside them where the package is installed (`nox -s calls` installs it). Process time is used:
other programs do not count.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from tracekit import _protocol
from tracekit._runtime.tracer import Tracer
from tracekit._runtime.twins import twin_code

LOOPS = 2000
ROUNDS = 15


class Port(_protocol.Suspending):
    """An attribute whose value the driver gives."""

    def __get__(self, obj: object, owner: type | None = None) -> object:
        return 1

    def ask_get(self, obj: object):
        return _protocol.ask("value")


class Site:
    """Something with a value to ask for."""

    value = Port()


class Serving(Tracer):
    """Answers every request at once."""

    def execute(self, body):
        generator = body.start(self)
        answer = None
        try:
            while True:
                generator.send(answer)
                answer = 1
        except StopIteration as end:
            return end.value


SITE = Site()
X = torch.ones(4)


class Helper:
    """A user's class."""

    def method(self, x):
        return x


HELPER = Helper()


def never(x):
    return x


def asks():
    return SITE.value


DEPTH = 10


def helpers(bottom: str) -> dict[str, Callable]:
    """Ten functions, each of which calls the next, and one that does what *bottom* says."""
    lines = [f"def down_{i}(x): return down_{i + 1}(x)" for i in range(DEPTH)]
    names: dict = {"SITE": SITE}
    exec("\n".join([*lines, f"def down_{DEPTH}(x):", f"    {bottom}"]), names)
    return names


down = helpers("return SITE.value")["down_0"]
down_often = helpers("for _ in range(x): last = SITE.value")["down_0"]


def count_down(n):
    if n:
        return count_down(n - 1)
    return SITE.value


def loop_empty(tracer=None):
    for _ in range(LOOPS):
        pass


def loop_torch(tracer=None):
    for _ in range(LOOPS):
        torch.add(X, X)


def loop_builtin(tracer=None):
    for _ in range(LOOPS):
        abs(-3)


def loop_never(tracer=None):
    for _ in range(LOOPS):
        never(3)


def loop_method(tracer=None):
    for _ in range(LOOPS):
        HELPER.method(3)


def loop_request(tracer=None):
    for _ in range(LOOPS):
        SITE.value  # noqa: B018  # asking is what is measured


def loop_asks(tracer=None):
    for _ in range(LOOPS):
        asks()


def loop_deep(tracer=None):
    for _ in range(LOOPS):
        down(1)


def loop_recursive(tracer=None):
    for _ in range(LOOPS):
        count_down(DEPTH)


def loop_deep_often(tracer=None):
    for _ in range(LOOPS // 10):
        down_often(11)


def loop_deep_once(tracer=None):
    for _ in range(LOOPS // 10):
        down_often(1)


def time_ns(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) / LOOPS * 1e9


def measure(loop) -> tuple[float, float]:
    """Median ns per turn, outside and inside a block."""
    outside, inside = [], []
    for _ in range(ROUNDS):
        outside.append(time_ns(loop) - time_ns(loop_empty))
        inside.append(
            time_ns(lambda: Serving().run(loop)) - time_ns(lambda: Serving().run(loop_empty))
        )
    return statistics.median(outside), statistics.median(inside)


def rewriting_us() -> tuple[float, float]:
    """First-time cost, in us per 100 instructions, of the standard library's `argparse`."""
    import argparse
    import dis
    import types

    codes = [
        value.__code__
        for cls in vars(argparse).values()
        if isinstance(cls, type)
        for value in vars(cls).values()
        if isinstance(value, types.FunctionType)
    ]
    count = sum(len(list(dis.get_instructions(code))) for code in codes)
    start = time.process_time()
    for code in codes:
        twin_code(code)
    return (time.process_time() - start) / count * 1e8, count


def main() -> None:
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {LOOPS} calls a round")
    print(f"{'':34}{'outside':>9}{'block':>9}{'more':>9}   ns per call")
    rows = [
        ("torch.add(x, x)", loop_torch),
        ("abs(-3)", loop_builtin),
        ("user function that never asks", loop_never),
        ("user method that never asks", loop_method),
        ("one request", loop_request),
        ("user function that asks", loop_asks),
        ("ten helpers deep, one request", loop_deep),
        ("one helper, recursive, ten deep", loop_recursive),
    ]
    for name, loop in rows:
        outside, inside = measure(loop)
        print(f"{name:34}{outside:9.0f}{inside:9.0f}{inside - outside:9.0f}")
    _, often = measure(loop_deep_often)
    _, once = measure(loop_deep_once)
    print(f"{'each further request at that depth':34}{'':9}{'':9}{often - once:9.0f}")
    greenlet_row()
    per_hundred, count = rewriting_us()
    print(f"rewriting, first time: {per_hundred:.0f} us per 100 instructions (of {count})")


def greenlet_row() -> None:
    """The same ten helpers, with a greenlet switch at the bottom."""
    try:
        from greenlet import getcurrent, greenlet
    except ImportError:
        print(f"{'the same with a greenlet':34}{'not installed':>27}")
        return

    names = helpers("return SWITCH()")
    names["SWITCH"] = getcurrent().switch

    def body():
        for _ in range(LOOPS):
            names["down_0"](1)

    def run():
        other = greenlet(body)
        other.switch()
        while not other.dead:
            other.switch(1)

    median = statistics.median(time_ns(run) for _ in range(ROUNDS))
    print(f"{'the same with a greenlet':34}{'':18}{median:9.0f}")


if __name__ == "__main__":
    main()
