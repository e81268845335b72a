"""Loops over steps, in real blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracekit import Model, NeverRanError, NotRunningError, OutOfOrderError, StepsWarning

X = torch.ones(1, 4)


@pytest.fixture
def clean(no_residue):
    def watch(module):
        no_residue(module)
        return module

    return watch


class Generates(nn.Module):
    """`generate` calls the model several times; each call, the layers once and the cell twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.cell = nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.cell(self.cell(self.first(x))))

    def generate(self, x, steps=3):
        outs = []
        for _ in range(steps):
            x = self(x)
            outs.append(x)
        return outs


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.cell = nn.Linear(4, 4)

    def forward(self, x, times=3):
        x = self.embed(x)
        for _ in range(times):
            x = self.cell(x)
        return x


class TestGenerate:
    def test_open_loop_and_code_after_it(self, clean):
        net = clean(Generates())
        model = Model(net)
        outs = []
        with model.trace(X, fn="generate") as tracer:
            for step in tracer.iter[:]:
                outs.append((step, model.last.output))
            result = tracer.result

        assert [step for step, _ in outs] == [0, 1, 2]
        assert all(out is made for (_, out), made in zip(outs, result, strict=True))

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            (slice(1, 3), [1, 2]),
            (slice(None, None, 2), [0, 2, 4]),
            ([0, 3], [0, 3]),
            (2, [2]),
            (slice(3, None), [3, 4]),
        ],
        ids=str,
    )
    def test_what_a_subscript_means(self, clean, key, expected):
        net = clean(Generates())
        model = Model(net)
        found = []
        with model.trace(X, fn="generate", steps=5) as tracer:
            for step in tracer.iter[key]:
                found.append((step, model.first.input))
            result = tracer.result

        inputs = [X, *result]
        assert [step for step, _ in found] == expected
        assert all(given is inputs[step] for step, given in found)

    def test_all(self, clean):
        model = Model(clean(Generates()))
        steps = []
        with model.trace(X, fn="generate") as tracer:
            for step in tracer.all():
                steps.append(step)

        assert steps == [0, 1, 2]

    def test_asking_only_in_one_step(self, clean):
        net = clean(Generates())
        model = Model(net)
        with model.trace(X, fn="generate") as tracer:
            for step in tracer.iter[:]:
                if step == 1:
                    given = model.input
            result = tracer.result

        assert given is result[0]

    def test_a_module_that_runs_twice_a_step(self, clean):
        net = clean(Generates())
        model = Model(net)
        found = []
        with model.trace(X, fn="generate", steps=2) as tracer:
            for step in tracer.iter[:]:
                first = model.cell.output
                between = model.cell.input
                second = model.cell.output
                found.append(between is first)
                found.append(torch.equal(net.last(second), model.last.output))

        assert found == [True] * 4

    def test_a_later_site_then_an_earlier_one(self, clean):
        model = Model(clean(Generates()))
        with pytest.raises(OutOfOrderError, match="`model.first.output`"):
            with model.trace(X, fn="generate") as tracer:
                for step in tracer.iter[:]:
                    model.last.output
                    model.first.output

    def test_a_bounded_loop_that_outruns(self, clean):
        model = Model(clean(Generates()))
        with pytest.warns(StepsWarning, match="step 2, but the run had 2"):
            with model.trace(X, fn="generate", steps=2) as tracer:
                for step in tracer.iter[:5]:
                    model.last.output
                after = "reached"

        assert after == "reached"

    def test_break(self, clean):
        net = clean(Generates())
        model = Model(net)
        with model.trace(X, fn="generate") as tracer:
            for step in tracer.iter[:]:
                if step == 1:
                    break
            given = model.last.output
            later = model.input
            result = tracer.result

        assert given is result[1]
        assert later is result[1]

    def test_next(self, clean):
        net = clean(Generates())
        model = Model(net)
        with model.trace(X, fn="generate") as tracer:
            first = model.last.output
            tracer.next()
            second = model.last.output
            third = model.last.next().output
            result = tracer.result

        assert first is result[0]
        assert second is result[1]
        assert third is result[2]

    def test_next_beyond_the_end(self, clean):
        model = Model(clean(Generates()))
        with pytest.raises(NeverRanError, match="step 7 was asked for"):
            with model.trace(X, fn="generate") as tracer:
                tracer.next(7)

    def test_a_modules_own_calls(self, clean):
        net = clean(Generates())
        model = Model(net)
        counts = []
        with model.trace(X, fn="generate", steps=2):
            for call in model.cell.iter[:]:
                counts.append((call, model.cell.output is not None))

        assert counts == [(i, True) for i in range(4)]

    def test_nested(self, clean):
        net = clean(Generates())
        model = Model(net)
        found = []
        with model.trace(X, fn="generate", steps=2) as tracer:
            for step in tracer.iter[:]:
                for call in model.cell.iter[:2]:
                    model.cell.output
                    found.append((step, call))
                model.last.output

        assert found == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def test_edits_in_one_step(self, clean):
        net = clean(Generates())
        model = Model(net)
        with torch.no_grad(), model.trace(X, fn="generate") as tracer:
            for step in tracer.iter[1:2]:
                model.last.output = torch.zeros(1, 4)
            result = tracer.result

        assert torch.equal(result[0], net(X))
        assert not result[1].any()
        assert torch.equal(result[2], net(result[1]))

    def test_in_invokes_each_at_its_own_pace(self, clean):
        net = clean(Generates())
        model = Model(net)
        ones, twos = [], []
        with model.trace(fn="generate") as tracer:
            with tracer.invoke(X):
                for step in tracer.iter[:]:
                    ones.append(model.last.output)
            with tracer.invoke(X * 2):
                for step in tracer.iter[1:2]:
                    twos.append(model.last.output)

        torch.testing.assert_close(ones, net.generate(X))
        torch.testing.assert_close(twos[0], net.generate(X * 2)[1])


