"""Times two callables in turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_SAMPLE_S = 0.004
_MOST_ROUNDS = 400
_FEWEST_ROUNDS = 5
_LONG_S = 0.5


@dataclass(frozen=True)
class Timing:
    """One callable against the base, in processor time of the process.

    Processor time, so that other programs do not count; the wall clock is beside it, because a
    library that hands work to another thread waits for the switch.

    Attributes:
        base_us: Median of a call of the base.
        us: The same of the other.
        ratio: Median over the rounds of the ratio within the round.
        ratio_low: Its lower quartile.
        ratio_high: Its upper quartile.
        best_ratio: The quickest sample of the one over the quickest of the other.
        more_us: Median over the rounds of the difference within the round.
        more_low_us: Its lower quartile.
        more_high_us: Its upper quartile.
        wall_ratio: As `ratio`, by the wall clock.
        rounds: How many.
        inner: Calls per sample.
    """

    base_us: float
    us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    best_ratio: float
    more_us: float
    more_low_us: float
    more_high_us: float
    wall_ratio: float
    rounds: int
    inner: int

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, for JSON."""
        return asdict(self)


def _sample(run: Callable[[], object], inner: int) -> tuple[float, float]:
    wall = time.perf_counter()
    cpu = time.process_time()
    for _ in range(inner):
        run()
    cpu = time.process_time() - cpu
    return cpu / inner * 1e6, (time.perf_counter() - wall) / inner * 1e6


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def in_turns(base: Callable[[], object], other: Callable[[], object], *, budget_s: float) -> Timing:
    """Time *base* and *other*, which have both run before, in turns.

    Args:
        base: What the other is compared with.
        other: The other.
        budget_s: Processor time for the samples; a few rounds are made in any case.
    """
    quickest = _sample(base, 1)[0] / 1e6
    fewest = 3
    if quickest < _LONG_S:
        fewest = _FEWEST_ROUNDS
        other()
        quickest = min(quickest, *(_sample(base, 1)[0] / 1e6 for _ in range(3)))
    inner = max(1, round(_SAMPLE_S / max(quickest, 1e-9)))
    gc.collect()
    # What exists now is not looked at again by collections that fall into a sample.
    gc.freeze()
    of_base: list[tuple[float, float]] = []
    of_other: list[tuple[float, float]] = []
    end = time.process_time() + budget_s
    while len(of_base) < _MOST_ROUNDS and (len(of_base) < fewest or time.process_time() < end):
        # Who comes first changes: the first pays for cold caches.
        if len(of_base) % 2:
            of_base.append(_sample(base, inner))
            of_other.append(_sample(other, inner))
        else:
            of_other.append(_sample(other, inner))
            of_base.append(_sample(base, inner))
    gc.unfreeze()
    pairs = [(mine[0], theirs[0]) for mine, theirs in zip(of_base, of_other, strict=True)]
    ratio = quartiles([theirs / mine for mine, theirs in pairs])
    more = quartiles([theirs - mine for mine, theirs in pairs])
    return Timing(
        base_us=statistics.median(mine for mine, _ in pairs),
        us=statistics.median(theirs for _, theirs in pairs),
        ratio=ratio[1],
        ratio_low=ratio[0],
        ratio_high=ratio[2],
        best_ratio=min(theirs for _, theirs in pairs) / min(mine for mine, _ in pairs),
        more_us=more[1],
        more_low_us=more[0],
        more_high_us=more[2],
        wall_ratio=statistics.median(
            theirs[1] / mine[1] for mine, theirs in zip(of_base, of_other, strict=True)
        ),
        rounds=len(pairs),
        inner=inner,
    )
