"""Many invokes in one run, and many steps of one loop: what each adds. Prints two tables.

Usage: python benchmarks/many.py

Each is timed beside the same thing with hooks, in turns; the difference is divided by the number
of invokes, or of steps. Linear means: the quotients do not grow.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

import tracekit
from tracekit.testing import gpt2

INVOKES = (1, 4, 16, 64, 256)
STEPS = (1, 10, 100)


def in_turns(one, other, rounds):
    """Give the median processor time of each, in seconds."""
    times = ([], [])
    one(), other()
    for _ in range(rounds):
        for work, taken in zip((one, other), times, strict=True):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
    return [statistics.median(taken) for taken in times]


def invokes(count):
    module = gpt2(n_layer=2, n_embd=32, n_head=2, n_positions=32, vocab_size=64).eval()
    model = tracekit.Model(module)
    inputs = [torch.arange(1, 9).reshape(1, 8) for _ in range(count)]

    def by_hooks():
        kept = []
        handle = module.transformer.h[1].register_forward_hook(lambda _m, _a, out: kept.append(out))
        try:
            module(torch.cat(inputs))
        finally:
            handle.remove()
        return [kept[0][n : n + 1] for n in range(count)]

    def traced():
        kept = []
        with model.trace() as tracer:
            for each in inputs:
                with tracer.invoke(each):
                    kept.append(model.transformer.h[1].output)
        return kept

    with torch.no_grad():
        return in_turns(by_hooks, traced, rounds=15)


class Repeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.last = nn.Linear(16, 16)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

    def generate(self, x, steps):
        for _ in range(steps):
            x = self(x)
        return x


def steps(count):
    module = Repeats()
    model = tracekit.Model(module)
    x = torch.ones(1, 16)

    def by_hooks():
        kept = []
        handle = module.last.register_forward_hook(lambda _m, _a, out: kept.append(out))
        try:
            module.generate(x, count)
        finally:
            handle.remove()

    def traced():
        kept = []
        with model.generate(x, steps=count) as tracer:
            for _ in tracer.iter[:]:
                kept.append(model.last.output)  # noqa: PERF401  # one step after the other

    with torch.no_grad():
        return in_turns(by_hooks, traced, rounds=15)


def main() -> None:
    torch.set_num_threads(1)
    for what, measure, counts in (("invokes", invokes, INVOKES), ("steps", steps, STEPS)):
        for count in counts:
            hooks, traced = measure(count)
            each_us = (traced - hooks) / count * 1e6
            print(
                f"{count:4} {what:8} hooks {hooks * 1e6:9.0f} us   traced {traced * 1e6:9.0f} us   "
                f"each {each_us:7.1f} us"
            )


if __name__ == "__main__":
    main()
