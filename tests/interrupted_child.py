"""Interrupt traces at each point where the interpreter looks whether there is a signal.

`python interrupted_child.py ACTION[:STEP] ...`: each of the actions of `soaking.py` (or words of
`features.py`) is run once for each of its points, and interrupted there; with a step, for each
second, third ... one. Prints as JSON, for each, how many points there are, how many interrupts
arrived, and what was found: an error that is not the interrupt, a plain call that is not what it
was, or something that is left after one more trace.

A signal is seen where a function begins or goes on, after a call of C, and at a jump back. The first
two are events of `sys.monitoring`, whose callback raises in that place what a signal's handler would;
at a jump, 3.12 and 3.13 unwind an error of a callback wrongly, so those are left out.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import warnings
from typing import Any

import features
import soaking
import torch

from tracekit.testing import Residue

_monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
_EVENTS = _monitoring.events
_TOOL = 5
# `C_RETURN` comes with `CALL`.
_WATCHED = _EVENTS.PY_START | _EVENTS.PY_RESUME | _EVENTS.CALL


class Interrupts:
    """Counts the points of what runs, and raises at one of them."""

    def __init__(self) -> None:
        self.seen = self.wanted = 0
        self.place = ""
        _monitoring.use_tool_id(_TOOL, "interrupts")
        for event in (_EVENTS.PY_START, _EVENTS.PY_RESUME, _EVENTS.C_RETURN):
            _monitoring.register_callback(_TOOL, event, self._at_point)

    def _at_point(self, *_: object) -> None:
        self.seen += 1
        if self.seen != self.wanted:
            return
        frame = sys._getframe(1)
        self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        raise KeyboardInterrupt

    def run(self, function: Any, point: int) -> bool:
        """Call *function*, interrupted at one of its points; tell whether the interrupt arrived."""
        self.seen, self.wanted = 0, point
        try:
            _monitoring.set_events(_TOOL, _WATCHED)
            function()
        except KeyboardInterrupt:
            return True
        finally:
            _monitoring.set_events(_TOOL, 0)
        return False


def _tensors() -> int:
    return sum(1 for each in gc.get_objects() if issubclass(type(each), torch.Tensor))


def _modes() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )


def try_all(bench: soaking.Bench, name: str, step: int, interrupts: Interrupts) -> dict[str, Any]:
    """Interrupt one action at each of its points, or each *step*-th one."""
    model = bench.wrappers[0]
    does: Any = getattr(soaking, name, None)

    def action() -> None:
        if does is None:
            getattr(features, name)(bench, model)
        else:
            does(bench, model, random.Random(5))

    for _ in range(4):
        interrupts.run(action, 0)
    points = interrupts.seen
    arrived = 0
    found: list[str] = []
    gc.collect()
    gc.freeze()
    residue, modes = Residue(bench.module), _modes()

    def what_is_left() -> list[str]:
        left = residue.found()
        left += [f"{count} tensors" for count in [_tensors()] if count]
        left += [f"modes {now}" for now in [_modes()] if now != modes]
        left += ["a forward" for each in bench.module.modules() if "forward" in vars(each)]
        return left

    for point in range(1, points + 1, step):
        try:
            arrived += interrupts.run(action, point)
            vars(soaking._TROUBLE).clear()
            if not torch.equal(bench.plain, bench.module(bench.x)):
                found.append(f"{interrupts.place}: a plain call gives something else")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it should not be there
            found.append(f"{interrupts.place}: {error!r}")
        with model.trace(bench.x):
            pass
        left = what_is_left()
        if left:
            gc.collect()
            left = what_is_left()
        if left:
            # `with torch.enable_grad()` is torch's own, and two lines of Python long.
            if "grad_mode.py" not in interrupts.place:
                found.append(f"{interrupts.place}: {', '.join(left)}")
            gc.freeze()
            torch.set_grad_enabled(False)
    gc.unfreeze()
    return {"points": len(range(1, points + 1, step)), "arrived": arrived, "found": found}


def main(wanted: list[str]) -> None:
    torch.set_num_threads(1)
    # An interrupt between making a tracer and entering it leaves one that was never entered.
    warnings.simplefilter("ignore", ResourceWarning)
    bench = soaking.Bench()
    torch.set_grad_enabled(False)
    for action in soaking.ACTIONS:
        action(bench, bench.wrappers[0], random.Random(1))
    interrupts = Interrupts()
    results = {}
    for each in wanted:
        name, _, step = each.partition(":")
        results[name] = try_all(bench, name, int(step or 1), interrupts)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
