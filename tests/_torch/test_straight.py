"""The straight way of a plain trace: as the long way, and what it keeps is as new."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import tracekit
from tracekit import HeldValueWarning, Model, NeverRanError, OutOfOrderError, TracekitError
from tracekit._bytecode.facts import HAS_MONITORING
from tracekit._runtime import sites
from tracekit._torch import straight
from tracekit._vocabulary.model import ModelTracer

X = torch.tensor([[-1.0, 2.0]])
VARIABLE = contextvars.ContextVar("variable", default="nothing")
BARE = contextvars.ContextVar("bare")


class Net(nn.Module):
    """Calls its layers in order, one of them twice, and changes context variables."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(4)])
        self.act = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, scale=1.0):
        token = VARIABLE.set("model")
        BARE.set("model")
        for layer in self.layers:
            x = self.act(layer(x))
        VARIABLE.reset(token)
        return self.inplace(self.layers[0](x)) * scale


class Straightness:
    """Counts how many blocks went the straight way."""

    def __init__(self, monkeypatch):
        self.count = 0
        whole = straight.enter

        def counted(*args):
            self.count += 1
            done = whole(*args)
            self.count -= not done
            return done

        monkeypatch.setattr(ModelTracer, "straight", staticmethod(counted))


@pytest.fixture
def ways(monkeypatch):
    """Run something on the long way, and several times on the straight one."""

    def run(case):
        monkeypatch.setattr(ModelTracer, "straight", None)
        long = [told(case) for _ in range(3)]
        straightness = Straightness(monkeypatch)
        short = [told(case) for _ in range(4)]
        return long, short, straightness.count

    return run


