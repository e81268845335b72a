"""The workloads in tracekit's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tracekit

from .subjects import LAYERS, PATCHED, POSITIONS, TOKENS, Subject

LEAVES_NOTHING = True
"""The base may run on the same module."""


def version() -> str:
    return tracekit.__version__


def wrap(module: Any) -> Any:
    return tracekit.Model(module)


def enter(subject: Subject) -> Callable[[], Any]:
    model, (given,) = tracekit.Model(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(given):
            hidden = model[2].output
        return [hidden]

    return run


def reads(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs

    def run() -> Any:
        kept = []
        with model.trace(*inputs):
            for layer in model.transformer.h:
                kept.append(layer.output)  # noqa: PERF401  # one request after the other
        return kept  # bound in the block, used after it

    return run


def edits(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(*inputs):
            for layer in model.transformer.h:
                layer.output[:, -1] = 0
            logits = model.output.logits
        return logits  # noqa: RET504  # bound in the block, used after it

    return run


def patch(subject: Subject) -> Callable[[], Any]:
    model = tracekit.Model(subject.module)

    def run() -> Any:
        layer = model.transformer.h[PATCHED]
        with model.trace() as tracer:
            with tracer.invoke(*subject.inputs):
                hidden = layer.output[:, -1]
            with tracer.invoke(*subject.other):
                layer.output[:, -1] = hidden
                logits = model.output.logits
        return logits  # bound in the block, used after it

    return run


def cache(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(*inputs) as tracer:
            kept = tracer.cache()
        return kept  # noqa: RET504  # bound in the block, used after it

    return run


def cached(kept: Any) -> dict[str, Any]:
    """What a cache holds, by path."""
    return {path: entry.output for path, entry in kept.items()}


def generation(subject: Subject) -> Callable[[], Any]:
    model = tracekit.LanguageModel(subject.module)

    def run() -> Any:
        kept = []
        options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
        with model.generate(*subject.inputs, **options) as tracer:
            for _ in tracer.iter[:]:
                kept.append(model.transformer.h[PATCHED].output[:, -1])  # noqa: PERF401
        return kept  # bound in the block, used after it

    return run


def gradients(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs

    def run() -> Any:
        subject.module.zero_grad()
        with model.trace(*inputs):
            hidden = [layer.output for layer in model.transformer.h]
            with model.output.logits.sum().backward():
                grads = [each.grad for each in reversed(hidden)]
        return grads

    return run


def idle_module(subject: Subject) -> Callable[[], Any]:
    module, (given,) = subject.module, subject.inputs
    model = tracekit.Model(module)
    with model.trace(given):
        model[2].output  # noqa: B018  # a trace that is over must leave nothing
    return lambda: module(given)


def idle_wrapper(subject: Subject) -> Callable[[], Any]:
    model, (given,) = tracekit.Model(subject.module), subject.inputs
    with model.trace(given):
        model[2].output  # noqa: B018  # the same
    return lambda: model(given)


def sweep(subject: Subject) -> Callable[[], Any]:
    model, clean = tracekit.Model(subject.module), subject.clean
    (given,) = subject.other

    def run() -> Any:
        answers = []
        for layer in range(LAYERS):
            for position in range(POSITIONS):
                with model.trace(given):
                    model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                    answer = model.output.logits[:, -1].max()
                answers.append(answer)
        return answers

    return run


def scan(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs

    def run() -> list[torch.Size]:
        with model.scan(*inputs):
            shape = model.transformer.h[PATCHED].output.shape
        return [shape]

    return run


def requests(subject: Subject) -> Callable[[], Any]:
    model, inputs = tracekit.Model(subject.module), subject.inputs
    nodes = list(model)[: subject.size]

    def run() -> Any:
        with model.trace(*inputs):
            kept = [node.output for node in nodes]
        return kept  # noqa: RET504  # bound in the block, used after it

    return run


def invokes(subject: Subject) -> Callable[[], Any]:
    model = tracekit.Model(subject.module)

    def run() -> Any:
        kept: list[torch.Tensor] = []
        layer = model.transformer.h[1]
        with model.trace() as tracer:
            for given in subject.inputs:
                with tracer.invoke(given):
                    kept.append(layer.output)
        return kept  # bound in the block, used after it

    return run
