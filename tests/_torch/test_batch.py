"""Rows: inputs joined, values narrowed and widened, batch axes learned."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from families import BEFORE_5, FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tracekit._torch.axes import BatchRules
from tracekit._torch.batch import Shared, join_parts, narrow, widen
from tracekit._torch.joining import count_rows, join, split_rows
from tracekit._torch.leaves import leaves_with_paths
from tracekit.errors import BatchAxisError, CannotJoinError, RowsMismatchError


@dataclass
class Pair:
    """What a module may return."""

    first: torch.Tensor
    second: torch.Tensor | None = None


def axis0(_leaf, tensor):
    return ((0, 1),) if tensor.dim() else ()


def same(left, right, **tolerance):
    """Compare nested values, tensors by value."""
    left, right = list(leaves_with_paths(left)), list(leaves_with_paths(right))
    if [leaf for leaf, _ in left] != [leaf for leaf, _ in right]:
        return False
    return all(
        torch.allclose(a, b, **tolerance) if isinstance(a, torch.Tensor) else a == b
        for (_, a), (_, b) in zip(left, right, strict=True)
        if not type(a).__name__.endswith("Cache")
    )


class TestJoin:
    def test_tensors_along_axis_0(self):
        one, two = torch.ones(1, 3), torch.zeros(2, 3)
        joined = join([((one,), {"mask": one > 0}), ((two,), {"mask": two > 0})])

        assert torch.equal(joined.args[0], torch.cat([one, two]))
        assert torch.equal(joined.kwargs["mask"], torch.cat([one > 0, two > 0]))
        assert [slice(0, 1), slice(1, 3)] == joined.rows
        assert 3 == joined.total

    def test_nested(self):
        def nested(n):
            x = torch.full((n, 2), float(n))
            return {"a": [x, (x, 7)], "b": Pair(x)}, None

        joined = join([((nested(1),), {}), ((nested(2),), {})])
        value, nothing = joined.args[0]

        assert nothing is None
        assert isinstance(value["b"], Pair)
        assert (3, 2) == value["b"].first.shape == value["a"][1][0].shape
        assert 7 == value["a"][1][1]

    def test_one_input_is_given_as_it_is(self):
        x = torch.ones(4, 2)

        assert join([((x,), {})]).args[0] is x

    def test_other_axis(self):
        def axes(_leaf, _tensor):
            return (1, 1)

        joined = join([((torch.ones(5, 1),), {}), ((torch.ones(5, 2),), {})], axes)

        assert (5, 3) == joined.args[0].shape

    def test_shared_tensors(self):
        def axes(leaf, _tensor):
            return None if leaf == (1, "table") else (0, 1)

        table = torch.eye(3)
        joined = join(
            [((torch.ones(1, 2),), {"table": table}), ((torch.ones(2, 2),), {"table": table})],
            axes,
        )

        assert joined.kwargs["table"] is table

    def test_an_option_of_one(self):
        joined = join([((torch.ones(1),), {"flag": True}), ((torch.ones(1),), {})])

        assert {"flag": True} == joined.kwargs

    def test_sizes_that_differ(self):
        with pytest.raises(CannotJoinError) as caught:
            join([((torch.ones(1, 5),), {}), ((torch.ones(1, 7),), {})])

        assert "the inputs of invokes 1 and 2 cannot be joined: argument 1" in str(caught.value)
        assert "invoke 1: float32[1, 5]\n        invoke 2: float32[1, 7]" in str(caught.value)

    @pytest.mark.parametrize(
        ("one", "two", "said"),
        [
            ({"n": 1}, {"n": 5}, "`n` differ"),
            ({"x": torch.ones(1)}, {"x": 3}, "`x` are of different kinds"),
            ({"x": torch.ones(1)}, {}, "`x` is given by some invokes only"),
            ({"x": [torch.ones(1)]}, {"x": [torch.ones(1)] * 2}, "`x` have different items"),
            ({"x": torch.ones(1)}, {"x": torch.ones(1).double()}, "float64[1]"),
            ({"x": [1, torch.ones(1)]}, {"x": [2, torch.ones(1)]}, "`x[0]` differ"),
        ],
    )
    def test_what_cannot_be_joined(self, one, two, said):
        base = (torch.ones(1, 2),)
        with pytest.raises(CannotJoinError) as caught:
            join([(base, one), (base, two)])

        assert said in str(caught.value)

    def test_no_batch_axis(self):
        with pytest.raises(CannotJoinError, match="invoke 2 has no rows"):
            join([((torch.ones(1),), {}), ((torch.tensor(1.0),), {})])

    def test_rows_that_disagree(self):
        with pytest.raises(CannotJoinError, match="do not have the same number of rows"):
            count_rows(((torch.ones(2), torch.ones(3)), {}))

    @given(st.lists(st.integers(1, 5), max_size=12), st.integers(1, 8))
    def test_split(self, counts, most):
        runs = split_rows(counts, most)

        assert [*range(len(counts))] == [i for run in runs for i in run]
        for run in runs:
            assert len(run) == 1 or sum(counts[i] for i in run) <= most
        assert [len(counts)] == [len(run) for run in split_rows(counts, None)]
        with pytest.raises(ValueError, match="at least 1"):
            split_rows(counts, 0)


class TestRows:
    """One invoke's rows of nested values."""

    def value(self):
        x = torch.arange(12.0).reshape(4, 3)
        return {"a": (x, None), "b": [Pair(x + 100)], "loss": torch.tensor(2.0)}

    def test_narrow(self):
        got = narrow(self.value(), slice(1, 3), axis0)

        assert [3.0, 4.0, 5.0] == got["a"][0][0].tolist()
        assert (2, 3) == got["b"][0].first.shape
        assert got["a"][1] is got["b"][0].second is None
        assert 2.0 == got["loss"].item()

    def test_views_without_gradients(self):
        value = self.value()
        with torch.no_grad():
            narrow(value, slice(1, 3), axis0)["a"][0].zero_()

        assert 0 == value["a"][0][1:3].abs().sum()
        assert 12 == value["a"][0][0].sum() + 9

    def test_widen(self):
        value = self.value()
        new = narrow(value, slice(1, 3), axis0)
        new = {**new, "a": (new["a"][0] * 0 - 1, None)}
        got = widen(value, slice(1, 3), new, axis0)

        assert [0.0, 1.0, 2.0] == got["a"][0][0].tolist()
        assert [-1.0] * 3 == got["a"][0][2].tolist()
        assert [9.0, 10.0, 11.0] == got["a"][0][3].tolist()
        assert 4.0 == value["a"][0][1, 1].item()
        assert isinstance(got["b"][0], Pair)

    def test_order_and_kind_of_containers(self):
        value = OrderedDict(z=torch.ones(2), a=torch.ones(2))

        assert OrderedDict is type(narrow(value, slice(0, 1), axis0))
        assert ["z", "a"] == list(narrow(value, slice(0, 1), axis0))

    @pytest.mark.parametrize(
        ("new", "said"),
        [
            (torch.ones(5, 3), "float32[5, 3]"),
            (torch.ones(1, 2), "float32[1, 2]"),
            (torch.ones(1, 3, dtype=torch.float64), "float64[1, 3]"),
            (1.0, "written: 1.0"),
            ((torch.ones(1, 3),), "(float32[1, 3],)"),
        ],
    )
    def test_what_does_not_fit(self, new, said):
        with pytest.raises(RowsMismatchError) as caught:
            widen(torch.ones(4, 3), slice(0, 1), new, axis0)

        assert "needed:  float32[1, 3]" in str(caught.value)
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: {"a": d["a"]},
            lambda d: {**d, "c": d["a"]},
            lambda d: {**d, "b": 3},
            lambda d: {**d, "a": d["a"][0]},
            lambda d: {**d, "a": (d["a"][0], None, None)},
            lambda d: [*d.values()],
        ],
        ids=["missing", "more", "no tensor", "one of two", "three of two", "list"],
    )
    def test_structure(self, change):
        x = torch.ones(2, 3)
        value = {"a": (x, None), "b": x}
        with pytest.raises(RowsMismatchError, match="does not fit"):
            widen(value, slice(0, 1), change(narrow(value, slice(0, 1), axis0)), axis0)

    def test_no_batch_axis(self):
        value = (torch.ones(2, 3), torch.eye(3))

        def rule(leaf, tensor):
            return ((0, 1),) if leaf == (0,) else ()

        mine = narrow(value, slice(0, 1), rule)
        kept = widen(value, slice(0, 1), (mine[0] * 2, mine[1]), rule)

        assert (3, 3) == mine[1].shape
        assert kept[1] is value[1]
        with pytest.raises(BatchAxisError, match=r"without a batch axis at \[1\]"):
            widen(value, slice(0, 1), (mine[0], mine[1] * 2), rule)

    def test_k_rows_for_each_input(self):
        def rule(_leaf, _tensor):
            return ((0, 3),)

        x = torch.arange(6.0)

        assert [3.0, 4.0, 5.0] == narrow(x, slice(1, 2), rule).tolist()
        assert [9, 9, 9, 3, 4, 5] == widen(x, slice(0, 1), torch.full((3,), 9.0), rule).tolist()

    def test_two_axes(self):
        def rule(_leaf, _tensor):
            return ((0, 1), (1, 1))

        x = torch.arange(9.0).reshape(3, 3)

        assert [[4, 5], [7, 8]] == narrow(x, slice(1, 3), rule).tolist()
        assert 0 == widen(x, slice(1, 3), torch.zeros(2, 2), rule)[1:, 1:].sum()

    def test_join_parts(self):
        parts = [(slice(1, 3), (torch.ones(2, 2), "b")), (slice(0, 1), (torch.zeros(1, 2), "a"))]
        got = join_parts(parts, 3, axis0)

        assert [[0, 0], [1, 1], [1, 1]] == got[0].tolist()
        assert "a" == got[1]

    def test_parts_that_do_not_cover(self):
        with pytest.raises(RowsMismatchError, match="skipped by some invokes only"):
            join_parts([(slice(0, 1), torch.ones(1))], 2, axis0)


