"""What is shown: the tree in notebooks and terminals, tracers, completion."""

from __future__ import annotations

import gc
import io
import re

import pytest
import torch
from torch import nn

import tracekit
from tracekit import Model
from tracekit._vocabulary.display import memory_of

X = torch.zeros(2, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.output = nn.Linear(4, 4)

    def forward(self, x):
        return self.output(self.attn(x))


def net():
    return nn.Sequential(Block(), Block(), nn.ReLU())


class TestModels:
    def test_shapes_after_a_run(self, clean):
        model = Model(clean(net()))
        assert "->" not in repr(model)
        with model.trace(X):
            model[0].attn.output
            model[2].output
        lines = repr(model).splitlines()

        assert (
            "    (attn): Linear(in_features=4, out_features=4, bias=True)  -> float32[2, 4]"
            in lines
        )
        assert "  (2): ReLU()  -> float32[2, 4]" in lines
        assert '    (["output"]): Linear(in_features=4, out_features=4, bias=True)' in lines

    def test_shapes_after_a_scan(self, clean):
        model = Model(clean(net()))
        with model.scan(X):
            pass
        text = repr(model)
        assert "  (0-1): 2 x Block(" in text
        assert text.count("-> float32[2, 4]") == 5

    def test_in_a_notebook(self, clean):
        model = Model(clean(net()), rename={"0": "first<"})
        with model.scan(X):
            pass
        text = model._repr_html_()

        assert text.count("<details") == text.count("</details>") == 3
        assert "<b>first&lt;/0</b> Block" in text
        assert "&rarr; float32[2, 4]" in text
        assert "in_features=4" in text
        folded = Model(net())._repr_html_()
        assert "<b>0-1</b> Block" in folded
        assert folded.count("<b>attn</b>") == 1

    def test_for_rich(self, clean):
        rich = pytest.importorskip("rich.console")
        model = Model(clean(net()))
        with model.scan(X):
            pass
        console = rich.Console(width=100, record=True, file=io.StringIO())
        console.print(model)
        text = console.export_text()

        assert text.startswith("model Sequential")
        assert re.search(r"── 0-1 Block +float32\[2, 4\]", text)
        assert '["output"] Linear' in text

    def test_served_values(self, clean):
        class Halves(Model):
            @tracekit.served("output")
            def left(self, value):
                """The left half."""
                return value[..., :2]

        model = Model(clean(net()), wrappers={nn.Linear: Halves})
        assert "&lt;left&gt;: output, The left half." in model._repr_html_()
        assert "<left>: output, The left half." in repr(model[0].attn)

    def test_completion(self, clean):
        model = Model(clean(net()), rename={"1": "second"})
        names = dir(model[0])
        assert {"attn", "output", "trace", "edit", "in_features"} - set(names) == {"in_features"}
        assert "second" in dir(model)


class TestTracers:
    def test_where_it_is(self, clean):
        model = Model(clean(net()))
        tracer = model.trace(X)
        assert repr(tracer) == "<ModelTracer, not entered yet>"
        with tracer:
            early = repr(tracer)
            model[0].attn.output
            late = repr(tracer)
        assert early == "<ModelTracer, running, before the model's first site>"
        assert late == "<ModelTracer, running, last at model.0.attn.output>"
        assert model.trace(X).run(lambda tracer: repr(tracer)).startswith("<ModelTracer, running")

    def test_what_its_names_keep(self, clean):
        model = Model(clean(net()))
        with torch.no_grad(), model.trace(X) as tracer:
            hidden = model[0].attn.output
            rows = [hidden.clone(), model[1].attn.output]
            number = 3
        assert repr(tracer) == (
            "<ModelTracer, ended; the names that its block bound keep 96 bytes in 3 tensors>"
        )
        del hidden
        assert "keep 64 bytes in 2 tensors" in repr(tracer)
        rows.pop(0)
        assert "keep 32 bytes in 1 tensor>" in repr(tracer)
        del rows
        assert "keep 0 bytes in 0 tensors" in repr(tracer)

    def test_at_module_level(self, clean):
        space = {"model": Model(clean(net())), "x": X}
        exec("with model.trace(x) as tracer:\n    hidden = model[0].output\n", space)
        assert "keep 32 bytes in 1 tensor>" in repr(space["tracer"])

    def test_after_an_error_and_after_a_function(self, clean):
        model = Model(clean(net()))
        with pytest.raises(ZeroDivisionError):
            with model.trace(X) as tracer:
                hidden = model[0].output
                1 / 0
        assert "keep 32 bytes" in repr(tracer)
        tracer = model.trace(X)
        tracer.run(lambda: None)
        assert repr(tracer) == "<ModelTracer, ended>"

    def test_views_keep_the_whole(self):
        big = torch.zeros(100, 4)
        assert memory_of([big[0], big[1]]) == 1600
        assert memory_of([big[0].clone()]) == 16
        sparse = torch.eye(3).to_sparse()
        assert memory_of([sparse]) == 3 * 2 * 8 + 3 * 4

    def test_it_keeps_nothing_itself(self, clean):
        model = Model(clean(net()))
        gc.disable()
        try:
            with model.trace(X) as tracer:
                hidden = model[0].output
            import weakref

            alive = weakref.ref(hidden)
            del hidden
            assert alive() is None
        finally:
            gc.enable()


class TestOfOthers:
    """What a prompt shows of the things that a block works with."""

    def test_invokes_steps_and_barriers(self, clean):
        model = Model(clean(net()))
        with model.trace() as tracer:
            invoke = tracer.invoke(X)
            shown = [repr(each) for each in (invoke, tracer.iter, tracer.iter[1:], tracer.all())]
            shown += [repr(tracer.iter[::2]), repr(tracer.iter[[0, 3]]), repr(tracer.barrier(2))]
            with invoke:
                out = model.output

        assert shown == [
            "<Invoker of float32[2, 4]>",
            "tracer.iter",
            "tracer.iter[1:]",
            "tracer.iter[:]",
            "tracer.iter[::2]",
            "tracer.iter[[0, 3]]",
            "barrier(2)",
        ]
        assert repr(invoke) == "<Invoker, ended>"
        assert repr(model[0].iter[:3]) == "model.0.iter[:3]"

    def test_other_tracers(self):
        loss = torch.ones(1, requires_grad=True).sum()
        passing = tracekit.backward(loss)
        session = tracekit.session()
        shown = [repr(passing), repr(session)]
        with session, passing:
            shown += [repr(session), repr(passing)]

        assert shown == [
            "<BackwardsTracer of float32[], not entered yet>",
            "<Session, not entered yet>",
            "<Session, running>",
            "<BackwardsTracer of float32[], running>",
        ]
        assert [repr(session), repr(passing)] == ["<Session, ended>", "<BackwardsTracer, ended>"]

    def test_a_cache_that_is_made_by_hand(self):
        assert repr(tracekit.Cache(include_inputs=True)).startswith("<Cache of inputs and outputs>")
