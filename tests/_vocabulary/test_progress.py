"""Bars of progress: where somebody looks or has asked, and closed however the run ends."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from tracekit import Model
from tracekit._vocabulary import progress

X = torch.ones(1, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x)

    def rounds(self, x, count, max_new_tokens=None):
        for _ in range(count):
            x = self(x)
        return x


class Bar:
    """What tqdm gives, as far as it is used."""

    made = ()

    def __init__(self, *, total, unit, leave, delay):
        self.total, self.unit, self.leave, self.delay = total, unit, leave, delay
        self.n, self.closed = 0, False
        Bar.made = (*Bar.made, self)

    def update(self, count=1):
        assert not self.closed
        self.n += count

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def bars(monkeypatch):
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    monkeypatch.setattr(Bar, "made", ())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_steps(clean):
    model = Model(clean(Net()))
    with model.trace(X, 5, fn="rounds", progress=True, max_new_tokens=7) as tracer:
        for _ in tracer.iter[:2]:
            model.inner.output
    (bar,) = Bar.made

    assert (5, 7, "step", 0) == (bar.n, bar.total, bar.unit, bar.delay)
    assert bar.closed
    assert type(tracer).__name__ == "ModelTracer"


def test_inputs_that_need_several_runs(clean):
    model = Model(clean(Net()))
    outs = []
    with model.trace(max_rows=2, progress=True) as tracer:
        for _ in range(5):
            with tracer.invoke(X):
                outs.append(model.output)
    (bar,) = Bar.made

    assert (5, 5, "input") == (bar.n, bar.total, bar.unit)
    assert bar.closed
    assert len(outs) == 5


def test_none_for_one_forward(clean):
    model = Model(clean(Net()))
    with model.trace(X, progress=True):
        model.output
    with model.trace(max_rows=4, progress=True) as tracer, tracer.invoke(X):
        model.output
    model.trace(X, progress=True, trace=False)

    assert () == Bar.made


def test_closed_after_an_error_and_after_stop(clean):
    model = Model(clean(Net()))
    with pytest.raises(KeyError):
        with model.trace(X, 3, fn="rounds", progress=True) as tracer:
            for step in tracer.iter[:]:
                if step == 1:
                    raise KeyError(step)
    with model.trace(X, 3, fn="rounds", progress=True) as tracer:
        model.inner.output
        tracer.stop()

    assert [(2, True), (1, True)] == [(bar.n, bar.closed) for bar in Bar.made]


def test_by_default_only_where_somebody_looks_and_late(clean, monkeypatch):
    model = Model(clean(Net()))

    def run():
        with model.trace(X, 3, fn="rounds") as tracer:
            for _ in tracer.iter[:]:
                model.inner.output

    monkeypatch.setattr("sys.stderr", io.StringIO())
    run()
    assert () == Bar.made
    monkeypatch.setattr("sys.stderr", Terminal())
    run()
    (bar,) = Bar.made
    assert (3, progress.PATIENCE_S) == (bar.n, bar.delay)
    with model.trace(X, 3, fn="rounds", progress=False):
        pass
    assert (bar,) == Bar.made


def test_values_are_the_same(clean):
    module = clean(Net())
    model = Model(module)
    with model.edit() as (_, edited):
        edited.inner.output[:] += 1
    with edited.trace(X, 3, fn="rounds", progress=True) as tracer:
        out = tracer.result
    (bar,) = Bar.made

    assert 3 == bar.n
    assert torch.equal(out, edited.trace(X, 3, fn="rounds", trace=False))