@pytest.fixture(params=[True, False], ids=["gradients", "no gradients"])
def grad(request):
    with torch.set_grad_enabled(request.param):
        yield request.param


class TestShared:
    """Several invokes at one site."""

    def test_each_gets_the_same_object_again(self, grad):
        shared = Shared(torch.ones(2, 3), axis0, 2)

        assert shared.read(1, slice(0, 1)) is shared.read(1, slice(0, 1))

    def test_edits_in_place(self, grad):
        value = torch.arange(6.0).reshape(3, 2)
        shared = Shared(value, axis0, 3)
        shared.read(1, slice(0, 1))[:] = 7
        shared.read(2, slice(1, 2))
        shared.read(3, slice(2, 3)).mul_(10)

        assert [[7, 7], [2, 3], [40, 50]] == shared.join().tolist()

    def test_nothing_edited_is_the_models_own(self, grad):
        value = (torch.ones(2, 3), {"a": torch.ones(2)})
        shared = Shared(value, axis0, 2)
        shared.read(1, slice(0, 1))
        shared.read(2, slice(1, 2))

        assert shared.join() is value

    def test_writes(self, grad):
        value = torch.arange(6.0).reshape(3, 2)
        shared = Shared(value, axis0, 3)
        held = shared.read(1, slice(0, 1))
        shared.write(1, slice(0, 1), held * 2 + 1)
        shared.write(3, slice(2, 3), torch.zeros(1, 2))
        shared.read(3, slice(2, 3)).add_(5)

        assert [[1, 3], [2, 3], [5, 5]] == shared.join().tolist()
        assert [[0, 1]] == held.tolist()
        assert [[0, 1], [2, 3], [4, 5]] == value.tolist()

    def test_items_of_containers(self, grad):
        value = {"a": torch.zeros(2, 3), "b": [torch.zeros(2), None], "p": Pair(torch.zeros(2))}
        shared = Shared(value, axis0, 2)
        mine = shared.read(1, slice(1, 2))
        mine["a"] = torch.ones(1, 3)
        mine["b"][0] = torch.ones(1)
        mine["p"].first = torch.ones(1)
        got = shared.join()

        assert [[0, 0, 0], [1, 1, 1]] == got["a"].tolist()
        assert [0, 1] == got["b"][0].tolist() == got["p"].first.tolist()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda d: d.update(a=torch.ones(5)),
            lambda d: d.update(c=torch.ones(1)),
            lambda d: d.pop("a"),
            lambda d: d.update(a=None),
        ],
        ids=["shape", "more", "missing", "no tensor"],
    )
    def test_items_that_do_not_fit(self, spoil):
        shared = Shared({"a": torch.zeros(2), "n": 1}, axis0, 2)
        spoil(shared.read(1, slice(0, 1)))
        with pytest.raises(RowsMismatchError):
            shared.join()

    def test_all_rows_see_the_edits_before(self, grad):
        shared = Shared(torch.zeros(2, 2), axis0, 2)
        shared.read(1, slice(0, 1))[:] = 1
        whole = shared.read("all", None)
        seen = whole.tolist()
        whole[:, 1] = 9

        assert [[1, 1], [0, 0]] == seen
        assert [[1, 9]] == shared.read(1, slice(0, 1)).tolist()
        assert [[1, 9], [0, 9]] == shared.join().tolist()

    def test_a_table_is_not_edited_in_place(self, grad):
        shared = Shared(torch.eye(3), lambda *_: (), 3)
        shared.read(1, slice(0, 1)).zero_()
        with pytest.raises(BatchAxisError, match="cannot be edited through one invoke"):
            shared.join()

    def test_inference_tensors(self):
        with torch.inference_mode():
            value = torch.zeros(2, 2)
            shared = Shared(value, axis0, 2)
            shared.read(1, slice(1, 2))[:] = 4

            assert [[0, 0], [4, 4]] == shared.join().tolist()

    def test_rows_are_part_of_the_graph(self):
        weight = torch.ones(2, requires_grad=True)
        shared = Shared(weight * torch.ones(3, 2), axis0, 3)
        parts = [shared.read(n, slice(n, n + 1)) for n in range(3)]
        for part in parts:
            part.retain_grad()
        (shared.join() * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()

        assert [1.0, 2.0, 3.0] == [part.grad[0, 0].item() for part in parts]
        assert [6.0, 6.0] == weight.grad.tolist()

    def test_an_edit_in_place_does_not_break_another_backward(self):
        weight = torch.ones(2, requires_grad=True)
        shared = Shared(weight * torch.ones(2, 2), axis0, 2)
        kept = shared.read(1, slice(0, 1)) ** 2
        shared.read(2, slice(1, 2)).mul_(3)
        joined = shared.join()
        kept.sum().backward(retain_graph=True)
        joined.sum().backward()

        assert [[1, 1], [3, 3]] == joined.tolist()
        assert [6.0, 6.0] == weight.grad.tolist()

    @given(st.data())
    def test_equals_one_by_one(self, data):
        """Any edits by any invokes: what each would do alone to its own rows."""
        counts = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))
        total = sum(counts)
        grad = data.draw(st.booleans())
        edits = st.sampled_from(["read", "mul", "set", "replace", "nothing"])
        plan = [data.draw(st.lists(edits, max_size=3)) for _ in counts]
        values = (torch.arange(2.0 * total).reshape(total, 2), [torch.arange(float(total)), None])
        if grad:
            values = (values[0].requires_grad_() * 1, values[1])

        def act(get, put, todo):
            for edit in todo:
                if edit == "nothing":
                    continue
                mine = get()
                if edit == "mul":
                    mine[0].mul_(2)
                elif edit == "set":
                    mine[1][0] = mine[1][0] - 5
                elif edit == "replace":
                    put((mine[0] + 1, [mine[1][0] * 3, None]))

        with torch.set_grad_enabled(grad):
            expected = []
            start = 0
            for count, todo in zip(counts, plan, strict=True):
                own = (
                    values[0][start : start + count].clone(),
                    [values[1][0][start : start + count].clone(), None],
                )
                box = [own]
                act(lambda box=box: box[0], lambda v, box=box: box.__setitem__(0, v), todo)
                expected.append(box[0])
                start += count
            shared = Shared(values, axis0, total)
            start = 0
            for number, (count, todo) in enumerate(zip(counts, plan, strict=True)):
                rows = slice(start, start + count)
                act(
                    lambda rows=rows, n=number: shared.read(n, rows),
                    lambda v, rows=rows, n=number: shared.write(n, rows, v),
                    todo,
                )
                start += count
            joined = shared.join()

        assert torch.equal(joined[0], torch.cat([value[0] for value in expected]))
        assert torch.equal(joined[1][0], torch.cat([value[1][0] for value in expected]))


