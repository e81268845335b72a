"""The workloads in nnsight's words (0.8)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import nnsight
from nnsight import NNsight, TransformersModel

from .subjects import LAYERS, PATCHED, POSITIONS, TOKENS, Subject

LEAVES_NOTHING = False
"""A wrapped module keeps its hooks: the base runs on a copy."""

# An open loop over steps warns each time that it ended as it should.
warnings.filterwarnings("ignore", category=UserWarning, module="nnsight")


def version() -> str:
    return str(nnsight.__version__)


def wrap(module: Any) -> Any:
    return NNsight(module)


def _language_model(module: Any) -> Any:
    """A model of transformers, with a tokenizer made here: only such join several inputs."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(module.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="w0", eos_token="w0", bos_token="w0"
    )
    return TransformersModel(module, tokenizer=fast, task="text-generation")


def enter(subject: Subject) -> Callable[[], Any]:
    model, (given,) = NNsight(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(given):
            hidden = model[2].output.save()
        return [hidden]

    return run


def reads(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(*inputs):
            kept = nnsight.save([])
            for layer in model.transformer.h:
                kept.append(layer.output)  # one request after the other
        return kept  # bound in the block, used after it

    return run


def edits(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(*inputs):
            for layer in model.transformer.h:
                layer.output[:, -1] = 0
            logits = model.output.logits.save()
        return logits  # noqa: RET504  # bound in the block, used after it

    return run


def patch(subject: Subject) -> Callable[[], Any]:
    model = _language_model(subject.module)

    def run() -> Any:
        layer = model.transformer.h[PATCHED]
        with model.trace() as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke(*subject.inputs):
                hidden = layer.output[:, -1]
                barrier()
            with tracer.invoke(*subject.other):
                barrier()
                layer.output[:, -1] = hidden
                logits = model.output.logits.save()
        return logits  # bound in the block, used after it

    return run


def cache(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs

    def run() -> Any:
        with model.trace(*inputs) as tracer:
            kept = tracer.cache().save()
        return kept  # noqa: RET504  # bound in the block, used after it

    return run


def cached(kept: Any) -> dict[str, Any]:
    """What a cache holds, by path."""
    return {
        path.removeprefix("model").removeprefix("."): kept[path].output
        for path in kept.keys()  # noqa: SIM118  # not a dict: iterating it is refused
    }


def generation(subject: Subject) -> Callable[[], Any]:
    model = _language_model(subject.module)

    def run() -> Any:
        options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
        with model.generate(*subject.inputs, **options) as tracer:
            kept = nnsight.save([])
            for _ in tracer.iter[:]:
                kept.append(model.transformer.h[PATCHED].output[:, -1])
        return kept  # bound in the block, used after it

    return run


def gradients(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs

    def run() -> Any:
        subject.module.zero_grad()
        with model.trace(*inputs):
            hidden = [layer.output for layer in model.transformer.h]
            with model.output.logits.sum().backward():
                grads = nnsight.save([each.grad for each in reversed(hidden)])
        return grads

    return run


def idle_module(subject: Subject) -> Callable[[], Any]:
    module, (given,) = subject.module, subject.inputs
    model = NNsight(module)
    with model.trace(given):
        hidden = model[2].output.save()  # noqa: F841  # a trace that is over
    return lambda: module(given)


def idle_wrapper(subject: Subject) -> Callable[[], Any]:
    model, (given,) = NNsight(subject.module), subject.inputs
    with model.trace(given):
        hidden = model[2].output.save()  # noqa: F841  # the same
    return lambda: model(given)


def sweep(subject: Subject) -> Callable[[], Any]:
    model, clean = NNsight(subject.module), subject.clean
    (given,) = subject.other

    def run() -> Any:
        answers = []
        for layer in range(LAYERS):
            for position in range(POSITIONS):
                with model.trace(given):
                    model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                    answer = model.output.logits[:, -1].max().save()
                answers.append(answer)
        return answers

    return run


def scan(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs

    def run() -> Any:
        with model.scan(*inputs):
            shape = nnsight.save(model.transformer.h[PATCHED].output.shape)
        return [shape]

    return run


def requests(subject: Subject) -> Callable[[], Any]:
    model, inputs = NNsight(subject.module), subject.inputs
    nodes = list(model)[: subject.size]

    def run() -> Any:
        with model.trace(*inputs):
            kept = nnsight.save([node.output for node in nodes])
        return kept  # noqa: RET504  # bound in the block, used after it

    return run


def invokes(subject: Subject) -> Callable[[], Any]:
    model = _language_model(subject.module)

    def run() -> Any:
        layer = model.transformer.h[1]
        with model.trace() as tracer:
            kept = nnsight.save([])
            for given in subject.inputs:
                with tracer.invoke(given):
                    kept.append(layer.output)
        return kept  # bound in the block, used after it

    return run
