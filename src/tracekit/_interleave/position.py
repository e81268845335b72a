"""Where a body stands in a loop over steps."""

from __future__ import annotations

from collections.abc import Iterator


class Clock:
    """Counts the calls of one module; each call opens a step, which lasts until the next.

    Attributes:
        path: The module's name.
        index: The step that is going on, -1 before the first call.
    """

    __slots__ = ("index", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.index = -1


class Loop:
    """One loop over steps in one body.

    With a clock, a request inside the loop means the next time within the step. Without one,
    step n means visit n of whatever is asked for.

    Attributes:
        clock: What counts the steps; `None` if each site counts its own visits.
        steps: The numbers still to come, ascending.
        index: The step that the body is in; `None` before the first.
        bounded: The loop says how many steps it wants.
        paths: Modules asked for so far, whose calls tell that there is a further step.
        base: What the loop's numbers are counted from: calls of the clock's module before the
            outer loop's step began.
        marks: Calls of each module when the present step began.
        wanted: The step that was asked for last.
        taken: How many steps it had.
        single: It is no loop, but one move to a later step, which holds from there on.
        ended: The steps are over, or the loop was left.
    """

    __slots__ = (
        "base",
        "bounded",
        "clock",
        "ended",
        "index",
        "marks",
        "paths",
        "single",
        "steps",
        "taken",
        "wanted",
    )

    def __init__(
        self,
        steps: Iterator[int],
        *,
        clock: Clock | None,
        bounded: bool,
        single: bool = False,
    ) -> None:
        self.single = single
        self.clock = clock
        self.steps = steps
        self.bounded = bounded
        self.index: int | None = None
        self.paths: set[str] = set()
        self.wanted: int | None = None
        self.base = 0
        self.marks: dict[str, int] = {}
        self.taken = 0
        self.ended = False

    def __repr__(self) -> str:
        return f"<step {self.index}>"
