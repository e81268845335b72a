"""Running bodies that are in step with nothing, and ending those that are suspended."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from .._protocol import Abort, Carrier, Raised
from ..errors import NotRunningError
from .debuggers import hide

if TYPE_CHECKING:
    from .bodies import Body

_PATIENCE: Final = 1000


def run_alone(body: Body, value: object) -> object:
    """Run *body* to its end; every request is refused.

    Args:
        body: The block or function.
        value: What its `as` target gets, or its argument.

    Returns:
        What it returned.
    """
    generator = body.start(value)
    answer: object = None
    hide(sys._getframe())
    try:
        while True:
            request = generator.send(answer)
            refusal = NotRunningError(
                f"{request!r} was asked for, and no model is being run",
                fix="trace a model: `with model.trace(...)`",
            )
            answer = Raised(refusal)
    except StopIteration as end:
        return end.value
    except Carrier as carrier:
        stopped = carrier.error
    raise stopped


def abort(generator: Generator[Any, Any, Any], reason: BaseException | None = None) -> None:
    """Unwind a suspended body: its `finally` blocks run, innermost first.

    Requests made while it unwinds are answered with the abort again. An error that it raises
    instead is dropped: there is already a reason why the run ends.

    Args:
        generator: The body; ended when this returns.
        reason: What the body sees as the cause of its end, as the abort's cause.
    """
    for _ in range(_PATIENCE):
        stop = Abort()
        stop.__cause__ = reason
        try:
            generator.send(Raised(stop))
        except BaseException:  # noqa: BLE001 - whatever it raises, it has ended
            return
    generator.close()