def told(case):
    """All that can be seen of a run: values, names, errors, warnings, sites, modes, variables."""
    torch.manual_seed(1)
    model = Model(Net())
    seen: dict[str, object] = {}
    context = contextvars.copy_context()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            seen["value"] = context.run(case, model)
        except BaseException as error:
            at = error.__traceback__
            lines = []
            while at is not None:
                lines.append((at.tb_frame.f_code.co_name, at.tb_lineno))
                at = at.tb_next
            error.__traceback__ = None
            seen["error"] = (type(error), str(error), getattr(error, "__notes__", []), lines)
    seen["warnings"] = [(str(each.message), each.lineno) for each in caught]
    seen["modes"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    seen["variables"] = {
        variable.name: value for variable, value in context.items() if variable in (VARIABLE, BARE)
    }
    seen["forwards"] = [
        name for name, each in model._module.named_modules() if "forward" in vars(each)
    ]
    seen["shapes"] = dict(model._tree.shapes)
    return plain(seen)


def plain(value):
    if isinstance(value, torch.Tensor):
        return ("tensor", value.detach().tolist(), value.requires_grad, value.is_inference())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def reads(model):
    with torch.no_grad(), model.trace(X) as tracer:
        first = model.layers[0].output
        third = model.layers[2].output
    return first, third, tracer.visited, repr(tracer)


def reads_with_gradients(model):
    with model.trace(X):
        hidden = model.layers[1].output
        hidden.retain_grad()
        out = model.output
    out.sum().backward()
    return hidden, hidden.grad


def every_layer_in_a_loop(model):
    kept = []
    with torch.no_grad(), model.trace(X) as tracer:
        for layer in model.layers:
            kept.append(layer.output.mean())
        result = tracer.result
    return kept, result, tracer.visited


def names_are_bound_changed_and_unbound(model):
    kept, gone, never = "kept", "gone", None
    with model.trace(X) as tracer:
        kept = [kept, model.layers[0].output]
        del gone
        if not kept:
            never = 1
    names = sorted(locals())
    return kept, never, names, tracer is not None


def unbound_before(model):
    with model.trace(X):
        if model.layers[0].output.sum() > 1e9:
            late = 1
    return "late" in locals()


def a_cell_is_shared(model):
    total = 0

    def add(value):
        nonlocal total
        total += float(value)

    with torch.no_grad(), model.trace(X):
        add(model.layers[0].output.sum())
        add(model.layers[3].output.sum())
        total += 1
    return total


def a_helper_asks(model):
    def mean(node):
        return node.output.mean()

    with torch.no_grad(), model.trace(X):
        values = [mean(model.layers[at]) for at in (0, 1, 3)]
    return values


def inputs_and_arguments(model):
    with torch.no_grad(), model.trace(X, scale=2.0) as tracer:
        given = model.layers[1].input
        all_given = model.layers[2].inputs
        given_to_all = tracer.result
    return given, all_given, given_to_all


def replaces(model):
    with torch.no_grad(), model.trace(X) as tracer:
        model.layers[1].output = torch.zeros(1, 2)
        after = model.layers[2].input
        result = tracer.result
    return after, result, tracer.visited


def edits_in_place(model):
    with torch.no_grad(), model.trace(X) as tracer:
        model.layers[1].output[:] = 0
        after = model.layers[2].input
        result = tracer.result
    return after, result


def edits_too_late(model):
    with torch.no_grad(), model.trace(X):
        hidden = model.layers[1].output
        model.layers[2].output
        hidden[:] = 0
    return hidden


def overwritten_by_the_model(model):
    with torch.no_grad(), model.trace(X):
        model.layers[3].output
        held = model.inplace.input
    return held


def skips(model):
    with torch.no_grad(), model.trace(X) as tracer:
        model.layers[1].skip(torch.ones(1, 2))
        result = tracer.result
    return result, tracer.visited


def the_second_visit(model):
    with torch.no_grad(), model.trace(X):
        model.act.output
        again = model.act.output
        other = model.layers[0].output
    return again, other


def stops(model):
    with torch.no_grad(), model.trace(X) as tracer:
        hidden = model.layers[1].output
        tracer.stop()
        never = model.layers[2].output
    return hidden, "never" in locals(), tracer.visited


def raises_before_the_first(model):
    before = 1
    with model.trace(X):
        before = 2
        raise KeyError(before)


def raises_in_the_block(model):
    with torch.no_grad(), model.trace(X):
        hidden = model.layers[1].output
        hidden @ torch.ones(3, 3)


def raises_stop_iteration(model):
    with torch.no_grad(), model.trace(X):
        model.layers[1].output
        next(iter(()))


def the_model_raises(model):
    with torch.no_grad(), model.trace(torch.ones(1, 3)):
        model.act.output


def the_block_catches_the_models_error(model):
    with torch.no_grad(), model.trace(torch.ones(1, 3)):
        try:
            model.act.output
        except RuntimeError as error:
            seen = type(error)
        told_too = seen
    return seen, told_too


def out_of_order(model):
    with torch.no_grad(), model.trace(X):
        model.layers[2].output
        model.layers[1].output


def out_of_order_is_caught(model):
    with torch.no_grad(), model.trace(X):
        model.layers[2].output
        try:
            model.layers[1].output
        except OutOfOrderError:
            missed = True
        last = model.layers[3].output
    return missed, last


def never_runs(model):
    with torch.no_grad(), model.trace(X):
        model.unused.output


def no_such_module(model):
    with model.trace(X):
        model.lairs[0].output


def steps(model):
    kept = []
    with torch.no_grad(), model.trace(X) as tracer:
        kept.append(model.layers[1].output)
        for call in model.act.iter[:]:
            kept.append((call, model.act.output))
    return kept, tracer.visited


def caches(model):
    with torch.no_grad(), model.trace(X) as tracer:
        model.layers[0].output
        cache = tracer.cache()
        model.layers[1].output
    return {path: entry.output for path, entry in cache.items()}


def turns_gradients_off(model):
    with model.trace(X):
        torch.set_grad_enabled(False)
        inside = model.layers[1].output
        again = torch.is_grad_enabled()
        other = model.layers[2].output
    left = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return inside, again, other, left


def under_inference_mode(model):
    with torch.inference_mode(), model.trace(X):
        inside = model.layers[1].output
    return inside


def inference_mode_in_the_block(model):
    with model.trace(X):
        with torch.inference_mode():
            inside = model.layers[1].output
            made = inside * 2
        outside = model.layers[2].output
    return inside, made, outside


def autocast_in_the_block(model):
    with torch.no_grad(), model.trace(X):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.layers[1].output
            made = hidden @ torch.ones(2, 2)
        other = model.layers[2].output
    return hidden, str(made.dtype), str(other.dtype)


def sets_a_variable(model):
    with torch.no_grad(), model.trace(X):
        VARIABLE.set("block")
        model.layers[1].output
        seen = VARIABLE.get()
        VARIABLE.set("later")
        model.layers[2].output
        seen_later = VARIABLE.get()
    return seen, seen_later, VARIABLE.get()


def reads_a_variable(model):
    with torch.no_grad(), model.trace(X):
        seen = [VARIABLE.get()]
        for layer in model.layers:
            layer.output
            seen.append(VARIABLE.get())
    return seen, VARIABLE.get(), BARE.get()


def a_variable_is_set_and_reset(model):
    with torch.no_grad(), model.trace(X):
        token = VARIABLE.set("block")
        model.layers[1].output
        VARIABLE.reset(token)
        model.layers[2].output
        seen = VARIABLE.get()
    return seen


def calls_a_module(model):
    with torch.no_grad(), model.trace(X):
        hidden = model.layers[1].output
        other = model.unused(hidden)
        hooked = model.layers[0](hidden)
    return other, hooked


def traces_another(model):
    other = Model(nn.Sequential(nn.Tanh(), nn.Tanh()))
    with torch.no_grad(), model.trace(X):
        hidden = model.layers[1].output
        with other.trace(hidden):
            inner = other[0].output
        after = model.layers[2].output
    return inner, after


def waits_for_nobody(model):
    with torch.no_grad(), model.trace(X) as tracer:
        model.layers[0].output
        tracer.barrier(2)()


def the_root_itself(model):
    with torch.no_grad(), model.trace(X):
        given = model.input
        out = model.output
    return given, out


def a_part_is_traced(model):
    with torch.no_grad(), model.layers[1].trace(X) as tracer:
        out = model.layers[1].output
    return out, tracer.visited


def nothing_is_asked(model):
    with torch.no_grad(), model.trace(X) as tracer:
        made = 1
    return made, tracer.visited, repr(tracer)


def what_the_frame_shows(model):
    with torch.no_grad(), model.trace(X):
        before = sorted(locals())
        hidden = model.layers[1].output
        after = (sorted(vars()), sorted(dir()), eval("before is not None"))
    return before, after, hidden


AT_MODULE_LEVEL = """
kept, gone = [], 1
with torch.no_grad(), model.trace(X) as tracer:
    for layer in model.layers:
        kept.append(layer.output.mean())
    late = model.inplace.output
    del gone
    total = sum(float(each) for each in kept)
names = sorted(name for name in globals() if not name.startswith("__"))
"""

IN_A_CLASS = """
class Made:
    before = 1
    with torch.no_grad(), model.trace(X):
        first = model.layers[0].output
        before += 1
    after = first
names = sorted(name for name in vars(Made) if not name.startswith("__"))
kept = (Made.first, Made.before)
"""

FAILS_HALF_WAY = """
kept = None
try:
    with torch.no_grad(), model.trace(X):
        kept = model.layers[0].output
        more = kept @ torch.ones(3, 3)
except RuntimeError as error:
    names = (sorted(name for name in globals() if not name.startswith("__")), str(error))
"""


def executed(text):
    code = compile(text, "<text>", "exec")

    def case(model):
        space = {"model": model, "torch": torch, "X": X}
        exec(code, space)
        return space["kept"], space["names"], space.get("total")

    return case


at_module_level = executed(AT_MODULE_LEVEL)
at_module_level.__name__ = "at_module_level"
in_a_class = executed(IN_A_CLASS)
in_a_class.__name__ = "in_a_class"
fails_half_way = executed(FAILS_HALF_WAY)
fails_half_way.__name__ = "fails_half_way"

CASES = [
    reads, reads_with_gradients, every_layer_in_a_loop, names_are_bound_changed_and_unbound,
    unbound_before, a_cell_is_shared, a_helper_asks, inputs_and_arguments, replaces,
    edits_in_place, edits_too_late, overwritten_by_the_model, skips, the_second_visit, stops,
    raises_before_the_first, raises_in_the_block, raises_stop_iteration, the_model_raises,
    the_block_catches_the_models_error, out_of_order, out_of_order_is_caught, never_runs,
    no_such_module, steps, caches, turns_gradients_off, under_inference_mode,
    inference_mode_in_the_block, autocast_in_the_block, sets_a_variable, reads_a_variable,
    a_variable_is_set_and_reset, calls_a_module, traces_another, waits_for_nobody, the_root_itself,
    a_part_is_traced, nothing_is_asked, at_module_level, in_a_class, fails_half_way,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_as_the_long_way(ways, case):
    long, short, count = ways(case)

    assert count >= len(short)
    assert [long[0]] * len(short) == short
    assert long[0] == long[1] == long[2]


def test_what_shows_all_names_goes_the_long_way(ways):
    long, short, count = ways(what_the_frame_shows)

    assert count == 0
    assert long[:1] * 4 == short


def contexts(error):
    found = []
    while error is not None:
        found.append(type(error))
        error = error.__context__
    return found


def test_the_context_of_an_error_is_as_inline(clean):
    model = Model(clean(Net()))

    def raises(traced):
        try:
            raise KeyError
        except KeyError:
            if traced:
                with torch.no_grad(), model.trace(X):
                    try:
                        {}.missing
                    finally:
                        model.layers[1].output
                        [][1]
            try:
                {}.missing
            finally:
                [][1]

    found = []
    for traced in (False, True, True):
        with pytest.raises(IndexError) as caught:
            raises(traced)
        found.append(contexts(caught.value))

    assert found == [[IndexError, AttributeError, KeyError]] * 3


def test_the_context_of_a_models_error_is_as_inline(clean):
    net = Net()
    model = Model(clean(net))
    found = []
    for call in (net, lambda x: model.trace(x).run(lambda: model.act.output), net):
        try:
            raise KeyError
        except KeyError:
            with pytest.raises(RuntimeError) as caught:
                call(torch.ones(1, 3))
        found.append(contexts(caught.value))

    assert found == [[RuntimeError, KeyError]] * 3


def leaves(model):
    with model.trace(X):
        return model.act.output


def entered_twice(model):
    tracer = model.trace(X)
    with tracer:
        first = 1
    with tracer:
        first = 2
    return first


def entered_by_hand(model):
    return model.trace(X).__enter__()


def an_input_that_does_not_fit(model):
    with model.trace("text"):
        model.act.output


@pytest.mark.parametrize(
    "case",
    [leaves, entered_twice, entered_by_hand, an_input_that_does_not_fit, raises_in_the_block],
    ids=lambda case: case.__name__,
)
def test_no_frame_of_ours_is_shown(case):
    model = Model(Net())
    for _ in range(3):
        with pytest.raises((TracekitError, RuntimeError, TypeError)) as caught:
            case(model)
        shown = [Path(entry.path) for entry in caught.traceback[1:]]

        assert Path(__file__) in shown
        assert not [path for path in shown if PACKAGE in path.parents]


PACKAGE = Path(tracekit.__file__).parent


LASTING = (sets_a_variable, reads_a_variable)
"""They set a variable for good."""


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in LASTING], ids=lambda case: case.__name__
)
def test_the_second_run_of_one_model(monkeypatch, case):
    """What is remembered of the model's tree changes nothing."""
    model = Model(Net())
    straightness = Straightness(monkeypatch)

    def result():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = contextvars.copy_context().run(case, model)
            except Exception as error:
                value = (type(error), str(error))
        return plain([value, [(str(each.message), each.lineno) for each in caught]])

    results = [result() for _ in range(4)]

    assert straightness.count >= 4
    assert [results[0]] * 4 == results


