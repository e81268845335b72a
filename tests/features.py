"""One small use of each word of the vocabulary, to be repeated: what one leaves behind, many show.

Each is called with a bench (see `soaking.py`) and a wrapper of its module, and checks its own
numbers. `repeat` runs one many times and says that nothing is left.
"""

from __future__ import annotations

import copy
import io
import tempfile
from pathlib import Path

import torch
from soaking import WIDTH, Bench, Block, State

import tracekit
from tracekit._runtime.guards import forget
from tracekit._torch import hooks
from tracekit._vocabulary import gradients
from tracekit.testing import Residue


def _same(expected, actual):
    assert torch.equal(expected, actual)


def cache_of_all(bench, model):
    with model.trace(bench.x) as tracer:
        cache = tracer.cache(include_inputs=True, dtype=torch.float64)
        model.layers[0].output *= 1
    _same(bench.plain, cache.output.float())
    _same(bench.states[0], cache.layers[0].input.float())


def cache_of_rows(bench, model):
    with model.trace() as tracer:
        with tracer.invoke(bench.x[:1]):
            one = tracer.cache(["layers.*"])
        with tracer.invoke(bench.x[1:]):
            two = tracer.cache(model.head)
    assert one["layers.1"].output.shape == two.head.output.shape == (1, WIDTH)