class Shapes(nn.Module):
    """Values whose batch axis no size tells."""

    def __init__(self):
        super().__init__()
        self.table = nn.Identity()
        self.second = nn.Identity()
        self.flat = nn.Identity()
        self.pairs = nn.Identity()
        self.twice = nn.Identity()
        self.loss = nn.Identity()

    def forward(self, x):
        self.table(torch.eye(3))
        self.second(x.transpose(0, 1))
        self.flat(x.flatten(0, 1))
        self.pairs(x.sum(1) @ x.sum(1).T)
        self.twice(x.repeat_interleave(2, 0))
        self.loss(x.sum())
        return {"x": x, "n": x.shape[1]}


def outputs(module, call):
    """Record (path, visit) -> output."""
    seen = {}

    def hook(path):
        def note(_module, _args, output):
            visit = sum(1 for p, _ in seen if p == path)
            seen[path, visit] = output

        return note

    handles = [part.register_forward_hook(hook(path)) for path, part in module.named_modules()]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


class TestLearning:
    @pytest.mark.parametrize("total", [1, 3])
    def test_shapes(self, total):
        module, x = Shapes(), torch.randn(total, 3, 4)
        rules = BatchRules()

        assert rules.learn(module, module, (x,), {}, total)
        seen = outputs(module, lambda: module(x))
        found = {
            path: rules.site(path, "output", 0, total)((), value)
            for (path, _), value in seen.items()
            if path
        }
        assert found == {
            "table": (),
            "second": ((1, 1),),
            "flat": ((0, 3),),
            "pairs": ((0, 1), (1, 1)),
            "twice": ((0, 2),),
            "loss": (),
        }
        assert ((0, 1),) == rules.site("", "output", 0, total)(("x",), seen["", 0]["x"])
        assert ((0, 1),) == rules.site("", "result", 0, total)(("x",), seen["", 0]["x"])
        assert ((0, 1),) == rules.site("", "input", 0, total)((0, 0), x)
        assert set() == rules.assumed

    def test_the_models_own_word(self):
        def stated(path, port, leaf):
            if (path, port) == ("table", "output"):
                return (1, 1)
            return None if path == "second" else NotImplemented

        rules = BatchRules(stated)
        module, x = Shapes(), torch.randn(3, 3, 4)
        rules.learn(module, module, (x,), {}, 3)

        assert ((1, 1),) == rules.site("table", "output", 0, 3)((), torch.eye(3))
        assert () == rules.site("second", "output", 0, 3)((), x)
        assert ((0, 3),) == rules.site("flat", "output", 0, 3)((), x.flatten(0, 1))
        with pytest.raises(BatchAxisError, match="`batch_axis` says axis 1"):
            rules.site("table", "output", 0, 2)((), torch.eye(3))

    def test_a_model_that_cannot_be_scanned(self):
        class Reads(nn.Module):
            def forward(self, x):
                return x * x.sum().item()

        rules = BatchRules()
        module, x = Reads(), torch.ones(2, 3)

        assert not rules.learn(module, module, (x,), {}, 2)
        assert "value of a tensor" in str(rules.failure)
        assert ((0, 1),) == rules.site("", "output", 0, 2)((), x)
        assert () == rules.site("", "output", 0, 3)((), x)
        assert {("", "output")} == rules.assumed

    def test_tokens_that_are_flattened_and_sorted(self):
        """A mixture of experts under any name: rows are right, or refused."""

        class Mixture(nn.Module):
            def __init__(self):
                super().__init__()
                self.flat = nn.Identity()
                self.router = nn.Linear(4, 3)
                self.ffns = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

            def forward(self, x):
                tokens = self.flat(x.flatten(0, 1))
                chosen = self.router(tokens).argmax(-1)
                out = torch.zeros_like(tokens)
                for number, ffn in enumerate(self.ffns):
                    mine = (chosen == number).nonzero()[:, 0]
                    if len(mine):
                        out[mine] = ffn(tokens[mine])
                return out.view_as(x)

        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), Mixture(), nn.Linear(4, 4), Mixture())
        inputs = [torch.randn(1, 3, 4), torch.randn(2, 3, 4)]
        joined = join([((x,), {}) for x in inputs])
        rules = BatchRules()

        assert not rules.learn(module, module, joined.args, {}, 3)
        batched = outputs(module, lambda: module(*joined.args))
        for rows, x in zip(joined.rows, inputs, strict=True):
            alone = outputs(module, lambda x=x: module(x))
            for (path, visit), value in batched.items():
                rule = rules.site(path, "output", visit, 3)
                if path.startswith("1.ffns.") or path.startswith("3."):
                    with pytest.raises(BatchAxisError, match="belong to which invoke is not known"):
                        narrow(value, rows, rule)
                else:
                    assert same(narrow(value, rows, rule), alone[path, visit], atol=1e-5), path

    def test_a_failure_is_not_repeated(self, monkeypatch):
        class Reads(nn.Module):
            def forward(self, x):
                return x * x.sum().item()

        rules = BatchRules()
        module = Reads()
        rules.learn(module, module, (torch.ones(2, 3),), {}, 2)
        monkeypatch.setattr(rules, "_observe", lambda *_, **__: pytest.fail("a second time"))

        assert not rules.learn(module, module, (torch.ones(2, 3),), {}, 2)
        assert "value of a tensor" in str(rules.failure)
        with pytest.raises(BatchAxisError, match="is not known"):
            rules.site("", "output", 0, 2)((), torch.ones(4, 3))

    def test_rows_that_do_not_divide(self):
        rules = BatchRules()
        module, x = nn.Linear(4, 3), torch.ones(2, 4)
        rules.learn(module, module, (x,), {}, 2)
        with pytest.raises(BatchAxisError, match="do not divide into the 2 inputs"):
            rules.site("", "output", 0, 2)((), torch.ones(5, 3))

    def test_learned_once(self, monkeypatch):
        rules = BatchRules()
        module = nn.Linear(4, 3)
        rules.learn(module, module, (torch.ones(2, 4),), {}, 2)
        monkeypatch.setattr(rules, "_observe", lambda *_, **__: pytest.fail("a second time"))

        assert rules.learn(module, module, (torch.ones(5, 4),), {}, 5)

    def test_nothing_stays(self):
        module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        BatchRules().learn(module, module, (torch.ones(2, 4),), {}, 2)

        assert 0 == module[1].num_batches_tracked
        assert not module._forward_hooks
        assert not module[0]._forward_pre_hooks

    @pytest.mark.parametrize("name", [n for n in FAMILIES if n != "llava"])
    def test_families_batched_equals_separate(self, name):
        """Every module's output, cut to one invoke's rows, is that of the separate run."""
        if BEFORE_5 and name == "mixtral":
            pytest.skip("experts were modules of their own, called if their router chose them")
        family = FAMILIES[name]
        module = family.build()
        inputs = family.inputs(3)
        single = [{k: v[n : n + 1] for k, v in inputs.items()} for n in range(3)]
        joined = join([((), one) for one in single])
        rules = BatchRules()

        assert rules.learn(module, module, (), joined.kwargs, joined.total), rules.failure
        batched = outputs(module, lambda: module(**joined.kwargs))
        for n, one in enumerate(single):
            alone = outputs(module, lambda one=one: module(**one))
            assert batched.keys() == alone.keys()
            for (path, visit), value in batched.items():
                rule = rules.site(path, "output", visit, joined.total)
                if ".experts." in path:
                    # Tokens are sorted by expert: no invoke's rows are consecutive there.
                    with pytest.raises(BatchAxisError, match="sorted by expert"):
                        narrow(value, joined.rows[n], rule)
                    continue
                got = narrow(value, joined.rows[n], rule)
                assert same(got, alone[path, visit], atol=1e-5), path
        assert set() == rules.assumed

    @pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2}])
    def test_generation(self, options):
        """Beams and returned sequences: k rows for each input."""
        if "num_return_sequences" in options:
            options = {**options, "do_sample": True, "top_k": 1}
        family = FAMILIES["llama"]
        module = family.build()
        inputs = family.inputs(3)
        length = {"max_new_tokens": 3, "min_new_tokens": 3}
        rules = BatchRules()

        assert rules.learn(module, module.generate, (), {**inputs, **length, **options}, 3)
        batched = outputs(module, lambda: module.generate(**inputs, **length, **options))
        for n in range(3):
            one = {key: value[n : n + 1] for key, value in inputs.items()}
            alone = outputs(module, lambda one=one: module.generate(**one, **length, **options))
            assert batched.keys() == alone.keys()
            for (path, visit), value in batched.items():
                rule = rules.site(path, "output", visit, 3)
                got = narrow(value, slice(n, n + 1), rule)
                assert same(got, alone[path, visit], atol=1e-5), (path, visit)