def everything(run):
    """The state of the objects of a run, deep enough to tell used from new."""
    parts = {
        "run": run, "interleaver": run.interleaver, "worker": run.worker, "body": run.body,
        "modes": run.modes, "held": run.held, "at_site": run.at_site,
    }  # fmt: skip
    state = {}
    for part, thing in parts.items():
        names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
        names |= set(getattr(thing, "__dict__", ()))
        for name in sorted(names - {"__weakref__", "__dict__"}):
            value = getattr(thing, name, "missing")
            shown = value
            if value is not None and any(value is each for each in parts.values()):
                shown = next(key for key, each in parts.items() if each is value)
            elif isinstance(value, list | dict | set):
                shown = ["worker" if each is run.worker else each for each in value]
            state[f"{part}.{name}"] = shown
    return state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_is_used_again_is_as_new(monkeypatch, case):
    model = Model(Net())
    kept = []
    put_by = straight.StraightRun.put_by

    def watched(self, block):
        put_by(self, block)
        if block.spares:
            kept.append((everything(block.spares[-1]), everything_new(block)))

    def everything_new(block):
        new = straight._fresh(model._tree, case.__code__, block)
        # What every run sets before it is looked at.
        new.tree = None
        new.modes.context = straight.NO_CONTEXT
        return everything(new)

    monkeypatch.setattr(straight.StraightRun, "put_by", watched)
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                contextvars.copy_context().run(case, model)
            except Exception:
                continue

    set_each_time = {
        "run.base", "run.once", "run.grad", "modes.grad", "modes.inference",
        "interleaver.owners", "at_site.key", "at_site.visit", "body.filename", "body.name",
    }  # fmt: skip
    for used, new in kept:
        differ = {name for name in new if used.get(name) != new[name]} - set_each_time
        assert differ == set()
    assert kept or case not in (reads, a_helper_asks, the_root_itself, nothing_is_asked)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_nothing_keeps_a_value_alive():
    model = Model(Net())
    for _ in range(3):
        with torch.no_grad(), model.trace(X) as tracer:
            hidden = model.layers[1].output
        there = weakref.ref(hidden)
        del hidden

        assert there() is None
    assert "0 tensors" in repr(tracer)


