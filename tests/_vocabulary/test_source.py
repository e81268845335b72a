"""The operations inside a forward: reading, changing, skipping them, and what is refused."""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tracekit import (
    Model,
    NeverRanError,
    NotRunningError,
    OutOfOrderError,
    SourceNotAvailableError,
    UnknownNameError,
)

SCALE = 2.0


def gate(x: Tensor, *, power: int = 1) -> Tensor:
    squashed = torch.sigmoid(x)
    return squashed**power


def through(function):
    @functools.wraps(function)
    def call(self, *args, **kwargs):
        return function(self, *args, **kwargs) * 1.0

    return call


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


class Cell(Base):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.gate = functools.partial(gate, power=2)
        self.calls = 0

    def __mix(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.T @ y

    def forward(self, x: Tensor, times: int = 3, *, bias: float = 0.5) -> Tensor:
        self.calls += 1
        hidden = self.proj(x) * SCALE
        for _ in range(times):
            hidden = self.__mix(hidden, x) + bias
            hidden = torch.tanh(hidden)
        parts = [part.sum() for part in hidden]
        if len(parts) > 100:
            hidden = never(hidden)
        first, *rest = parts
        return self.gate(super().forward(hidden[:, :2]), power=3) * first


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = Cell()
        self.two = Cell()
        self.norm = nn.LayerNorm(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.one(x) + self.two(x))


@pytest.fixture
def pair(no_residue) -> Pair:
    torch.manual_seed(0)
    module = Pair().eval()
    no_residue(module)
    return module


X = torch.linspace(-1, 1, 12).reshape(3, 4)

NAMES = [
    "self_calls_0",
    "add_0",
    "hidden_0",
    "self_proj_0",
    "mul_0",
    "__0",
    "range_0",
    "hidden_1",
    "self___mix_0",
    "add_1",
    "hidden_2",
    "torch_tanh_0",
    "part_0",
    "parts_0",
    "part_sum_0",
    "len_0",
    "gt_0",
    "hidden_3",
    "never_0",
    "first_0",
    "rest_0",
    "getitem_0",
    "forward_0",
    "self_gate_0",
    "mul_1",
]


def test_names(pair: Pair) -> None:
    source = Model(pair).one.source
    assert source.names == NAMES
    assert [op.label for op in source] == NAMES
    assert len(source) == len(NAMES)
    assert "mul_1" in source
    assert source.calls.names[:2] == ["self_proj_0", "range_0"]
    assert source.operators.names == ["add_0", "mul_0", "add_1", "gt_0", "getitem_0", "mul_1"]
    assert source.assigns.names[-2:] == ["first_0", "rest_0"]
    assert [op.kind for op in source.operators] == ["operator"] * 6
    assert source.torch_tanh_0.path == "one.source.torch_tanh_0"
    assert source.torch_tanh_0.lineno == Cell.forward.__code__.co_firstlineno + 5
    assert {"calls", "mul_1"} <= set(dir(source))
    assert "mul_1" in dir(source.operators)
    assert "mul_1" in source.operators


def test_a_bare_name_means_the_first_view_that_has_it(no_residue) -> None:
    class Twice(nn.Module):
        def forward(self, x):
            add = torch.add
            add = add(x, 1) + 1
            return add

    module = Twice()
    no_residue(module)
    model = Model(module)
    assert model.source.names == ["assigns.add_0", "add_1", "add_0", "operators.add_0"]
    assert model.source.add_1.kind == "assign"
    with model.trace(torch.zeros(1)):
        called = model.source.add_0.output
        operator = model.source.operators.add_0.output
        assigned = model.source.add_1.output
    assert (called, operator, assigned) == (1, 2, 2)


def test_reads_of_calls_operators_and_assignments(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        args = model.one.source.self_proj_0.inputs
        projected = model.one.source.self_proj_0.output
        operands = model.one.source.mul_0.inputs
        doubled = model.one.source.mul_0.output
        hidden = model.one.source.hidden_0.output
        first = model.one.source.self_gate_0.input
        keywords = model.one.source.self_gate_0.inputs[1]
    assert args[0][0] is X
    assert torch.equal(projected, pair.one.proj(X))
    assert operands[0][0] is projected
    assert operands == ((projected, 2.0), {})
    assert doubled is hidden
    assert first.shape == (3, 2)
    assert keywords == {"power": 3}


def test_writes(pair: Pair) -> None:
    model = Model(pair)
    plain = pair.one(X)
    with model.trace(X):
        model.one.source.self_gate_0.inputs = ((torch.zeros(3, 2),), {"power": 1})
        gated = model.one.source.self_gate_0.output
    assert torch.equal(gated, torch.full((3, 2), 0.25**0.5))
    with model.trace(X):
        model.one.source.mul_0.input = torch.zeros(3, 4)
        hidden = model.one.source.hidden_0.output
    assert not hidden.any()
    with model.trace(X):
        model.one.source.mul_1.output = torch.ones(3, 2)
        out = model.one.output
    assert torch.equal(out, torch.ones(3, 2))
    with model.trace(X):
        model.one.source.first_0.output = torch.tensor(0.0)
        out = model.one.output
    assert not out.any()
    assert torch.equal(pair.one(X), plain)


def test_in_place_edits_count(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X), torch.no_grad():
        model.one.source.getitem_0.output[:] = 0
        one = model.one.source.forward_0.output
    assert torch.equal(one, torch.ones(3, 2))


def test_skips(pair: Pair) -> None:
    model = Model(pair)
    before = pair.one.calls
    with model.trace(X):
        model.one.source.self_calls_0.skip(before)
        model.one.source.self_proj_0.skip(torch.ones(3, 4))
        projected = model.one.source.self_proj_0.output
        model.one.source.mul_0.skip(torch.zeros(3, 4))
        hidden = model.one.source.hidden_0.output
    assert pair.one.calls == before
    assert torch.equal(projected, torch.ones(3, 4))
    assert torch.equal(hidden, torch.zeros(3, 4))


def test_two_modules_of_one_class_are_told_apart(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        one = model.one.source.self_proj_0.output
        two = model.two.source.self_proj_0.output
    assert torch.equal(one, pair.one.proj(X))
    assert torch.equal(two, pair.two.proj(X))


def test_loops_have_visits(pair: Pair) -> None:
    model = Model(pair)
    values = []
    with model.trace(X) as tracer:
        first = model.one.source.torch_tanh_0.output
        second = model.one.source.torch_tanh_0.input
        third = model.one.source.torch_tanh_0.output
    assert first is not third
    assert torch.equal(torch.tanh(second), third)
    with model.trace(X) as tracer:
        for step in tracer.iter[:]:
            values.append((step, model.one.source.torch_tanh_0.output))
    assert [step for step, _ in values] == [0, 1, 2]
    assert torch.equal(values[0][1], first)
    with model.trace(X) as tracer:
        sums = []
        for _ in tracer.iter[0:3]:
            sums.append(model.one.source.part_sum_0.output)
    assert len(sums) == 3
    assert torch.allclose(torch.stack(sums), values[2][1].sum(1))


def test_what_a_call_calls_has_operations_of_its_own(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        source = model.one.source.self_gate_0.source
        names = source.names
        given = model.one.source.self_gate_0.input
        squashed = source.torch_sigmoid_0.output
        source.pow_0.output = squashed * 0
        gated = model.one.source.self_gate_0.output
    assert names == ["squashed_0", "torch_sigmoid_0", "pow_0"]
    assert torch.equal(squashed, torch.sigmoid(given))
    assert not gated.any()


def test_the_input_may_be_asked_for_before_what_is_inside(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        model.one.source.self_gate_0.input = torch.zeros(3, 2)
        squashed = model.one.source.self_gate_0.source.torch_sigmoid_0.output
        matmul = model.two.source.self___mix_0.source.matmul_0.output
    assert torch.equal(squashed, torch.full((3, 2), 0.5))
    assert matmul.shape == (3, 3)


def test_an_inherited_method_called_through_super(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        added = model.one.source.forward_0.source.add_0.output
        whole = model.one.source.forward_0.output
    assert added is whole


def test_inside_a_loop_each_visit_is_opened(pair: Pair) -> None:
    model = Model(pair)
    products = []
    with model.trace(X) as tracer:
        for _ in tracer.iter[0:3]:
            products.append(model.one.source.self___mix_0.source.matmul_1.output)
    assert len({id(p) for p in products}) == 3


def test_leaves_and_modules_have_no_operations(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(SourceNotAvailableError, match=r"torch_tanh_0` calls .*tanh, a builtin"):
        with model.trace(X):
            model.one.source.torch_tanh_0.source
    with pytest.raises(SourceNotAvailableError, match="calls a module, Linear"):
        with model.trace(X):
            model.one.source.self_proj_0.source
    with pytest.raises(SourceNotAvailableError, match="calls range, a class"):
        with model.trace(X):
            model.one.source.range_0.source
    with pytest.raises(SourceNotAvailableError, match="is an assignment: it calls nothing"):
        model.one.source.hidden_0.source
    with pytest.raises(SourceNotAvailableError, match="is an operator: it calls nothing"):
        with model.trace(X):
            model.one.source.mul_0.source
    with pytest.raises(NotRunningError):
        model.one.source.self_gate_0.source


def test_unknown_names(pair: Pair) -> None:
    source = Model(pair).one.source
    with pytest.raises(UnknownNameError) as caught:
        source.torch_tahn_0
    message = str(caught.value)
    assert "`model.one.source` has no `torch_tahn_0`" in message
    assert "did you mean `model.one.source.torch_tanh_0`?" in message
    with pytest.raises(UnknownNameError, match=r"model.one.source.assigns` has no `torch_tanh_0`"):
        source.assigns.torch_tanh_0
    assert not hasattr(source, "calls_0")
    assert not hasattr(source, "__array__")


def test_a_branch_not_taken(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(NeverRanError, match="did not run") as caught:
        with model.trace(X):
            model.one.source.never_0.output
    assert "the branch that it stands in was not taken" in str(caught.value)


def test_what_is_past(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(OutOfOrderError, match="already past it"):
        with model.trace(X):
            model.one.source.mul_1.output
            model.one.source.self_proj_0.output


def test_a_forward_that_runs_already(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(NeverRanError, match="is running already") as caught:
        with model.trace(X):
            model.one.proj.output
            model.one.source.mul_0.output
    assert "before the values inside it" in str(caught.value)
    with model.trace(X):
        model.one.input
        model.one.source.mul_0.output


def test_operators_keep_their_number_of_operands(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(TypeError, match="this operation has 2 operands") as caught:
        with model.trace(X):
            model.one.source.mul_0.inputs = ((X,), {})
    lines = traceback.extract_tb(caught.value.__traceback__)
    assert any(frame.filename == __file__ for frame in lines)


def test_globals_and_private_names_are_those_of_the_module(pair: Pair, monkeypatch) -> None:
    model = Model(pair)
    with model.trace(X):
        two = model.one.source.mul_0.output
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 4.0)
    with model.trace(X):
        four = model.one.source.mul_0.output
        mixed = model.one.source.self___mix_0.output
    assert torch.equal(two * 2, four)
    assert mixed.shape == (3, 4)


def test_modules_and_operations_in_one_block(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        first = model.source.self_one_0.output
        model.two.source.self_calls_0.output
        other = model.two.proj.output
        doubled = model.two.source.mul_1.output
        second = model.source.self_two_0.output
        whole = model.source.add_0.output
        normed = model.norm.output
    assert torch.equal(other, pair.two.proj(X))
    assert second is doubled
    assert torch.equal(whole, first + second)
    assert torch.equal(normed, pair.norm(whole))
    with model.trace(X):
        model.one.source.self_calls_0.output
        projected = model.one.proj.output
        called = model.one.source.self_proj_0.output
    assert called is projected


def test_the_module_is_left_as_it_was(pair: Pair) -> None:
    model = Model(pair)
    expected = pair(X)
    with model.trace(X):
        model.one.source.self_gate_0.source.pow_0.output
        inside = "forward" in pair.one.__dict__
    assert inside
    assert "forward" not in pair.one.__dict__
    assert type(pair.one).forward is Cell.forward
    assert torch.equal(pair(X), expected)
    with pytest.raises(ZeroDivisionError), model.trace(X):
        model.one.source.mul_0.output / 0
        1 / 0
    assert "forward" not in pair.one.__dict__


def test_the_block_calling_the_module_makes_no_visits(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        model.one.source.mul_0.output
        extra = model.one(X)
        after = model.one.source.mul_1.output
    assert torch.equal(extra, after)


def test_an_error_of_an_operation_is_the_models(pair: Pair) -> None:
    model = Model(pair)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        with model.trace(X):
            model.one.source.self_proj_0.input = torch.zeros(3, 5)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "forward" in names


# Which forward.


class Plain(nn.Module):
    def forward(self, x):
        return x * 3


def test_a_forward_of_the_instance(no_residue) -> None:
    module = Plain()
    module.forward = lambda x: torch.abs(x) - 1
    model = Model(module)
    assert model.source.names == ["torch_abs_0", "sub_0"]
    with model.trace(-X):
        value = model.source.torch_abs_0.output
        model.source.sub_0.output = value * 2
        out = model.output
    assert torch.equal(out, X.abs() * 2)
    module.forward = functools.partial(lambda y, x: x + y, 1.0)
    no_residue(module)
    assert model.source.names == ["add_0"]
    with model.trace(X):
        out = model.source.add_0.output
    assert torch.equal(out, X + 1)
    assert isinstance(module.__dict__["forward"], functools.partial)


def test_decorated_forwards(no_residue) -> None:
    class Decorated(nn.Module):
        @torch.no_grad()
        @through
        def forward(self, x, *, k=1):
            return x * k + 2

    module = Decorated()
    no_residue(module)
    model = Model(module)
    assert model.source.names == ["mul_0", "add_0"]
    with model.trace(X, k=2):
        model.source.mul_0.output = torch.zeros(3, 4)
        added = model.source.add_0.output
        out = model.output
    assert torch.equal(added, torch.full((3, 4), 2.0))
    assert torch.equal(out, added)


def test_an_object_that_is_called(no_residue) -> None:
    class Scaled:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return x * self.by

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.scaled = Scaled(3)

        def forward(self, x):
            return self.scaled(x)

    module = Calls()
    no_residue(module)
    model = Model(module)
    with model.trace(X):
        inside = model.source.self_scaled_0.source.mul_0.output
    assert torch.equal(inside, X * 3)


def test_a_forward_without_text(no_residue) -> None:
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(
        "class Made(nn.Module):\n"
        "    def forward(self, x):\n"
        "        y = [torch.relu(v) for v in x]\n"
        "        return torch.stack(y) @ x.T\n",
        names,
    )
    module = names["Made"]()
    no_residue(module)
    model = Model(module)
    assert repr(model.source) == (
        "model.source: Made.forward, <string>:2\n"
        " v_0           ->    3\n"
        " y_0           ->    +\n"
        " torch_relu_0  ->    +\n"
        " torch_stack_0 ->    4\n"
        " matmul_0      ->    +"
    )
    assert repr(model.source.matmul_0) == "model.source.matmul_0: operator, line 4"
    with model.trace(X):
        stacked = model.source.torch_stack_0.output
    assert torch.equal(stacked, X.relu())


LISTED = """\
import torch
from torch import nn

class Listed(nn.Module):
    def forward(self, x, mask=None):
        # The scores.
        scores = x @ x.T

        if mask is not None: scores += mask
        return torch.softmax(
            scores, -1) @ x
"""
GOLDEN = """\
model.source: Listed.forward, {path}:5
                       5     def forward(self, x, mask=None):
                       6         # The scores.
 scores_0        ->    7         scores = x @ x.T
 matmul_0        ->    +
                       8
 scores_1        ->    9         if mask is not None: scores += mask
 add_0           ->    +
 torch_softmax_0 ->   10         return torch.softmax(
 matmul_1        ->    +
                      11             scores, -1) @ x"""
WINDOW = """\
model.source.add_0: operator, line 9
        5     def forward(self, x, mask=None):
        6         # The scores.
        7         scores = x @ x.T
        8
 -->    9         if mask is not None: scores += mask
       10         return torch.softmax(
       11             scores, -1) @ x"""


def test_printing_with_text(tmp_path: Path) -> None:
    path = tmp_path / "listed.py"
    path.write_text(LISTED)
    names: dict[str, Any] = {"__name__": "listed"}
    exec(compile(LISTED, str(path), "exec"), names)
    source = Model(names["Listed"]()).source
    assert repr(source) == GOLDEN.format(path=path)
    assert repr(source.add_0) == WINDOW
    assert repr(source.operators).count("->") == 3
    assert "torch_softmax_0" not in repr(source.operators)


def test_text_that_is_not_the_codes_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    path.write_text(LISTED.replace("scores", "logits"))
    names: dict[str, Any] = {"__name__": "edited"}
    exec(compile(LISTED, str(path), "exec"), names)
    source = Model(names["Listed"]()).source
    assert "logits" not in repr(source)
    assert " torch_softmax_0 ->   10" in repr(source)


def test_scripted_and_compiled_modules_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(SourceNotAvailableError, match="is a scripted module"):
        Model(nn.Sequential(scripted))[0].source
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    with pytest.raises(SourceNotAvailableError, match="compiled"):
        Model(nn.Sequential(compiled))[0].source
    module = nn.Linear(2, 2)
    module.compile(backend="eager")
    with pytest.raises(SourceNotAvailableError, match="is a compiled module"):
        Model(module).source
    module = Plain()
    module.forward = torch.compile(module.forward, backend="eager")
    with pytest.raises(SourceNotAvailableError, match="was compiled"):
        Model(module).source


# With the other words.


def test_invokes_see_their_rows(pair: Pair) -> None:
    model = Model(pair)
    one, two = X[:1], X[1:]
    with model.trace() as tracer:
        with tracer.invoke(one):
            first = model.two.source.self_proj_0.output
        with tracer.invoke(two):
            model.two.source.self_proj_0.output = torch.zeros(2, 4)
            product = model.two.source.mul_0.output
    assert torch.allclose(first, pair.two.proj(one))
    assert torch.equal(product, torch.zeros(2, 4))


class Heads(nn.Module):
    def forward(self, x):
        merged = self.split(x)
        table = torch.ones(2, 2)
        turned = merged.transpose(0, 1)
        return turned.sum(0) @ table.sum() if x.dim() > 9 else turned.sum()

    def split(self, x):
        return x.reshape(-1, 2)


def test_rows_are_those_of_the_batch_and_not_of_a_size(no_residue) -> None:
    module = Heads()
    no_residue(module)
    model = Model(module)
    one, two = torch.zeros(1, 6), torch.ones(1, 6)
    with model.trace() as tracer:
        with tracer.invoke(one):
            table = model.source.table_0.output
            turned = model.source.turned_0.output
        with tracer.invoke(two):
            inner = model.source.self_split_0.source.x_reshape_0.output
            merged = model.source.merged_0.output
    assert table.shape == (2, 2)
    assert torch.equal(turned, torch.zeros(2, 3))
    assert torch.equal(inner, torch.ones(3, 2))
    assert torch.equal(merged, torch.ones(3, 2))


def test_under_scan(pair: Pair) -> None:
    model = Model(pair)
    with model.scan(X):
        shape = model.one.source.self___mix_0.output.shape
        inside = model.one.source.self_gate_0.source.pow_0.output.shape
    assert (shape, inside) == ((3, 4), (3, 2))


def test_the_root_module(pair: Pair) -> None:
    model = Model(pair)
    with model.trace(X):
        summed = model.source.add_0.output
        out = model.output
    assert torch.equal(pair.norm(summed), out)


def test_gradients_flow_through_a_rewritten_forward(pair: Pair) -> None:
    model = Model(pair)
    pair(X).sum().backward()
    expected = pair.one.proj.weight.grad.clone()
    pair.zero_grad()
    with model.trace(X):
        model.one.source.mul_0.output
        out = model.output
    out.sum().backward()
    assert torch.equal(pair.one.proj.weight.grad, expected)
