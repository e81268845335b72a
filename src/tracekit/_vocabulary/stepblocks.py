"""The older form of a loop over steps: `with tracer.iter[2:] as step: ...`.

Its body is a block inside a block. It is cut out of the same code object, run anew for each step,
and its inline copy is passed over, all from the `with` of the block around it, which suspends
while the steps go by. A `for` loop says the same in fewer words; this form warns.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from types import FrameType
from typing import Any

from .._bytecode.cut import is_with_entry
from .._interleave.requests import NextStep
from .._protocol import Carrier, ask, suspending
from .._runtime.bodies import BlockBody
from .._runtime.sites import compiled_block
from .._runtime.skip import arm
from .._runtime.tracedskip import Skip
from .._runtime.tracer import Tracer
from .._runtime.twins import ORIGINALS
from ..errors import CannotSuspendError


class StepBlock:
    """What makes a loop over steps usable as a `with`.

    A base class of `StepLoop`, which gives the iterator of the steps.
    """

    __slots__ = ()
    takes_names = True
    _skips: list[Skip]
    owner: Any

    def __enter__(self) -> int:
        raise CannotSuspendError(
            "`with tracer.iter[...]` is entered in code that cannot wait for the model",
            why="its body runs once for each step, inside the block around it",
            fix="write the loop in the block itself, as `for step in tracer.iter[:]`",
        )

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        skip = self._skips.pop() if self._skips else None
        if skip is None:
            return False
        mine = skip.exception_is_mine(error)
        skip.disarm()
        return mine


@suspending(StepBlock.__enter__)
def _enter(self: Any) -> Generator[Any, Any, int]:
    frame = _frame_of_the_with()
    twin = ORIGINALS[id(frame.f_code)]
    offset = twin.origin_of(frame.f_lasti)
    assert offset is not None
    assert is_with_entry(twin.original, offset)
    warnings.warn_explicit(
        "`with tracer.iter[...]:` is an older form: write `for step in tracer.iter[...]:`",
        getattr(type(self.owner), "older_form", FutureWarning),
        frame.f_code.co_filename,
        frame.f_lineno,
    )
    block = compiled_block(twin.original, offset)
    skip = arm(frame, twin.offset_of(block.first_offset))
    step = -1
    steps = iter(self)
    while True:
        found = yield from ask(NextStep(steps._loop))
        if found is None:
            steps._run = None
            break
        step = found
        info = Tracer.Info(frame, twin.original, offset, frame.f_lasti, is_direct=True)
        body = BlockBody(info, block)
        try:
            yield from _unpacked(body.start(step))
        finally:
            body.finish()
            body.forget()
    self._skips.append(skip)
    skip.engage()
    return step


def _unpacked(body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Drive *body*; a `StopIteration` of the user's goes on travelling in its carrier."""
    try:
        return (yield from body)
    except StopIteration as stopped:
        carrier = Carrier(stopped)
    raise carrier


def _frame_of_the_with() -> FrameType:
    """The rewritten frame that executes the `with`: the innermost above our own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and id(frame.f_code) not in ORIGINALS:
        frame = frame.f_back
    assert frame is not None
    return frame