@pytest.mark.usefixtures("no_collector")
def test_nothing_keeps_the_model_alive():
    model = Model(Net())
    there = weakref.ref(model._module)
    for _ in range(3):
        with torch.no_grad(), model.trace(X):
            hidden = model.layers[1].output
    del model

    assert there() is None
    assert hidden is not None


@pytest.mark.usefixtures("no_collector")
def test_an_old_value_of_a_name_is_dropped():
    model = Model(Net())
    for _ in range(3):
        name = torch.zeros(2)
        there = weakref.ref(name)
        with torch.no_grad(), model.trace(X):
            name = model.layers[1].output

        assert there() is None
    assert name.shape == (1, 2)


def test_code_that_is_gone_leaves_nothing():
    model = Model(Net())
    space = {"model": model, "X": X}
    exec("def f():\n with model.trace(X):\n  h = model.act.output\n return h", space)
    for _ in range(2):
        space["f"]()
    code = weakref.ref(space["f"].__code__)
    blocks = [weakref.ref(b.twin) for b in sites.SITES[id(space["f"].__code__)].blocks.values()]
    gc.collect()
    gc.disable()
    try:
        del space["f"]

        assert code() is None
        assert [each() for each in blocks] == [None]
    finally:
        gc.enable()


class Telling(ModelTracer):
    """Does something of its own."""

    calls = 0

    def execute(self, body):
        type(self).calls += 1
        return super().execute(body)


