"""What is done, on what, and what tracekit promises for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import subjects
from .subjects import Subject


@dataclass(frozen=True)
class Workload:
    """One thing to do, timed in turns with the same thing done by hooks.

    Attributes:
        name: The function of an adapter that does it.
        title: As the tables say it.
        subject: Makes what it is done on.
        key: What results are filed under; `name` by default.
        ratio: Promise: at most this many times the base.
        more_us: Promise: at most this much more than the base.
        budget_s: How long the rounds may take.
        grads: Gradients are recorded.
        apart: The base runs on a copy, although the adapter leaves nothing on the module.
        memory: Peak memory of one call is measured as well.
        flat: What is still there after 2 more calls is measured as well.
    """

    name: str
    title: str
    subject: Callable[[], Subject]
    key: str = ""
    ratio: float | None = None
    more_us: float | None = None
    budget_s: float = 4.0
    grads: bool = False
    apart: bool = False
    memory: bool = False
    flat: bool = False

    @property
    def id(self) -> str:
        """What results are filed under."""
        return self.key or self.name


WORKLOADS = [
    Workload("enter", "trace of a tiny MLP, one read", subjects.mlp, ratio=1.5),
    Workload("reads", "GPT-2 small, 12 reads", subjects.gpt2_small, ratio=1.01, budget_s=12),
    Workload("edits", "GPT-2 small, 12 edits in place", subjects.gpt2_small, ratio=1.01,
             budget_s=12),
    Workload("patch", "GPT-2 small, patching in one batch", subjects.gpt2_small, ratio=1.03,
             budget_s=10),
    Workload("cache", "GPT-2 small, cache of every module", subjects.gpt2_small, ratio=1.02,
             budget_s=10, memory=True),
    Workload("generation", "GPT-2 small, 20 tokens, a read a step", subjects.gpt2_generating,
             ratio=1.01, budget_s=20),
    Workload("gradients", "GPT-2 small, gradients at 12 layers", subjects.gpt2_small, ratio=1.03,
             budget_s=12, grads=True),
    Workload("idle_module", "wrapped module, called itself", subjects.mlp, more_us=0.25,
             apart=True),
    Workload("idle_wrapper", "call of the wrapper, no trace", subjects.mlp, more_us=0.25),
    Workload("sweep", "GPT-2 small, sweep of 120 traces", subjects.gpt2_sweep, ratio=1.02,
             budget_s=30, flat=True),
    Workload("scan", "GPT-2 small, shapes only, repeated", subjects.gpt2_small, budget_s=6),
    *(
        Workload("requests", f"{size:,} requests in one trace", lambda size=size:
                 subjects.chain(size), key=f"requests_{size}")
        for size in (12, 120, 1200)
    ),
    *(
        Workload("invokes", f"tiny GPT-2, {size} invoke{'s' * (size > 1)}", lambda size=size:
                 subjects.gpt2_tiny(size), key=f"invokes_{size}")
        for size in (1, 4, 16, 64, 256)
    ),
]  # fmt: skip
