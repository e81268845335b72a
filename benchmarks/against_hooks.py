"""A traced block against hooks written by hand, in one process. Prints a table.

Usage: python benchmarks/against_hooks.py [--check]

The two variants are timed in turns, so that a busy machine hits both; what counts is the ratio of
the medians. With `--check`, the exit status is 1 if a promise is broken:

* tiny MLP (`Linear(16, 16)`, ReLU, three times, batch 1), one read, one saved name: the whole
  traced call at most 1.6 times the forward with one hook;
* a wrapped model outside any trace: at most 0.25 us more than the bare one, and no hook on it;
* GPT-2-small shape with 12 reads: at most 1.01 times the forward with 12 hooks.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import torch
from torch import nn

import tracekit
from tracekit.testing import gpt2, tiny_models


def time_in_turns(variants: dict[str, object], *, rounds: int, inner: int) -> dict[str, float]:
    """Give the median over *rounds*, in seconds per call, of each variant."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        for _ in range(3):
            run()
    names = list(variants)
    for number in range(rounds):
        # Who comes first changes: the first pays for cold caches.
        for name in names if number % 2 else reversed(names):
            run = variants[name]
            start = time.perf_counter()
            for _ in range(inner):
                run()
            times[name].append((time.perf_counter() - start) / inner)
    return {name: statistics.median(samples) for name, samples in times.items()}


def with_hooks(module, inputs, paths):
    """Make the variant by hand: put hooks on, run, take them off."""
    targets = [module.get_submodule(path) for path in paths]

    def run():
        kept = []

        def hook(_module, _arguments, output):
            kept.append(output)

        handles = [target.register_forward_hook(hook) for target in targets]
        try:
            module(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    return run


def tiny() -> tuple[str, float, float]:
    entry = tiny_models()["mlp"]
    module, inputs = entry.make(), entry.inputs()
    model = tracekit.Model(module)

    def traced():
        with model.trace(*inputs):
            hidden = model[2].output
        return hidden  # noqa: RET504  # bound in the block, used after it

    times = time_in_turns(
        {"hooks": with_hooks(module, inputs, ["2"]), "traced": traced}, rounds=200, inner=50
    )
    ratio = times["traced"] / times["hooks"]
    print(f"tiny MLP, one read:     hooks {times['hooks'] * 1e6:9.1f} us   "
          f"traced {times['traced'] * 1e6:9.1f} us   ratio {ratio:.3f}")  # fmt: skip
    return "tiny MLP, ratio", ratio, 1.6


def idle() -> tuple[str, float, float]:
    entry = tiny_models()["mlp"]
    module, inputs = entry.make(), entry.inputs()
    model = tracekit.Model(module)
    with model.trace(*inputs):
        model[2].output  # noqa: B018  # a trace that is over must leave nothing
    hooks = sum(
        len(table)
        for child in module.modules()
        for table in (child._forward_hooks, child._forward_pre_hooks)
    )
    times = time_in_turns(
        {"bare": lambda: module(*inputs), "wrapped": lambda: model(*inputs)}, rounds=400, inner=100
    )
    difference_us = (times["wrapped"] - times["bare"]) * 1e6
    print(f"outside a trace:        bare  {times['bare'] * 1e6:9.1f} us   "
          f"wrapped {times['wrapped'] * 1e6:8.1f} us   difference {difference_us:.3f} us, "
          f"{hooks} hooks")  # fmt: skip
    return "outside a trace, us more", difference_us if not hooks else float("inf"), 0.25


def gpt2_small() -> tuple[str, float, float]:
    module: nn.Module = gpt2(
        n_layer=12, n_embd=768, n_head=12, n_positions=1024, vocab_size=50257
    ).eval()
    model = tracekit.Model(module)
    inputs = (torch.arange(1, 17).reshape(1, 16),)
    paths = [f"transformer.h.{i}" for i in range(12)]

    def traced():
        kept = []
        with model.trace(*inputs):
            for layer in model.transformer.h:
                kept.append(layer.output)  # noqa: PERF401  # one request after the other
        return kept

    times = time_in_turns(
        {"hooks": with_hooks(module, inputs, paths), "traced": traced}, rounds=25, inner=1
    )
    ratio = times["traced"] / times["hooks"]
    print(f"GPT-2 small, 12 reads:  hooks {times['hooks'] * 1e3:9.2f} ms   "
          f"traced {times['traced'] * 1e3:9.2f} ms   ratio {ratio:.3f}")  # fmt: skip
    return "GPT-2 small, ratio", ratio, 1.01


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    version = ".".join(map(str, sys.version_info[:3]))  # noqa: TID251  # said, not asked
    print(f"Python {version}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    with torch.no_grad():
        results = [tiny(), idle(), gpt2_small()]
    broken = [f"{name}: {value:.3f} > {limit}" for name, value, limit in results if value > limit]
    for text in broken:
        print("broken promise:", text)
    return 1 if broken and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
