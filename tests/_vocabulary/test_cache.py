"""Caches: equal to hooks that keep clones, navigable, their own memory, on disk."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import subprocess
import sys
import weakref
from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tracekit import (
    Model,
    NeverRanError,
    NotCachedError,
    NotRunningError,
    OutOfOrderError,
    UnknownNameError,
)
from tracekit._torch import hooks
from tracekit._torch.tiny import MODELS, seeded
from tracekit._vocabulary.cache import Cache
from tracekit._vocabulary.cachefile import Omitted
from tracekit._vocabulary.recorded import CacheDict, Entries, Entry

X = torch.linspace(-1.0, 1.0, 8).reshape(2, 4)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))
    )


class Cell(nn.Module):
    def __init__(self, times=3):
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.step(x)
        return x


class Gives(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Data:
    first: torch.Tensor
    second: object = None


def flat(value):
    from tracekit._torch.values import tensors

    return list(tensors(value))


def same(left, right):
    left, right = flat(left), flat(right)
    return len(left) == len(right) and all(map(torch.equal, left, right))


def by_hand(module, *args):
    """What hooks that clone see: name -> list of (inputs, output)."""
    from tracekit._torch.values import map_tensors

    seen, begun, handles = {}, {}, []

    def copy(value):
        return map_tensors(value, lambda tensor: tensor.detach().clone())

    for name, child in module.named_modules():

        def before(_m, a, k, name=name):
            begun.setdefault(name, []).append(copy((a, k)))

        def after(_m, a, k, out, name=name):
            seen.setdefault(name, []).append((begun[name].pop(), copy(out)))

        handles += [
            child.register_forward_pre_hook(before, with_kwargs=True),
            child.register_forward_hook(after, with_kwargs=True),
        ]
    try:
        module(*args)
    finally:
        for handle in handles:
            handle.remove()
    return seen


class TestEqualsHooks:
    @pytest.mark.parametrize(
        ("make", "inputs"),
        [(make, inputs) for name, make, inputs, _ in MODELS if name != "transformer"],
        ids=[name for name, *_ in MODELS if name != "transformer"],
    )
    def test_every_value_of_every_module(self, clean, make, inputs):
        module = clean(seeded(make))
        expected = by_hand(module, *inputs())
        with Model(module).trace(*inputs()) as tracer:
            cache = tracer.cache(include_inputs=True)

        assert set(cache) == set(expected)
        for path, visits in expected.items():
            assert len(cache[path]) == len(visits)
            for entry, (arguments, output) in zip(cache[path], visits, strict=True):
                assert same(entry.inputs, arguments)
                assert same(entry.output, output)
                assert type(entry.output) is type(output)

    @given(
        factors=st.lists(st.tuples(st.sampled_from(["0", "1", "2.0", "2.2"]), st.floats(-2, 2))),
        rows=st.integers(1, 3),
    )
    def test_edits_are_recorded_as_they_end(self, factors, rows):
        module = net()
        model = Model(module)
        x = torch.randn(rows, 4)
        order = ["0", "1", "2.0", "2.2"]
        factors.sort(key=lambda pair: order.index(pair[0]))
        with model.trace(x) as tracer:
            cache = tracer.cache()
            for path, factor in factors:
                model.get(path).output *= factor
        handles = []
        for path, factor in factors:
            child = module.get_submodule(path)
            handles.append(child.register_forward_hook(lambda m, a, out, f=factor: out * f))
        expected = by_hand(module, x)
        for handle in handles:
            handle.remove()

        assert set(cache) == set(expected)
        for path, [(_, output)] in expected.items():
            assert torch.allclose(cache[path].output, output)

    def test_an_assigned_output_and_a_skipped_module(self, clean):
        model = Model(clean(net()))
        new = torch.ones(2, 4)
        with model.trace(X) as tracer:
            cache = tracer.cache(include_inputs=True)
            model[0].output = new
            model[2].skip(torch.zeros(2, 3))

        assert torch.equal(cache[0].output, new)
        assert torch.equal(cache[1].input, new)
        assert torch.equal(cache.output, torch.zeros(2, 3))
        assert set(cache) == {"", "0", "1", "2"}

    def test_the_users_hooks_come_first(self, clean):
        module = clean(net())
        handle = module[0].register_forward_hook(lambda m, a, out: out + 1)
        with Model(module).trace(X) as tracer:
            cache = tracer.cache(["0"])

        assert torch.equal(cache["0"].output, module[0](X))
        handle.remove()


class TestOwnMemory:
    def test_later_writes_in_place_do_not_reach_it(self, clean):
        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(4, 4)
                self.act = nn.ReLU(inplace=True)

            def forward(self, x):
                return self.act(self.first(x))

        module = clean(InPlace())
        expected = module.first(X)
        with Model(module).trace(X) as tracer:
            cache = tracer.cache()

        assert torch.equal(cache.first.output, expected)
        assert expected.min() < 0

    def test_a_view_keeps_its_own_numbers_only(self, clean):
        big = torch.zeros(1000, 4)
        model = Model(clean(Gives(lambda x: big[:1])))
        with model.trace(X) as tracer:
            cache = tracer.cache()

        assert cache.output.untyped_storage().nbytes() == 16 == cache.nbytes

    def test_an_expanded_value(self, clean):
        model = Model(clean(Gives(lambda x: torch.ones(1, 4).expand(5, 4))))
        with model.trace(X) as tracer:
            cache = tracer.cache()
        cache.output[0] = 7

        assert torch.equal(cache.output[1], torch.ones(4))

    def test_conversion(self, clean):
        model = Model(clean(Gives(lambda x: (x, torch.arange(3), x > 0))))
        with model.trace(X) as tracer:
            half = tracer.cache(dtype=torch.bfloat16)
            plain = tracer.cache(device=None)

        assert [t.dtype for t in half.output] == [torch.bfloat16, torch.int64, torch.bool]
        assert same(plain.output, (X, torch.arange(3), X > 0))

    def test_detached_by_default(self, clean):
        module = clean(net())
        model = Model(module)
        with model.trace(X) as tracer:
            detached = tracer.cache()
            attached = tracer.cache(detach=False)

        assert not detached[0].output.requires_grad
        grads = torch.autograd.grad(attached.output.sum(), module[0].weight)
        assert torch.equal(grads[0], torch.autograd.grad(module(X).sum(), module[0].weight)[0])

    def test_nothing_of_the_model_is_kept(self, clean):
        module = net()
        alive = weakref.ref(module)
        with Model(module).trace(X) as tracer:
            cache = tracer.cache()
        del module, tracer
        gc.collect()

        assert alive() is None
        assert cache[0].output.shape == (2, 4)


class TestWhere:
    def test_from_its_line_on(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            model[0].output
            cache = tracer.cache()

        # It stands at `0` still, and the visit ends after this line.
        assert list(cache) == ["0", "1", "2.0", "2.1", "2.2", "2", ""]

    def test_of_a_call_under_way_the_output(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            model[2][0].output
            cache = tracer.cache(include_inputs=True)

        assert list(cache) == ["2.0", "2.1", "2.2", "2", ""]
        assert cache["2"].output.shape == (2, 3)
        with pytest.raises(NotCachedError, match="`inputs` was not recorded"):
            cache["2"].inputs

    def test_in_the_middle_of_a_module(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            model[2][0].output
            cache = tracer.cache(["2.1", model[2][2], "2"])

        assert list(cache) == ["2.1", "2.2", "2"]

    def test_too_late(self, clean):
        model = Model(clean(net()))
        with pytest.raises(OutOfOrderError, match="too late"):
            with model.trace(X) as tracer:
                tracer.result
                tracer.cache()

    def test_outside_of_a_run(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            pass
        with pytest.raises(NotRunningError, match="this tracer has none"):
            tracer.cache()

    def test_a_container_never_runs(self, clean):
        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(4, 4)])

            def forward(self, x):
                return self.layers[0](x)

        model = Model(clean(Outer()))
        with pytest.raises(NeverRanError, match="is a container"):
            with model.trace(X) as tracer:
                tracer.cache(model.layers)
        with model.trace(X) as tracer:
            everything = tracer.cache()
        assert list(everything) == ["layers.0", ""]

    def test_several_caches(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            first = tracer.cache("0")
            second = tracer.cache([model[1], model[2][0]._module], include_inputs=True)
            pattern = tracer.cache("2.*")

        assert list(first) == ["0"]
        assert list(second) == ["1", "2.0"]
        assert list(pattern) == ["2.0", "2.1", "2.2"]

    def test_only_inputs(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            cache = tracer.cache("0", include_output=False, include_inputs=True)

        assert torch.equal(cache["0"].input, X)
        with pytest.raises(NotCachedError, match="`output` was not recorded"):
            cache["0"].output
        with pytest.raises(ValueError, match="records nothing"):
            Cache(include_output=False)

    def test_a_traced_part_of_a_model(self, clean):
        model = Model(clean(net()))
        with model[2].trace(X) as tracer:
            cache = tracer.cache()

        assert list(cache) == ["2.0", "2.1", "2.2", "2"]

    @pytest.mark.parametrize("wanted", ["tial", "9", "*.nothing", "2.0.weight"])
    def test_unknown_modules(self, clean, wanted):
        model = Model(clean(net()), rename={"2": "tail"})
        with pytest.raises(UnknownNameError):
            with model.trace(X) as tracer:
                tracer.cache([wanted])

    def test_the_nearest_name_is_given(self, clean):
        model = Model(clean(net()), rename={"2": "tail"})
        with pytest.raises(UnknownNameError, match="did you mean `model.tail`"):
            with model.trace(X) as tracer:
                tracer.cache(["tial"])

    def test_modules_of_another_model(self, clean):
        model, other = Model(clean(net())), Model(net())
        for wanted in (other[0], other[0]._module):
            with pytest.raises(UnknownNameError):
                with model.trace(X) as tracer:
                    tracer.cache([wanted])
        with pytest.raises(TypeError, match="a node, a module or a path"):
            with model.trace(X) as tracer:
                tracer.cache([1])


class TestVisits:
    def test_a_list_when_there_are_several(self, clean):
        module = clean(Cell())
        with Model(module).trace(X) as tracer:
            cache = tracer.cache(include_inputs=True)
        expected = by_hand(module, X)["step"]

        assert isinstance(cache["step"], Entries)
        for i in range(3):
            assert torch.equal(cache["step"][i].output, expected[i][1])
            assert torch.equal(cache.step.output[i], expected[i][1])
            assert torch.equal(cache.step.input[i], expected[i][0][0][0])
            assert same(cache.step.inputs[i], expected[i][0])
        assert len(cache["step"]) == 3
        assert "3 visits" in repr(cache)
        assert [cache.step[1], cache.step[-1]] == [cache["step"][1], cache["step"][2]]
        assert cache.step[:2] == cache["step"][:2]

    def test_a_number_means_what_is_below_where_there_is_something(self, clean):
        class Stack(nn.Module):
            def __init__(self):
                super().__init__()
                self.parts = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

            def forward(self, x):
                return self.parts(self.parts(x))

        with Model(clean(Stack())).trace(X) as tracer:
            cache = tracer.cache()

        assert cache.parts[1].output[0] is cache["parts.1"][0].output
        with pytest.raises(NotCachedError):
            cache.parts[2]
        with pytest.raises(NotCachedError):
            cache[0]

    def test_keys_take_every_spelling(self, clean):
        module = clean(Cell())
        with Model(module, rename={"step": "walk"}).trace(X) as tracer:
            cache = tracer.cache()
        keys = cache.keys()

        assert list(keys) == list(cache) == ["step", ""]
        assert all(name in keys for name in ("step", "walk", "model.step", "model", ""))
        assert "leap" not in keys
        assert keys & {"step"} == {"step"}

    def test_none_twice_is_two_visits(self, clean):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.child = Gives(lambda x: None)

            def forward(self, x):
                self.child(x)
                self.child(x)

        with Model(clean(Twice())).trace(X) as tracer:
            cache = tracer.cache()

        assert cache.child.output == [None, None]
        assert cache.output is None

    def test_one_visit_counts_like_a_list(self, clean):
        with Model(clean(net())).trace(X) as tracer:
            cache = tracer.cache()
        entry = cache["0"]

        assert isinstance(entry, Entry)
        assert [entry] == list(entry)
        assert entry[0] is entry[-1] is entry
        with pytest.raises(IndexError):
            entry[1]

    def test_steps(self, clean):
        module = clean(net())
        model = Model(module)

        def three(x):
            for _ in range(3):
                module(x)

        with model.trace(X, fn=three) as tracer:
            cache = tracer.cache("0")
            for step in tracer.iter[:]:
                model[0].output += step

        expected = module[0](X)
        for step in range(3):
            assert torch.equal(cache["0"][step].output, expected + step)

    def test_arguments_of_a_call_without_any(self, clean):
        class Alone(nn.Module):
            def forward(self):
                return 1

        with Model(clean(Alone())).trace() as tracer:
            cache = tracer.cache(include_inputs=True)

        assert cache.input is None
        assert cache.inputs == ((), {})


class TestInvokes:
    def test_rows_of_the_invoke(self, clean):
        module = clean(net())
        model = Model(module)
        a, b = torch.randn(1, 4), torch.randn(3, 4)
        with model.trace() as tracer:
            everything = tracer.cache("0", include_inputs=True)
            with tracer.invoke(a):
                first = tracer.cache("0")
                model[0].output *= 2
            with tracer.invoke(b):
                second = tracer.cache(["0", "2"], include_inputs=True)

        assert torch.allclose(first["0"].output, module[0](a) * 2)
        assert torch.allclose(second["0"].output, module[0](b))
        assert torch.equal(second["0"].input, b)
        assert torch.allclose(second["2"].output, module(b))
        assert torch.equal(everything["0"].input, torch.cat([a, b]))
        assert second["0"].output.untyped_storage().nbytes() == 3 * 4 * 4

    def test_equal_to_separate_runs_also_with_graphs(self, clean):
        module = clean(net())
        model = Model(module)
        inputs = [torch.randn(n, 4) for n in (2, 1, 2)]
        caches = []
        with model.trace() as tracer:
            for x in inputs:
                with tracer.invoke(x):
                    caches.append(tracer.cache(detach=False))
        for x, cache in zip(inputs, caches, strict=True):
            with model.trace(x) as tracer:
                alone = tracer.cache()
            assert set(alone) == set(cache)
            for path in alone:
                assert torch.allclose(alone[path].output, cache[path].output, atol=1e-6)
                assert cache[path].output.requires_grad

    def test_invokes_in_several_runs(self, clean):
        model = Model(clean(net()))
        with model.trace(max_rows=2) as tracer:
            cache = tracer.cache("0")
            for _ in range(2):
                with tracer.invoke(X):
                    pass

        assert len(cache["0"]) == 2


class TestEnds:
    def test_stop(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            cache = tracer.cache()
            model[1].output
            tracer.stop()

        assert list(cache) == ["0", "1"]

    def test_stop_at_a_site_records_the_visit(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            cache = tracer.cache([model[0], model[1]], include_inputs=True)
            model[1].input
            tracer.stop()

        assert list(cache) == ["0", "1"]
        with pytest.raises(NotCachedError):
            cache["1"].output

    def test_an_error_in_the_block(self, clean):
        model = Model(clean(net()))
        with pytest.raises(ZeroDivisionError):
            with model.trace(X) as tracer:
                cache = tracer.cache()
                model[1].output
                1 / 0

        assert list(cache) == ["0"]

    def test_an_error_in_the_model(self, clean):
        model = Model(clean(nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            with model.trace(X) as tracer:
                cache = tracer.cache(include_inputs=True)

        assert list(cache) == ["", "0", "1"]
        assert cache["1"].input.shape == (2, 4)

    def test_kept_without_being_saved(self, clean):
        model = Model(clean(net()))
        cache = other = None
        with model.trace(X, keep="saved") as tracer:
            cache = tracer.cache()
            other = 1

        assert other is None
        assert list(cache)[0] == "0"

    def test_runs_leave_nothing(self, clean):
        module = clean(net())
        model = Model(module)
        gc.collect()
        gc.disable()
        try:
            for turn in range(500):
                with model.trace(X) as tracer:
                    cache = tracer.cache(include_inputs=True)
                if turn == 20:
                    before = len(gc.get_objects())
            after = len(gc.get_objects())
        finally:
            gc.enable()

        assert after - before < 50
        assert {} == hooks.HOOKED


class TestReading:
    @pytest.fixture
    def cache(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.attn = nn.Linear(4, 4)
                self.mlp = nn.Linear(4, 4)

            def forward(self, x):
                return self.mlp(self.attn(x))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.transformer = nn.ModuleDict({"h": nn.ModuleList([Block() for _ in range(3)])})
                self.keys = nn.Linear(4, 4)

            def forward(self, x):
                for block in self.transformer.h:
                    x = block(x)
                return self.keys(x)

        model = Model(Net(), rename={"transformer.h": "layers", "attn": "attention"})
        with model.trace(X) as tracer:
            cache = tracer.cache(include_inputs=True)
        return cache

    def test_the_same_value_by_every_way(self, cache):
        value = cache["transformer.h.1.attn"].output
        for way in (
            cache.transformer.h[1].attn.output,
            cache.layers[1].attention.output,
            cache.layers[-2].attn.output,
            cache["layers.1.attention"].output,
            cache["model.transformer.h.1.attn"].output,
            cache.model.transformer.h[1].attn.output,
            cache.transformer["h.1.attn"].output,
            cache.transformer.h[1]["attn"].output,
            cache.layers[0:2][1].attn.output,
        ):
            assert way is value

    def test_it_is_a_dictionary(self, cache):
        assert isinstance(cache, dict)
        assert cache[""].output is cache.output is cache.model.output
        assert "transformer.h.0" in cache
        assert "layers.0.attention" in cache
        assert "layers.7" not in cache
        assert 3 not in cache
        assert cache.get("layers.7", 5) == 5
        assert cache.get("layers.0").output is cache["transformer.h.0"].output
        assert len(cache) == 11 == len(list(cache.items()))
        assert "layers.0.attention" in cache.keys(alias=True)

    def test_a_part_shows_what_is_under_it(self, cache):
        part = cache.layers[0]
        names = ["transformer.h.0", "transformer.h.0.attn", "transformer.h.0.mlp"]

        assert list(part) == list(part.keys()) == names
        assert len(part) == 3 == len(part.values()) == len(part.items())
        assert "attn" in part
        assert "transformer.h.0.attn" in part
        assert part == cache.transformer.h[0]
        assert part != cache.layers[1]
        assert hash(part) == hash(cache.transformer.h[0])

    def test_a_name_that_a_dictionary_has(self, cache):
        assert callable(cache.keys)
        assert cache["keys"].output is cache.output or torch.equal(
            cache["keys"].output, cache.output
        )

    def test_what_is_not_there(self, cache):
        with pytest.raises(NotCachedError, match="near: .*transformer.h.1"):
            cache["transformer.h.7"]
        with pytest.raises(KeyError):
            cache["transformer.h.7"]
        with pytest.raises(NotCachedError, match="below it are"):
            cache.transformer.output
        with pytest.raises(NotCachedError):
            cache.layers[7]
        assert not hasattr(cache, "nothing")
        with pytest.raises(NotCachedError, match="it is empty"):
            CacheDict()["x"]

    def test_completion(self, cache):
        assert {"transformer", "layers", "output"} <= set(dir(cache))
        assert {"attn", "mlp", "attention"} <= set(dir(cache.layers[0]))
        assert "transformer.h.0" in cache._ipython_key_completions_()

    def test_repr(self, cache):
        text = repr(cache)

        assert text.startswith("<CacheDict: 11 modules, 704 bytes>")
        assert "  transformer.h.0.attn: Entry(output=float32[2, 4], inputs=" in text
        assert repr(cache.layers[0]).startswith("<CacheView at transformer.h.0: 3 modules, ")
        big = CacheDict({f"m{i}": Entry(X) for i in range(20)})
        assert repr(big).endswith("... 8 more")

    def test_names_of_its_own(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            cache = tracer.cache(rename={"2": "tail"}, alias={"head": "0"})

        assert cache.tail[0].output is cache["2.0"].output
        assert cache.head.output is cache["0"].output
        assert not hasattr(model, "tail")

    def test_read_in_the_block(self, clean):
        model = Model(clean(net()))
        with model.trace(X) as tracer:
            cache = tracer.cache()
            model[2].output
            early = cache["0"].output + 1
            so_far = list(cache)

        assert so_far == ["0", "1", "2.0", "2.1", "2.2"]
        assert torch.equal(early, cache["0"].output + 1)


class TestFiles:
    def test_pickle_without_the_model(self, clean, tmp_path):
        model = Model(clean(net()), rename={"2": "tail"})
        with model.trace(X) as tracer:
            cache = tracer.cache(include_inputs=True)
        text = pickle.dumps(cache)
        back = pickle.loads(text)

        assert same(back.tail[0].output, cache.tail[0].output)
        assert same(back[0].inputs, cache[0].inputs)
        assert len(text) < 20_000
        path = tmp_path / "cache.pickle"
        path.write_bytes(text)
        program = f"import pickle; print(list(pickle.load(open({str(path)!r}, 'rb'))))"
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.stdout.strip() == repr(list(cache)), run.stderr

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_written_and_read(self, clean, tmp_path, dtype):
        model = Model(clean(Cell()), rename={"step": "cell"})
        with model.trace(X) as tracer:
            cache = tracer.cache(include_inputs=True, dtype=dtype)
        assert cache.save(tmp_path / "cache.safetensors") is cache
        back = CacheDict.load(tmp_path / "cache.safetensors")

        assert list(back) == list(cache)
        assert back.cell.output[1].dtype is dtype
        for path, visits in cache.items():
            assert len(back[path]) == len(visits)
            for mine, theirs in zip(back[path], visits, strict=True):
                assert same(mine.output, theirs.output)
                assert same(mine.inputs, theirs.inputs)
        assert back.nbytes == cache.nbytes

    def test_tensors_are_read_when_asked_for(self, clean, tmp_path):
        with Model(clean(net())).trace(X) as tracer:
            cache = tracer.cache()
        cache.save(tmp_path / "c")
        back = CacheDict.load(tmp_path / "c")

        assert repr(back["0"]) == repr(cache["0"]) == "Entry(output=float32[2, 4])"
        assert not back["0"]._parts()
        assert back["0"].output is back["0"].output
        assert back["0"]._parts()
        assert same(pickle.loads(pickle.dumps(back))["1"].output, back["1"].output)
        with pytest.raises(NotCachedError):
            back["0"].inputs

    def test_structures(self, tmp_path):
        class Cached:
            pass

        value = (
            [X, None, 3, "text", True, 2.5],
            {"a": {"b": X}, 1: (X,), "a/b": X},
            Pair(X, 1),
            Data(X, {"k/0": X}),
            torch.Size([2, 3]),
            torch.float16,
            torch.device("cpu"),
            Cached(),
            X.t(),
        )
        CacheDict({"": Entry(value)}).save(tmp_path / "c")
        back = CacheDict.load(tmp_path / "c").output

        assert same(back, value)
        assert back[0][1:] == [None, 3, "text", True, 2.5]
        assert back[2].first.equal(X) and back[2]["second"] == 1 and "Pair(" in repr(back[2])
        assert back[3].kind == "Data" and not hasattr(back[3], "third")
        assert back[4:7] == (torch.Size([2, 3]), torch.float16, torch.device("cpu"))
        assert isinstance(back[7], Omitted) and repr(back[7]) == "<Cached, not saved>"
        again = CacheDict({"": Entry(back)}).save(tmp_path / "d")
        assert same(CacheDict.load(tmp_path / "d").output, value)
        assert again.nbytes == 8 * X.nbytes

    def test_another_file(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"x": X}, tmp_path / "c")
        with pytest.raises(ValueError, match="holds no cache"):
            CacheDict.load(tmp_path / "c")

    def test_nothing_to_write(self, clean):
        with Model(clean(net())).trace(X) as tracer:
            cache = tracer.cache().save()

        assert cache["0"].output.shape == (2, 4)


def test_sizes():
    from tracekit._vocabulary.recorded import amount

    assert [amount(n) for n in (0, 999, 1500, 2_500_000, 3e9, 4e12)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.5 MB",
        "3.0 GB",
        "4.0 TB",
    ]