class Quiet(ModelTracer):
    """Adds something, and does nothing else."""

    extra = 1


def test_a_class_that_does_something_of_its_own():
    model = Model(Net())
    for _ in range(3):
        with model.trace(X, tracer_cls=Telling):
            hidden = model.layers[1].output

    assert Telling.calls == 3
    assert Telling.straight is None
    assert Quiet.straight is not None
    assert hidden.shape == (1, 2)


def test_a_model_that_prepares_its_input():
    class Doubling(Model):
        def _prepare(self, function, args, kwargs):
            return tuple(2 * each for each in args), kwargs

    model = Doubling(Net())
    for _ in range(3):
        with model.trace(X):
            given = model.layers[0].input

        assert torch.equal(given, 2 * X)


class TestTheModelChanges:
    """Between two runs of one block."""

    @staticmethod
    def read(model):
        with torch.no_grad(), model.trace(X):
            hidden = model.layers[1].output
            other = model.layers[2].output
        return hidden, other

    def test_a_module_is_replaced(self, clean):
        net = Net()
        model = Model(clean(net))
        before = [self.read(model) for _ in range(3)][-1]
        net.layers[1] = nn.Identity()
        after = [self.read(model) for _ in range(3)]

        given = net.act(net.layers[0](X))
        assert not torch.equal(before[0], given)
        assert all(torch.equal(hidden, given) for hidden, _ in after)

    def test_a_list_is_replaced(self, clean):
        net = Net()
        model = Model(clean(net))
        self.read(model)
        net.layers = nn.ModuleList([nn.Identity() for _ in range(4)])

        assert torch.equal(self.read(model)[1], net.act(X))
        assert torch.equal(self.read(model)[0], net.act(X))

    def test_a_forward_is_patched_on_the_object(self, clean):
        net = Net()
        model = Model(clean(net))
        self.read(model)
        net.layers[1].forward = lambda x: x + 1
        hidden = [self.read(model)[0] for _ in range(2)]
        del net.layers[1].forward
        given = net.act(net.layers[0](X))

        assert all(torch.equal(each, given + 1) for each in hidden)
        assert torch.equal(self.read(model)[0], net.layers[1](given))

    def test_a_forward_is_patched_on_the_class(self, clean, monkeypatch):
        net = Net()
        model = Model(clean(net))
        self.read(model)
        monkeypatch.setattr(nn.Linear, "forward", lambda _self, x: x + 1)

        assert torch.equal(self.read(model)[0], net.act(X + 1) + 1)
        assert torch.equal(self.read(model)[0], net.act(X + 1) + 1)

    def test_a_hook_is_registered(self, clean):
        net = Net()
        model = Model(clean(net))
        plain_value = self.read(model)[0]
        handle = net.layers[1].register_forward_hook(lambda _module, _args, output: output + 1)
        hooked = [self.read(model)[0] for _ in range(2)]
        handle.remove()

        assert all(torch.equal(each, plain_value + 1) for each in hooked)
        assert torch.equal(self.read(model)[0], plain_value)

    def test_it_is_edited(self, clean):
        model = Model(clean(Net()))
        before = self.read(model)[1]
        with model.edit(inplace=True):
            model.layers[1].output[:] = 7
        edited = [self.read(model)[1] for _ in range(2)]
        model.clear_edits()

        assert all(not torch.equal(each, before) for each in edited)
        assert torch.equal(self.read(model)[1], before)

    def test_it_is_read_by_two_blocks(self, clean):
        model = Model(clean(Net()))
        for _ in range(3):
            hidden, _ = self.read(model)
            with torch.no_grad(), model.trace(X):
                other = model.layers[2].output
                third = model.layers[3].output

            assert hidden.shape == other.shape == third.shape


