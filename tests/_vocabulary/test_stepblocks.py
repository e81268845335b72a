"""`with tracer.iter[...]:`, the older form of a loop over steps: the same, with a warning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracekit import Model

X = torch.ones(1, 3)


class Cell(nn.Module):
    """Calls one layer several times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, x, times=4):
        for _ in range(times):
            x = self.layer(x)
        return x


def with_for(model, steps):
    seen = []
    with model.trace(X) as tracer:
        for step in tracer.iter[steps]:
            h = model.layer.output
            seen.append((step, h))
        after = tracer.result
    return seen, after, h


def with_with(model, steps):
    seen = []
    with model.trace(X) as tracer:
        with tracer.iter[steps] as step:
            h = model.layer.output
            seen.append((step, h))
        after = tracer.result
    return seen, after, h


@pytest.mark.filterwarnings("ignore:.*older form:FutureWarning")
@pytest.mark.parametrize("steps", [slice(None), slice(1, 3), slice(0, None, 2), [0, 3], 2])
def test_the_same_as_the_loop(no_residue, steps) -> None:
    """Steps, values, the code after it, and the names that its body binds."""
    net = Cell()
    no_residue(net)
    one, two = with_for(Model(net), steps), with_with(Model(net), steps)

    assert [step for step, _ in one[0]] == [step for step, _ in two[0]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one[0], two[0], strict=True))
    assert torch.equal(one[1], two[1])
    assert torch.equal(one[2], two[2])


def test_it_warns_at_the_line_of_the_with() -> None:
    """With what to write instead."""
    model = Model(Cell())
    with pytest.warns(FutureWarning, match="for step in tracer.iter") as caught:
        with_with(model, slice(None))

    assert __file__ == caught[0].filename
    assert with_with.__code__.co_firstlineno + 3 == caught[0].lineno


@pytest.mark.filterwarnings("ignore:.*older form:FutureWarning")
def test_an_error_in_its_body(no_residue) -> None:
    """Raised from the body's line; names bound so far are kept."""
    net = Cell()
    no_residue(net)
    model = Model(net)
    count = 0
    with pytest.raises(ZeroDivisionError) as caught:
        with model.trace(X) as tracer:
            with tracer.iter[:]:
                model.layer.output
                count = count + 1
                count / (2 - count)
    entry = caught.tb
    while entry.tb_next is not None:
        entry = entry.tb_next

    assert 2 == count
    assert __file__ == entry.tb_frame.f_code.co_filename


@pytest.mark.filterwarnings("ignore:.*older form:FutureWarning")
def test_module_level() -> None:
    """In a namespace."""
    namespace = {"model": Model(Cell()), "X": X, "seen": []}
    exec(
        "with model.trace(X) as tracer:\n"
        "    with tracer.iter[1:] as step:\n"
        "        seen.append((step, model.layer.output))\n",
        namespace,
    )

    assert [1, 2, 3] == [step for step, _ in namespace["seen"]]
