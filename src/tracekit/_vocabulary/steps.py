"""Loops over the steps of a run: `for step in tracer.iter[2:]`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from .._interleave.position import Loop
from .._interleave.requests import NextStep
from .._interleave.site import spell
from .._protocol import Carrier, ask, suspending
from .._runtime.refusals import cannot_wait
from .._torch import hooks
from .._torch.tree import Node
from ..errors import NeverRanError, NotRunningError
from .stepblocks import StepBlock

if TYPE_CHECKING:
    from .._interleave.position import Clock
    from .._torch.run import Run


def numbers(key: object) -> tuple[Iterator[int], bool]:
    """Give the steps that a subscript means.

    Args:
        key: A number, a slice, or a list of numbers; all from 0, ascending.

    Returns:
        The numbers, and whether they end.

    Raises:
        ValueError: A negative or descending number.
        TypeError: Something else.
    """
    if isinstance(key, slice):
        start, step = key.start or 0, 1 if key.step is None else key.step
        bounds = [start, step, 0 if key.stop is None else key.stop]
        if any(type(bound) is not int for bound in bounds):
            message = f"steps are whole numbers, not {key!r}"
            raise TypeError(message)
        if min(bounds) < 0 or step == 0:
            message = f"steps are counted from 0 upwards: {key!r} has no meaning for a run"
            raise ValueError(message)
        if key.stop is None:
            return itertools.count(start, step), False
        return iter(range(start, key.stop, step)), True
    if type(key) is int:
        key = [key]
    if isinstance(key, list | tuple | range):
        found = list(key)
        if any(type(number) is not int for number in found):
            message = f"steps are whole numbers, not {key!r}"
            raise TypeError(message)
        if found != sorted(set(found)) or (found and found[0] < 0):
            message = f"steps come in ascending order, from 0: {key!r}"
            raise ValueError(message)
        return iter(found), True
    message = f"a number, a slice or a list of numbers, not {type(key).__name__!r}"
    raise TypeError(message)


class Steps:
    """What `tracer.iter` is: subscripted with the steps that a loop is about.

    Args:
        owner: The tracer, or the node whose calls are the steps.
    """

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __getitem__(self, key: object) -> StepLoop:
        numbers(key)  # a mistake shows in the line that makes it
        return StepLoop(self.owner, key)

    def __iter__(self) -> StepIterator:
        return iter(self[:])

    def __repr__(self) -> str:
        return f"{_spell(self.owner)}.iter"


class StepLoop(StepBlock):
    """What a `for` loops over; each `for` starts anew."""

    __slots__ = ("_skips", "key", "owner")

    def __init__(self, owner: Any, key: object) -> None:
        self.owner = owner
        self.key = key
        self._skips: list[Any] = []

    def __iter__(self) -> StepIterator:
        run, clock = clock_of(self.owner)
        steps, bounded = numbers(self.key)
        return StepIterator(run, Loop(steps, clock=clock, bounded=bounded))

    def __repr__(self) -> str:
        return f"{_spell(self.owner)}.iter[{_spell_steps(self.key)}]"


def _spell(owner: Any) -> str:
    return spell(owner._path, "") if isinstance(owner, Node) else "tracer"


def _spell_steps(key: object) -> str:
    if not isinstance(key, slice):
        return repr(key)
    parts = [key.start, key.stop] if key.step is None else [key.start, key.stop, key.step]
    return ":".join("" if part is None else repr(part) for part in parts)


@suspending(StepLoop.__iter__)
def _steps_of(self: StepLoop) -> Any:
    # Asks for nothing; but what it gives does, and is driven because of this.
    return StepLoop.__iter__(self)
    yield


class StepIterator:
    """Waits at each turn until the run is in the next step; ends when the steps end."""

    __slots__ = ("_loop", "_run")

    def __init__(self, run: Run, loop: Loop) -> None:
        self._loop = loop
        self._run: Run | None = run

    def __iter__(self) -> StepIterator:
        return self

    def __next__(self) -> int:
        raise cannot_wait("the next step", _IN_THE_BLOCK)

    def __del__(self) -> None:
        # The loop was left, also by `break`, by `return` or by an error: what is asked for
        # after it is no longer a matter of its steps.
        run = getattr(self, "_run", None)  # none where an interrupt came before it had one
        if run is not None and not self._loop.ended:
            run.interleaver.leave_loop(self._loop)


@suspending(StepIterator.__next__)
def _next_step(self: StepIterator) -> Any:
    step = yield from ask(NextStep(self._loop))
    if step is None:
        self._run = None
        raise Carrier(StopIteration())
    return step


def go_on(owner: Any, steps: int) -> Any:
    """Make what is asked for from here on a matter of a later step; see `next`."""
    raise cannot_wait(f"{steps} steps further", _IN_THE_BLOCK)


@suspending(go_on)
def _go_on(owner: Any, steps: int) -> Any:
    if type(steps) is not int or steps < 0:
        message = f"steps go forward by a whole number, not by {steps!r}"
        raise ValueError(message)
    run, clock = clock_of(owner)
    worker = run.interleaver.current
    assert worker is not None
    here = 0 if clock is None else max(clock.index, 0)
    for loop in reversed(worker.loops):
        if loop.clock is clock and loop.index is not None:
            here = loop.index + loop.base
            break
    for loop in [loop for loop in worker.loops if loop.single]:
        # One move takes the place of another.
        run.interleaver.leave_loop(loop)
    wanted = here + steps
    loop = Loop(iter([wanted]), clock=clock, bounded=False, single=True)
    step = yield from ask(NextStep(loop))
    if step is None:
        raise NeverRanError(
            f"step {wanted} was asked for, but the run ended before it",
            where=worker.where(),
            fix="ask for fewer steps, or loop over them: `for step in tracer.iter[:]`",
        )
    return owner


def clock_of(owner: Any) -> tuple[Run, Clock | None]:
    """Give the run that *owner* is in, and what counts its steps.

    Args:
        owner: A tracer: calls of its model where the traced call makes several, else each
            site's own visits. A node: its calls.

    Raises:
        NotRunningError: `not-running`. Nothing is running.
    """
    run = hooks.current_run()
    if run is None or run.interleaver.current is None:
        raise NotRunningError(
            "steps are counted while a block runs, and none does",
            why="a step is a part of a traced run",
            fix="loop inside the block: `with model.generate(x) as tracer: "
            "for step in tracer.iter[:]: ...`",
        )
    path = owner._step_path(run)
    if path is None:
        return run, None
    problem = run.watch(path)
    if problem is not None:
        raise problem
    return run, run.interleaver.clock(path)


_IN_THE_BLOCK: Final = "write the loop in the block itself, as `for step in tracer.iter[:]`"