@pytest.mark.skipif(HAS_MONITORING, reason="opcodes are traced on 3.11 alone")
def test_the_frame_is_left_as_it_was_found():

    model = Model(Net())
    frame = sys._getframe()
    for _ in range(3):
        with model.trace(X):
            hidden = model.layers[1].output

        assert (frame.f_trace, frame.f_trace_lines, frame.f_trace_opcodes) == (None, True, False)
        assert sys.gettrace() is None
    assert hidden is not None


def test_warnings_of_held_values_are_given_again():
    model = Model(Net())
    for _ in range(3):
        with pytest.warns(HeldValueWarning, match="overwritten in place"):
            overwritten_by_the_model(model)


@pytest.mark.usefixtures("no_collector")
def test_nothing_keeps_what_was_written_or_given():
    for count in range(3):
        model = Model(Net())
        there = weakref.ref(model._module)
        given = torch.ones(1, 2)
        written = torch.zeros(1, 2)
        alive = [weakref.ref(given), weakref.ref(written)]
        with torch.no_grad(), model.trace(given):
            model.layers[1].output = written
        del model, given, written

        assert there() is None, count
        assert [each() for each in alive] == [None, None], count


@pytest.mark.usefixtures("no_collector")
def test_two_that_run_one_block_at_once_leave_nothing():
    """The second one finds that the objects of the first have been kept already."""

    class Meanwhile:
        def __del__(self):
            ended.append(read([None]))

    def read(given):
        model = Model(Net())
        there = weakref.ref(model._module)
        hidden = given.pop()
        with torch.no_grad(), model.trace(X):
            hidden = model.layers[1].output
        return there, hidden

    for _ in range(3):
        ended = []
        ended.append(read([Meanwhile()]))

        assert [there() for there, _ in ended] == [None, None]


