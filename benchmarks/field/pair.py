"""One library against hooks, in one process: first proven right, then timed in turns.

Started by `__main__.py` in the environment of the library; writes JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from . import by_hooks, once
from .clock import in_turns
from .workloads import WORKLOADS, Workload


class DifferentError(Exception):
    """An adapter gives other numbers than hooks do."""


def _leaves(value: Any) -> list[Any]:
    """The tensors and shapes in a nested value, in order."""
    if isinstance(value, torch.Tensor | torch.Size):
        return [value]
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in _leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return []


def prove(expected: Any, actual: Any, tolerance: float) -> None:
    """Compare what two variants give.

    Args:
        expected: By hooks.
        actual: By the adapter.
        tolerance: 0: bit by bit. More: absolute, for a library with an implementation of its own.

    Raises:
        DifferentError: They are not the same, or there is nothing to compare.
    """
    if isinstance(expected, dict) and set(expected) != set(actual):
        raise DifferentError(f"not the same modules: {sorted(set(expected) ^ set(actual))[:5]}")
    wanted, given = _leaves(expected), _leaves(actual)
    if not wanted or len(wanted) != len(given):
        raise DifferentError(f"{len(given)} values instead of {len(wanted)}")
    for number, (mine, theirs) in enumerate(zip(wanted, given, strict=True)):
        if isinstance(mine, torch.Size):
            same = tuple(mine) == tuple(theirs)
        elif tolerance:
            same = mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=tolerance)
        else:
            same = torch.equal(mine, theirs)
        if not same:
            raise DifferentError(f"value {number} of {len(wanted)} is not the same")


def peak_bytes(run: Callable[[], object]) -> int:
    """Count the most bytes of tensors that one call has alive at a moment, in new memory."""
    run()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = run()
    del kept
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    now = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _tensors_alive() -> int:
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, torch.Tensor))


def _rss_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def measure(workload: Workload, adapter: Any, scale: float) -> dict[str, Any]:
    """Do one workload with hooks and with an adapter.

    Args:
        workload: What to do.
        adapter: A module with a function of the workload's name.
        scale: Of the workload's time.
    """
    subject = workload.subject()
    base_subject = subject
    if workload.apart or not adapter.LEAVES_NOTHING:
        base_subject = copy.copy(subject)
        base_subject.module = copy.deepcopy(subject.module)
    base = getattr(by_hooks, workload.name)(base_subject)
    other = getattr(adapter, workload.name)(subject)
    with torch.set_grad_enabled(workload.grads):
        expected, actual = base(), other()
        if workload.name == "cache":
            actual = adapter.cached(actual)
        prove(expected, actual, getattr(adapter, "TOLERANCE", 0.0))
        del expected, actual
        result = in_turns(base, other, budget_s=workload.budget_s * scale).as_dict()
        if workload.memory:
            result["base_peak_bytes"] = peak_bytes(base)
            result["peak_bytes"] = peak_bytes(other)
        if workload.flat:
            alive, rss = _tensors_alive(), _rss_kib()
            for _ in range(2):
                other()
            result["tensors_more"] = _tensors_alive() - alive
            result["rss_more_kib"] = _rss_kib() - rss
    return result


def main(arguments: list[str]) -> None:
    """Do the workloads that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("adapter")
    parser.add_argument("out")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    adapter = importlib.import_module(f".by_{options.adapter}", __package__)
    results: dict[str, Any] = {}
    for workload in WORKLOADS:
        wanted = not options.only or {workload.id, workload.name} & set(options.only)
        if not wanted or getattr(adapter, workload.name, None) is None:
            continue
        try:
            results[workload.id] = measure(workload, adapter, options.scale)
        except Exception as error:  # noqa: BLE001 - the cell says what went wrong
            traceback.print_exc()
            results[workload.id] = {"error": f"{type(error).__name__}: {error}"[:500]}
        gc.collect()
        shown = results[workload.id]
        print(
            f"  {workload.title:40}",
            shown.get("error")
            or f"{shown['ratio']:.3f} x, by the wall clock {shown['wall_ratio']:.3f} x  "
            f"({shown['more_us']:+.1f} us, {shown['rounds']} rounds)",
            flush=True,
        )
    if not options.only or set(once.NAMES) & set(options.only):
        results |= once.wrapping(adapter)
    with open(options.out, "w") as file:
        json.dump(
            {
                "version": adapter.version(),
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "results": results,
            },
            file,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
