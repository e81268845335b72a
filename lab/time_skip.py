"""What passing over an inline copy costs, per block.

Run it as `python lab/time_skip.py` on each Python. It prints, in microseconds (best of several
rounds, one thread), a `with` around an empty context manager, the same with the skip of an empty
block, and the parts of the difference. Then the same with a trace function and with every tool id
taken by others, where opcode tracing steps in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Self

from tracekit._runtime import skip

ROUNDS, TURNS = 150, 300


class Empty:
    """Enters and leaves."""

    def __enter__(self) -> Self:
        self.frame = sys._getframe(1)
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Skipping:
    """Enters, skips, and leaves: the least that a tracer does."""

    def __enter__(self) -> Self:
        frame = sys._getframe(1)
        self.skip = skip.arm(frame, frame.f_lasti + 2)
        self.skip.engage()
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> bool:
        mine = self.skip.exception_is_mine(error)
        self.skip.disarm()
        return mine


def inline(turns: int) -> None:
    """Enter and leave *turns* times."""
    manager = Empty()
    for _ in range(turns):
        with manager:
            pass


def skipped(turns: int) -> None:
    """Skip *turns* times."""
    manager = Skipping()
    for _ in range(turns):
        with manager:
            raise AssertionError


def armed(turns: int) -> None:
    """Arm and disarm *turns* times, without anything raised."""
    frame = sys._getframe()
    for _ in range(turns):
        skip.arm(frame, 0).disarm()


def best(function: Callable[[int], None]) -> float:
    """Microseconds per turn."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        function(TURNS)
        times.append(perf_counter() - start)
    return min(times) / TURNS * 1e6


def report(title: str) -> None:
    """Measure and print one row."""
    plain, whole, half = best(inline), best(skipped), best(armed)
    print(
        f"{title:<28} empty with {plain:6.2f}   with skip {whole:6.2f}"
        f"   difference {whole - plain:6.2f}   of it arm and disarm {half:6.2f}"
    )


def main() -> None:
    """Measure each way."""
    print(f"Python {sys.version.split()[0]}, microseconds per block")
    report("alone")
    sys.settrace(lambda *_: None)
    report("a trace function is active")
    sys.settrace(None)
    if skip.tool_id() is not None:
        skip.release()
        for number in (3, 4):
            sys.monitoring.use_tool_id(number, "somebody else")
        report("all ids taken")


if __name__ == "__main__":
    main()
