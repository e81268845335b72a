"""Lets the blocks of programs under test run in step with a model of torch.

`use()` changes what `tracekit.testing` gives a program: `trace()` traces a chain of modules, and each
`ask(key)` reads the output of the next one before it answers. What a program does is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

from tracekit import Model, _protocol, testing
from tracekit._torch import hooks
from tracekit.errors import CannotSuspendError

LENGTH = 24
X = torch.zeros(1)


class Chain(nn.Module):
    """Calls its modules one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.links = nn.ModuleList([nn.Identity() for _ in range(LENGTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for link in self.links:
            x = link(x) + 1
        return x


MODEL = Model(Chain())


def _next() -> int:
    """The number of the module that the run of this moment comes to next."""
    run = hooks.current_run()
    if run is None:
        return LENGTH
    passed = run.interleaver.passed
    return sum(1 for (_, port), _ in passed if port == "output")


def _tracer_factory(_recorder: Any) -> Callable[[], Any]:
    return lambda: MODEL.trace(X)


def _ask_traced(recorder: Any) -> Callable[[object], object]:
    def ask(key: object) -> object:
        error = CannotSuspendError(
            f"`ask({testing.fingerprint(key)})` is called where the block cannot be suspended"
        )
        recorder.refused = recorder.refused or error
        raise error

    def ask_suspending(key: object) -> Generator[Any, Any, Any]:
        recorder.asked.append(testing.fingerprint(key))
        at = _next()
        if at < LENGTH:
            value = yield from type(MODEL).output.ask_get(MODEL.links[at])
            assert value.item() == at
        return recorder.answer(key)

    # As all that stands for a program's inline `ask`, it is not shown in tracebacks.
    ask_suspending.__code__ = ask_suspending.__code__.replace(co_filename=testing.__file__)
    _protocol.suspending(ask)(ask_suspending)
    return ask


def use() -> None:
    """From now on `tracekit.testing` runs programs in step with the model."""
    testing._tracer_factory = _tracer_factory
    testing._Recorder.ask_traced = _ask_traced
