"""How inputs of invokes are given and joined, and what one of them may do to what all share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracekit import Model
from tracekit.errors import BatchAxisError, CannotJoinError, RowsMismatchError

X, Y = torch.ones(1, 3), torch.full((2, 3), 2.0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Identity()
        self.linear = nn.Linear(3, 3)
        self.named = nn.Module()
        self.named.forward = lambda x: {"x": x, "sums": [x.sum(-1)]}

    def forward(self, x, mask=None, *, scale=1.0):
        x = self.linear(x @ self.table(torch.eye(3))) * scale
        return self.named(x if mask is None else x * mask)["x"]

    def generate(self, x, steps=2, scale=1.0):
        for _ in range(steps):
            x = self(x, scale=scale)
        return x


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


class TestInputs:
    def test_by_position_and_by_keyword(self, clean, net):
        model = Model(clean(net))
        with model.trace() as tracer:
            with tracer.invoke(X, X * 3):
                one = model.output
            with tracer.invoke(Y, mask=Y):
                two = model.output

        torch.testing.assert_close(one, net(X, X * 3))
        torch.testing.assert_close(two, net(Y, Y))

    def test_an_option_of_the_trace_holds_for_all(self, clean, net):
        model = Model(clean(net))
        with model.trace(scale=2.0) as tracer:
            with tracer.invoke(X):
                one = model.output
            with tracer.invoke(Y):
                two = model.output

        torch.testing.assert_close(one, net(X, scale=2.0))
        torch.testing.assert_close(two, net(Y, scale=2.0))

    def test_an_option_that_differs_is_refused_with_the_lines(self, clean, net):
        model = Model(clean(net))
        with pytest.raises(CannotJoinError, match="`scale` differ") as caught:
            with model.trace(scale=2.0) as tracer:
                with tracer.invoke(X):
                    pass
                with tracer.invoke(Y, scale=3.0):
                    pass

        line = caught.traceback[0].frame.code.firstlineno + 5
        assert f"{__file__}:{line}, {__file__}:{line + 2}" in str(caught.value)

    def test_generate_in_a_with_line_is_traced(self, clean, net):
        model = Model(clean(net))
        found = {1: [], 2: []}
        with model.generate(steps=3, scale=0.5) as tracer:
            for x in (X, Y):
                with tracer.invoke(x):
                    for _ in tracer.iter[1:]:
                        found[len(x)].append(model.linear.output)
                    found[len(x)].append(tracer.result)

        assert [3, 3] == [len(each) for each in found.values()]
        assert all(len(out) == rows for rows, outs in found.items() for out in outs)
        torch.testing.assert_close(found[2][2], net.generate(Y, 3, 0.5))
        torch.testing.assert_close(model.generate(Y, 3, 0.5), net.generate(Y, 3, 0.5))


class TestWhatAllShare:
    @pytest.mark.parametrize("grad", [False, True])
    def test_an_edit_in_place_is_refused_at_the_next_line(self, clean, net, grad):
        model = Model(clean(net))
        with torch.set_grad_enabled(grad):
            with pytest.raises(BatchAxisError) as caught, model.trace() as tracer:
                with tracer.invoke(X):
                    first = model.linear.output
                with tracer.invoke(Y):
                    model.table.output.mul_(2)
                    model.linear.output

        line = caught.traceback[0].frame.code.firstlineno + 10
        assert caught.traceback[0].lineno + 1 == line
        assert f"before {__file__}:{line}" in str(caught.value)
        assert "first" not in locals()

    def test_a_block_that_catches_it_goes_on_without_the_edit(self, clean, net):
        model = Model(clean(net))
        with model.trace() as tracer:
            with tracer.invoke(X):
                one = model.output
            with tracer.invoke(Y):
                model.table.output.mul_(2)
                try:
                    two = model.output
                except BatchAxisError:
                    two = model.output

        torch.testing.assert_close(one, net(X))
        torch.testing.assert_close(two, net(Y))

    def test_at_the_end_of_a_block(self, clean, net):
        model = Model(clean(net))
        with pytest.raises(BatchAxisError, match="at the end of the block at"):
            with model.trace() as tracer:
                with tracer.invoke(X):
                    model.output
                with tracer.invoke(Y):
                    model.table.output.mul_(2)

    def test_an_item_that_does_not_fit(self, clean, net):
        model = Model(clean(net))
        with pytest.raises(RowsMismatchError) as caught, model.trace() as tracer:
            with tracer.invoke(X):
                model.output
            with tracer.invoke(Y):
                model.named.output["x"] = torch.ones(7)
                model.output

        assert caught.traceback[0].lineno == caught.traceback[0].frame.code.firstlineno + 7
