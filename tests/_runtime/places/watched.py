"""A program with blocks, for debuggers, coverage and profilers to watch.

With INLINE in the environment the blocks are not traced; the watcher must see the same.
"""

from __future__ import annotations

import contextlib
import os

if os.environ.get("INLINE"):
    Tracer = contextlib.nullcontext
else:
    from tracekit._runtime.tracer import Tracer


def helper(value):
    if value % 2:
        return value * 3
    return value


def work(count):
    total = 0
    for i in range(count):
        with Tracer() as tracer:
            a = helper(i)
            if a > 2:
                total += a
            else:
                total -= 1
            b = [helper(j) for j in range(2)]
        total += len(b)
    return total


def nested():
    with Tracer() as outer:
        x = 1
        with Tracer() as inner:
            y = helper(x)
        try:
            z = y / 0
        except ZeroDivisionError:
            z = -1
    return x + y + z


def failing():
    with Tracer():
        start = 1
        start / 0


def generating():
    for i in range(2):
        with Tracer():
            value = helper(i)
        yield value


def main():
    results = [work(3), nested(), *generating()]
    try:
        failing()
    except ZeroDivisionError as error:
        results.append(str(error))
    return results


if __name__ == "__main__":
    print(main())