class Around(nn.Module):
    """Holds a module that is called outside of it, too."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(self.act(x))


class Sharing(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()
        self.between = nn.Linear(2, 2)
        self.around = Around(self.act)

    def forward(self, x):
        return self.around(self.around(self.between(self.act(x))))


def test_the_model_stands_at_a_shared_module_inside_the_one_asked_for():
    model = Model(Sharing())
    for _ in range(3):
        with torch.no_grad(), model.trace(X):
            model.act.output
            whole = model.around.output
        with torch.no_grad(), model.trace(X), pytest.raises(NeverRanError, match="is running"):
            model.act.output
            model.between.output
            model.act.output
            model.around.output

        assert whole.shape == (1, 2)


def test_a_class_that_makes_another_forward_each_time():
    class Chosen:
        def __get__(self, module, cls=None):
            return self if module is None else getattr(module, module.mode)

    class Choosing(nn.Module):
        forward = Chosen()
        mode = "once"

        def once(self, x):
            return x

        def twice(self, x):
            return 2 * x

    net = nn.Sequential(Choosing(), nn.Identity())
    model = Model(net)
    for mode, factor in (("once", 1), ("once", 1), ("twice", 2), ("once", 1)):
        net[0].mode = mode
        with torch.no_grad(), model.trace(X):
            hidden = model[0].output

        assert torch.equal(hidden, factor * X)


def test_what_a_block_binds_may_hold_itself():
    model = Model(Net())
    for _ in range(3):
        with torch.no_grad(), model.trace(X) as tracer:
            kept = [model.layers[1].output]
            kept.append(kept)
            table = {"kept": kept}
            table["table"] = table

        assert "in 1 tensor>" in repr(tracer) or "in 2 tensors>" in repr(tracer)
    assert table["kept"][1] is kept


@pytest.mark.usefixtures("quick_switches")
def test_threads_trace_one_model_at_once():
    model = Model(Net())
    with torch.no_grad():
        expected = [model.act(model.layers[0](X * at)) for at in range(4)]
    wrong: list[object] = []

    def work(at):
        for _ in range(60):
            try:
                with torch.no_grad(), model.trace(X * at):
                    first = model.act.output
                    model.layers[2].output
                if not torch.equal(first, expected[at]):
                    wrong.append((at, first))
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert not any("forward" in vars(each) for each in model._module.modules())
