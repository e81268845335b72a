"""What a scan costs beside the run, and an operation of a forward beside a forward edited by hand.

Usage: python benchmarks/shapes.py

GPT-2 small with random weights, 64 tokens: a scan of one read, the first in a process and
repeated, and a validation, repeated, against the forward itself; one operation read and written
in one layer, in all layers and in a tiny net, against the same forward with the line put in by
hand. And a scan of an 8-billion-parameter config with the memory that the process needed.
Process time, medians, in turns; other programs do not count.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
import types
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - everybody's name for it

from tracekit import Model

ROUNDS = 15


def process_ms(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def in_turns(*runs: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median ms of each, one after the other in each round."""
    for run in runs:
        run()
    times = [[process_ms(run) for run in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def row(name: str, ms: float, beside: float | None = None) -> None:
    ratio = "" if beside is None else f"{ms / beside:8.2f}x {ms - beside:+9.3f} ms"
    print(f"{name:48}{ms:11.3f} ms {ratio}")


def scans() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    module = GPT2LMHeadModel(GPT2Config()).eval()
    ids = torch.arange(64).reshape(1, 64)
    model = Model(module)

    def scan() -> None:
        with model.scan(ids):
            model.transformer.h[6].output  # noqa: B018 - asking is what is measured

    def validate() -> None:
        with model.trace(ids, validate=True):
            model.transformer.h[6].output  # noqa: B018 - asking is what is measured

    def trace() -> None:
        with model.trace(ids):
            model.transformer.h[6].output  # noqa: B018 - asking is what is measured

    with torch.no_grad():
        first_scan, first_run = process_ms(scan), process_ms(lambda: module(ids))
        row("GPT-2 small, run, first", first_run)
        row("GPT-2 small, scan, first", first_scan, first_run)
        run, again, traced, validated = in_turns(lambda: module(ids), scan, trace, validate)
        row("GPT-2 small, run", run)
        row("GPT-2 small, scan, repeated", again, run)
        row("GPT-2 small, traced", traced, run)
        row("GPT-2 small, traced and validated, repeated", validated, traced)


def scan_of_a_large_config() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    start = time.process_time()
    with torch.device("meta"):
        module = LlamaForCausalLM(config)
    model = Model(module)
    built = time.process_time()
    with torch.no_grad(), model.scan(torch.ones(2, 512, dtype=torch.long)) as tracer:
        model.model.layers[16].output  # noqa: B018 - asking is what is measured
    row("8B config, skeleton built", (built - start) * 1e3)
    row("8B config, scan of 2 x 512 tokens", (time.process_time() - built) * 1e3)
    peak = tracer.report().peak_bytes
    print(f"    forecast: peak of activations {peak / 1e9:.2f} GB")


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT
        weights = F.softmax(scores, -1)
        return self.out(weights @ v)


def edited_forward(self: Attention, x: torch.Tensor) -> torch.Tensor:
    """The same with a line put in."""
    q, k, v = self.qkv(x).chunk(3, -1)
    scores = q @ k.mT
    weights = F.softmax(scores, -1)
    weights = weights * 0.5
    return self.out(weights @ v)


class Net(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def operations(width: int, seq: int) -> None:
    module = Net(width, 12).eval()
    edited_one, edited_all = Net(width, 12).eval(), Net(width, 12).eval()
    edited_one.load_state_dict(module.state_dict())
    edited_all.load_state_dict(module.state_dict())
    edited_one.layers[6].forward = types.MethodType(edited_forward, edited_one.layers[6])
    for layer in edited_all.layers:
        layer.forward = types.MethodType(edited_forward, layer)
    x = torch.randn(1, seq, width)
    model = Model(module)

    def one() -> torch.Tensor:
        with model.trace(x) as tracer:
            weights = model.layers[6].source.F_softmax_0
            weights.output = weights.output * 0.5
            result = tracer.result
        return result  # noqa: RET504 - bound in the block

    def every() -> torch.Tensor:
        with model.trace(x) as tracer:
            for layer in model.layers:
                weights = layer.source.F_softmax_0
                weights.output = weights.output * 0.5
            result = tracer.result
        return result  # noqa: RET504 - bound in the block

    def module_only() -> torch.Tensor:
        with model.trace(x) as tracer:
            model.layers[6].output = model.layers[6].output * 0.5
            result = tracer.result
        return result  # noqa: RET504 - bound in the block

    with torch.no_grad():
        assert torch.equal(one(), edited_one(x))
        assert torch.equal(every(), edited_all(x))
        hand_one, ours_one, hand_all, ours_all, module_ms = in_turns(
            lambda: edited_one(x), one, lambda: edited_all(x), every, module_only, rounds=60
        )
    name = f"12 layers of width {width}, {seq} tokens"
    row(f"{name}: one edit by hand", hand_one)
    row(f"{name}: one module traced", module_ms, hand_one)
    row(f"{name}: one operation traced", ours_one, hand_one)
    row(f"{name}: 12 edits by hand", hand_all)
    row(f"{name}: 12 operations traced", ours_all, hand_all)


def main() -> None:
    torch.manual_seed(0)
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, CPU")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scan_of_a_large_config()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"    memory of the process: {before / 1e6:.2f} GB before, {after / 1e6:.2f} GB at most")
    scans()
    operations(16, 8)
    operations(512, 256)


if __name__ == "__main__":
    main()
