"""Sessions, `trace=False`, `rename=`, calls with `hook=True`, tracers and backends of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tracekit
from tracekit import Model, NotRunningError
from tracekit._runtime.tracer import Backend
from tracekit._vocabulary.model import ModelTracer
from tracekit._vocabulary.session import Session

X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


class TestSessions:
    def test_traces_share_names(self, clean):
        module = clean(net())
        model = Model(module)
        with model.session() as session:
            with model.trace(X):
                hidden = model[0].output.clone()
            with model.trace(X * 2):
                model[0].output = hidden
                out = model.output

        assert isinstance(session, Session)
        assert torch.equal(out, module(X))

    def test_several_models(self, clean):
        one, two = Model(clean(net())), Model(net())
        with tracekit.session():
            with one.trace(X):
                hidden = one.output
            with two.trace(hidden):
                out = two.output
        assert torch.equal(out, two(one(X)))

    def test_what_leaves_a_session(self, clean):
        model = Model(clean(net()))
        hidden = out = "before"
        with model.session(keep="saved"):
            with model.trace(X, keep="saved"):
                hidden = model[0].output.clone()
            with model.trace(X, keep="saved"):
                model[0].output = hidden * 0
                out = model.output.save()

        assert hidden == "before"
        assert torch.equal(out, model._module[2](torch.zeros(2, 4)))

    def test_outside_of_a_session_only_saved_names_leave_a_trace(self, clean):
        model = Model(clean(net()))
        hidden = "before"
        with model.trace(X, keep="saved"):
            hidden = model[0].output
        assert hidden == "before"

    def test_plain_python_and_errors(self, clean):
        model = Model(clean(net()))
        done = []
        with pytest.raises(ZeroDivisionError):
            with tracekit.session():
                for i in range(2):
                    with model.trace(X):
                        done.append(model[0].output)
                1 / 0
        assert len(done) == 2

    def test_a_value_outside_of_its_traces(self, clean):
        model = Model(clean(net()))
        with pytest.raises(NotRunningError):
            with model.session():
                model[0].output

    def test_the_function_form(self, clean):
        model = Model(clean(net()))

        def work():
            with model.trace(X):
                hidden = model[0].output
            return hidden

        assert torch.equal(tracekit.session().run(work), model._module[0](X))

    def test_a_backend_gets_it_once(self, clean):
        seen = []

        class Noting(Backend):
            def __call__(self, tracer, body):
                seen.append(body.first_lineno)
                return super().__call__(tracer, body)

        model = Model(clean(net()))
        with model.session(backend=Noting()):
            for _ in range(2):
                with model.trace(X):
                    model.output
        assert len(seen) == 1

    def test_keep_is_one_of_two_words(self):
        with pytest.raises(ValueError, match='keep is "all" or "saved"'):
            tracekit.session(keep="some")


class TestSmallWords:
    def test_trace_false(self, clean):
        module = clean(net())
        model = Model(module)
        assert torch.equal(model.trace(X, trace=False), module(X))
        with model.edit(inplace=True) as tracer:
            model[0].output *= 0
        assert torch.equal(model.trace(X, trace=False), module[2](torch.zeros(2, 4)))

    def test_rename(self, clean):
        module = clean(net())
        model = Model(module, rename={"0": "first", nn.Tanh: "squash"})
        with model.trace(X):
            hidden = model.first.output
            squashed = model.squash.output
        assert torch.equal(hidden, module[0](X))
        assert torch.equal(squashed, module[1](hidden))

    def test_a_logit_lens_leaves_the_visit_free(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X):
            hidden = model[0].output
            early = model[2](hidden)
            late = model[2].output
        assert torch.equal(early, module[2](hidden))
        assert torch.equal(late, module(X))

    def test_hook_makes_it_visible_to_other_blocks(self, clean):
        module = clean(net())
        module.adapter = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        model = Model(module, rename={"adapter.0": "down"})
        model._module.forward = lambda x: module[2](module[1](module[0](x)))
        with model.trace() as tracer:
            with tracer.invoke(X):
                inside = model.adapter[0].output
            with tracer.invoke(X):
                hidden = model[0].output
                model.adapter(hidden, hook=True)
        del model._module.forward
        assert torch.equal(inside, module.adapter[0](module[0](X)))


class TestOwnTracers:
    def test_a_tracer(self, clean):
        class Counting(ModelTracer):
            def execute(self, body):
                value = super().execute(body)
                self.count = len(self.visited)
                return value

        model = Model(clean(net()))
        with model.trace(X, tracer_cls=Counting) as tracer:
            model[0].output
        assert tracer.count > 0

    def test_a_class_of_models_with_its_tracer(self, clean):
        class Loud(ModelTracer):
            def value(self):
                return self, "loud"

        class LoudModel(Model):
            tracer_class = Loud

        model = LoudModel(clean(net()))
        with model.trace(X) as (tracer, word):
            hidden = model[0].output
        assert word == "loud"
        assert hidden.shape == (2, 4)

    def test_a_printing_backend(self, clean, capsys):
        class Printing(Backend):
            def __call__(self, tracer, body):
                print(f"block of {body.name}")
                return super().__call__(tracer, body)

        model = Model(clean(net()))
        with model.trace(X, backend=Printing()):
            out = model.output
        assert "block of test_a_printing_backend" in capsys.readouterr().out
        assert out.shape == (2, 4)

    def test_a_backend_that_runs_it_twice(self, clean):
        class Timing(Backend):
            def __call__(self, tracer, body):
                self.seconds = 0.0
                return super().__call__(tracer, body)

        backend = Timing()
        model = Model(clean(net()))
        assert torch.equal(
            model.trace(X, backend=backend).run(lambda: model[0].output), model._module[0](X)
        )
        assert backend.seconds == 0