def cache_of_steps_on_disk(bench, model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.safetensors"
        with model.trace(bench.x, 2, fn="rounds") as tracer:
            tracer.cache(model.head).save(path)
            cache = tracer.cache(model.head)
        cache.save(path)
        again = tracekit.CacheDict.load(path)
        _same(bench.twice, again.head[1].output)
        del again


def cache_stopped(bench, model):
    with model.trace(bench.x) as tracer:
        cache = tracer.cache()
        model.layers[0].output
        tracer.stop()
    assert "head" not in cache


def backward_in_a_block(bench, model):
    given = bench.x.clone().requires_grad_()
    with torch.enable_grad(), model.trace(given):
        late, early = model.layers[0].input, model.layers[1].output
        out = model.output
        with out.sum().backward(retain_graph=True):
            early.grad = early.grad * 1
            grad = late.grad
        with out.sum().backward():
            again = late.grad
    _same(bench.grad, grad)
    _same(grad, again)


def backward_of_rows(bench, model):
    given = bench.x.clone().requires_grad_()
    with torch.enable_grad(), model.trace() as tracer:
        with tracer.invoke(given[:1]):
            hidden = model.layers[0].input
            with model.output.sum().backward(retain_graph=True):
                first = hidden.grad
        with tracer.invoke(given[1:]):
            hidden = model.layers[0].input
            with model.output.sum().backward():
                second = hidden.grad
    assert torch.allclose(bench.grad, torch.cat([first, second]), atol=1e-5)


def backward_outside(bench, model):
    given = bench.x.clone().requires_grad_()
    with torch.enable_grad():
        loss = bench.module(given).sum()
    with tracekit.backward(loss):
        grad = given.grad
    _same(bench.grad, grad)


def backward_that_fails(bench, model):
    given = bench.x.clone().requires_grad_()
    try:
        with torch.enable_grad(), model.trace(given):
            early, late = model.layers[0].output, model.layers[2].output
            with model.output.sum().backward():
                early.grad
                late.grad
    except tracekit.OutOfOrderError:
        return
    raise AssertionError("a gradient that was past was read")


def edits_on_copies(bench, model):
    with model.edit() as (_, one):
        one.layers[1].output[:] = 0
    with one.edit() as (_, two):
        two.head.output += 1
    _same(bench.after_zero[1], one(bench.x))
    with two.trace(bench.x):
        out = two.output
    _same(bench.after_zero[1] + 1, out)
    two.edits[0].remove()
    _same(bench.plain + 1, two(bench.x))


def edits_in_place_on_a_part(bench, model):
    with model.layers[1].edit(inplace=True):
        model.layers[1].output[:] = 0
    try:
        _same(bench.after_zero[1], model(bench.x))
    finally:
        model.clear_edits()
    _same(bench.plain, model(bench.x))


def edits_with_steps(bench, model):
    with model.edit() as (tracer, edited):
        for _ in tracer.iter[1:]:
            edited.head.output[:] = 0
    assert not edited.trace(bench.x, 2, fn="rounds", trace=False).any()
    _same(bench.plain, edited.trace(bench.x, 1, fn="rounds", trace=False))


def edits_by_function(bench, model):
    def zero(tracer, edited):
        edited.layers[1].output[:] = 0

    edited = model.edit().run(zero)
    _same(bench.after_zero[1], edited.as_module()(bench.x))
    _same(bench.after_zero[1], copy.deepcopy(edited)(bench.x))


def an_adapter_is_trained(bench, model):
    adapter = Block()
    with model.edit() as (_, tuned):
        hidden = tuned.layers[1].output
        tuned.layers[1].output = hidden + adapter(hidden)
    with torch.enable_grad():
        with tuned.trace(bench.x):
            loss = tuned.output.square().sum()
        loss.backward()
    assert adapter.up.weight.grad is not None


def sessions(bench, model):
    with model.session(keep="saved"):
        with model.trace(bench.x, keep="saved"):
            hidden = model.layers[0].output
        with tracekit.session(), model.trace(bench.x, keep="saved"):
            model.layers[0].output = hidden
            out = model.output.save()
    _same(bench.plain, out)


def without_a_block(bench, model):
    _same(bench.plain, model.trace(bench.x, trace=False))


def renamed(bench, model):
    own = tracekit.Model(bench.module, rename={"head": "unembed", "layers": "blocks"})
    with own.trace(bench.x) as tracer:
        cache = tracer.cache(rename={"head": "last"})
        hidden = own.blocks[2].output
    _same(own.unembed._module(hidden), cache.last.output)


def called_with_hook(bench, model):
    with model.edit() as (_, edited):
        edited.head(edited.layers[0].output, hook=True)
    with edited.trace(bench.x):
        seen = edited.head.output
        out = edited.output
    _same(bench.module.head(bench.states[1]), seen)
    _same(bench.plain, out)


class Halves(tracekit.Model):
    """Served values of all three kinds."""

    @tracekit.served("output")
    def left(self, value):
        return value[..., : WIDTH // 2]

    @tracekit.served("output")
    def doubled(self, value):
        return value * 2

    @doubled.writer
    def doubled(self, value, doubled):
        return doubled / 2


def served(bench, model):
    own = tracekit.Model(bench.module, wrappers={Block: Halves, "head": Halves})
    with own.trace(bench.x):
        own.layers[1].left[:] = 0
        own.layers[1].doubled[..., WIDTH // 2 :] = 0
        own.head.doubled = own.head.doubled * 2
        out = own.output
    _same(bench.after_zero[1] * 2, out)


class Counting(tracekit.Model.tracer_class):
    def execute(self, body):
        value = super().execute(body)
        self.count = len(self.visited)
        return value


class Passing(tracekit.Backend):
    def __call__(self, tracer, body):
        return super().__call__(tracer, body)


def own_tracer_and_backend(bench, model):
    with model.trace(bench.x, tracer_cls=Counting, backend=Passing()) as tracer:
        out = model.output
    assert tracer.count
    _same(bench.plain, out)


def displayed(bench, model):
    from rich.console import Console

    with model.trace(bench.x) as tracer:
        cache = tracer.cache()
        hidden = model.layers[0].output
        shown = [repr(tracer), repr(tracer.iter[1:])]
    shown += [repr(each) for each in (model, tracer, cache, model.layers, tracer.visited)]
    shown += [model._repr_html_(), *dir(model), *dir(cache.layers)]
    Console(file=io.StringIO()).print(model)
    assert all(shown)


def scanned(bench, model):
    with model.scan(bench.x) as tracer:
        shape = model.layers[1].output.shape
    assert shape == bench.x.shape
    assert str(tracer.report())


def validated(bench, model):
    with model.trace(bench.x, validate=True):
        out = model.output
    _same(bench.plain, out)


def operations(bench, model):
    with model.trace(bench.x):
        inner = model.layers[0].source.torch_tanh_0.output
        total = model.layers[0].source.add_0.output
    _same(bench.states[1], total)
    assert inner.abs().max() <= 1


FEATURES = [
    cache_of_all, cache_of_rows, cache_of_steps_on_disk, cache_stopped, backward_in_a_block,
    backward_of_rows, backward_outside, backward_that_fails, edits_on_copies,
    edits_in_place_on_a_part, edits_with_steps, edits_by_function, an_adapter_is_trained, sessions,
    without_a_block, renamed, called_with_hook, served, own_tracer_and_backend, displayed, scanned,
    validated, operations,
]  # fmt: skip


def repeat(features, count):
    """Run each of *features* many times, and check that nothing is left.

    Args:
        features: Some of `FEATURES`.
        count: How often, beside those that warm up.
    """
    bench = Bench()
    model = tracekit.Model(bench.module)
    with torch.no_grad():
        for _ in range(5):
            for feature in features:
                feature(bench, model)
        residue = Residue(bench.module)
        forget()  # the last functions and classes that were met are kept for a while
        before = State()
        for _ in range(count):
            for feature in features:
                feature(bench, model)
        forget()
        after = State()
        residue.check()
    assert not hooks.HOOKED
    assert not hooks.RUNS
    assert gradients._active.hosts == []
    for module in bench.module.modules():
        assert not module._forward_hooks
        assert "forward" not in vars(module)
    text = f"{before}\n{after}"
    assert after.tensors <= before.tensors, text
    # One object a trace would be found; a table that grows once more is none.
    assert after.objects - before.objects < count, text
    assert after.twins <= before.twins, text
    assert after.sites <= before.sites, text