class TestVisits:
    def test_a_recurrent_cell(self, clean):
        net = clean(Recurrent())
        model = Model(net)
        outs = []
        with model.trace(X) as tracer:
            for step in tracer.iter[:]:
                outs.append(model.cell.output)
            last = tracer.result

        assert len(outs) == 3
        assert outs[-1] is last

    def test_bounded(self, clean):
        net = clean(Recurrent())
        model = Model(net)
        outs = []
        with model.trace(X, times=4) as tracer:
            for step in tracer.iter[1:4:2]:
                outs.append((step, model.cell.input))
            expected = model.output

        hidden = [net.embed(X)]
        for _ in range(4):
            hidden.append(net.cell(hidden[-1]))
        assert [step for step, _ in outs] == [1, 3]
        for step, given in outs:
            assert torch.equal(given, hidden[step])


class TestAfterOpenLoops:
    """A loop over calls inside a module is over when the module's output stands."""

    @pytest.mark.parametrize("of", ["tracer", "cell"])
    @pytest.mark.parametrize("asked_first", [False, True])
    def test_the_models_output(self, clean, of, asked_first):
        net = clean(Recurrent())
        model = Model(net)
        outs = []
        with model.trace(X) as tracer:
            if asked_first:
                model.input
            for step in (tracer if of == "tracer" else model.cell).iter[:]:
                if step == 1:
                    model.cell.output = model.cell.output * 0
                outs.append(model.cell.output)
            model.output = model.output + 1
            result = tracer.result

        assert len(outs) == 3
        assert torch.equal(outs[1], torch.zeros(1, 4))
        torch.testing.assert_close(result, net.cell(outs[1]) + 1)

    def test_in_invokes(self, clean):
        net = clean(Recurrent())
        model = Model(net)
        found = []
        with model.trace() as tracer:
            for number in range(3):
                with tracer.invoke(X * number):
                    for step in model.cell.iter[:]:
                        if step == number:
                            model.cell.output[:] = number
                    found.append(model.output)

        for number, out in enumerate(found):
            expected = torch.full((1, 4), float(number))
            for _ in range(2 - number):
                expected = net.cell(expected)
            torch.testing.assert_close(out, expected)

    def test_one_inside_another(self, clean):
        net = clean(Generates())
        model = Model(net)
        found = []
        with model.trace(X, fn="generate") as tracer:
            for step in tracer.iter[:]:
                for call in model.cell.iter[:]:
                    found.append((step, call))
                found.append(model.output)
            result = tracer.result

        assert [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] == [
            each for each in found if isinstance(each, tuple)
        ]
        assert all(a is b for a, b in zip(found[2::3], result, strict=True))

    def test_what_came_before_it_could_end_is_told_so(self, clean):
        model = Model(clean(Generates()))
        with (
            pytest.raises(OutOfOrderError, match="could end only when no further step") as caught,
            model.trace(X),
        ):
            for _ in model.cell.iter[:]:
                pass
            model.last.output

        assert "say how many steps it has" in str(caught.value)

        with model.trace(X):
            for _ in model.cell.iter[:2]:
                pass
            last = model.last.output
        assert last.shape == (1, 4)


class TestRefusals:
    @pytest.mark.parametrize("key", [-1, slice(-2, None), [3, 1], slice(None, -1), slice(0, 3, 0)])
    def test_numbers_without_meaning(self, key):
        with pytest.raises(ValueError, match="steps"):
            Model(Recurrent()).iter[key]

    @pytest.mark.parametrize("key", ["1", 1.5, slice("a", None), [1.5]])
    def test_no_numbers(self, key):
        with pytest.raises(TypeError):
            Model(Recurrent()).iter[key]

    def test_outside_of_a_run(self):
        with pytest.raises(NotRunningError, match="steps are counted while a block runs"):
            for _ in Model(Recurrent()).iter[:]:
                pass
