"""What `validate=True` finds before the first kernel, what it leaves to the run, and when."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F  # noqa: N812 - everybody's name for it
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tracekit import Model, OutOfOrderError, UnknownNameError
from tracekit.errors import ScanMismatchError


class Kernels(TorchDispatchMode):
    """Counts the operations on floats that are really computed."""

    def __init__(self):
        super().__init__()
        self.ran = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(
            leaf.is_floating_point() and not isinstance(leaf, FakeTensor) and not leaf.is_meta
            for leaf in given
        ) and "lift_fresh" not in str(func):
            self.ran.append(func)
        return func(*args, **(kwargs or {}))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x, mask=None):
        hidden = F.gelu(self.up(self.norm(x)))
        return x + self.down(hidden if mask is None else hidden.masked_fill(mask, 0.0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(8, 11)

    def forward(self, ids, mask=None):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x)


@torch.library.custom_op("tracekit_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


IDS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
LONG = torch.long


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(Net().eval())


def hidden(model):
    return model.layers[0].output


def raised(model, block, *args, **kwargs):
    """Give the error of a validated run, after which nothing has been computed."""
    kernels = Kernels()
    with pytest.raises(Exception) as caught, kernels:  # noqa: PT011 - the caller looks at it
        model.trace(*(args or (IDS,)), validate=True, **kwargs).run(lambda: block(model))
    assert [] == kernels.ran
    return caught.value


MISFITS = {
    "index_add": lambda h: h.index_add(1, torch.tensor([9]), h[:, :1]),
    "index_copy": lambda h: h.index_copy(1, torch.tensor([9]), h[:, :1]),
    "index_fill": lambda h: h.index_fill(1, torch.tensor([9]), 0.0),
    "scatter_reduce": lambda h: h.scatter_reduce(1, torch.full((2, 1, 8), 9), h, "sum"),
    "take": lambda h: h.take(torch.tensor([80])),
    "put": lambda h: h.clone().put_(torch.tensor([80]), h[0, 0, :1]),
    "target": lambda h: F.cross_entropy(h.flatten(0, 1), torch.full((10,), 8)),
    "targets of many axes": lambda h: F.cross_entropy(h.mT, torch.full((2, 5), 8)),
    "dtype of targets": lambda h: F.cross_entropy(h[0], torch.zeros(5, dtype=torch.int32)),
    "norm": lambda h: F.layer_norm(h, (8,), torch.ones(8, dtype=torch.double)),
    "group norm": lambda h: F.group_norm(h.mT, 2, torch.ones(8, dtype=torch.double)),
    "complex in place": lambda h: h.mul_(1j),
    "bits": lambda h: h & h,
    "unpacking": lambda h: (lambda one, two: one + two)(*h.unbind(1)),
    "item of a tuple": lambda h: h.unbind(1)[5],
    "item of a shape": lambda h: h.shape[3],
    "keyword": lambda h: torch.softmax(h, dimm=-1),
    "attribute": lambda h: h.softmx(-1),
    "before dispatch": lambda h: h.unflatten(1, (2, 3)),
    "claimed device": lambda h: h.to("cuda") + torch.zeros(8),
    "device of an index": lambda h: h[:, torch.tensor([0], device="cuda")],
    "a layer of one's own": lambda h: nn.Linear(9, 3)(h),
}


@pytest.mark.parametrize("mistake", MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_found_at_its_line(mistake, model):
    error = raised(model, lambda model: mistake(hidden(model)))

    assert isinstance(error, ScanMismatchError)
    assert f"{__file__}:" in error.where
    assert "FakeTensor'" not in str(error)


EDITS = {
    "shape": lambda h: torch.zeros(2, 5, 9),
    "dtype": lambda h: torch.zeros(2, 5, 8, dtype=torch.double),
    "device": lambda h: h.cuda(),
    "kind": lambda h: (h,),
    "nothing": lambda h: None,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_is_written_and_does_not_fit_is_named(edit, model):
    def block(model):
        model.layers[0].output = edit(hidden(model))

    error = raised(model, block)

    assert isinstance(error, ScanMismatchError)
    assert "last edits: model.layers.0.output at" in str(error)


def test_other_mistakes_come_as_themselves(model):
    assert isinstance(raised(model, lambda m: m.layer[0].output), UnknownNameError)
    assert isinstance(raised(model, lambda m: m.layers[0].mlp.output), UnknownNameError)
    assert isinstance(
        raised(model, lambda m: (m.layers[1].output, m.layers[0].output)), OutOfOrderError
    )
    assert isinstance(raised(model, lambda m: 0, mask_=None), ScanMismatchError)
    assert isinstance(raised(model, lambda m: m.head(hidden(m), 1)), ScanMismatchError)
    assert isinstance(raised(model, lambda m: 0, IDS + 6), ScanMismatchError)

    def own(_model):
        message = "mine"
        raise ValueError(message)

    error = raised(model, own)
    assert type(error) is ValueError
    assert isinstance(raised(model, lambda m: {}[hidden(m).shape]), KeyError)


def test_what_only_a_fake_tensor_cannot_do_is_left_to_the_run(model):
    for block in (
        lambda: twice(model.head.output),
        lambda: pickle.dumps(model.head.output.detach()),
        lambda: model.head.output.tolist(),
    ):
        tracer = model.trace(IDS, validate=True)
        tracer.run(block)


def test_the_names_of_a_scope_are_put_back_when_containers_were(model):
    """Names, and what they hold: the second must not be taken for the first."""
    log, last = [], "before"
    with model.trace(IDS, validate=True) as tracer:
        if tracer.validating:
            last = "validating"
        log.append(last)
        model.head.output

    assert (["before"], "before") == (log, last)


def test_a_mistake_is_looked_for_again_when_something_changed(model):
    block = [0]

    def run(ids):
        with model.trace(ids, validate=True):
            hidden(model)[:, block[0]]

    run(IDS)
    block[0] = 5
    with pytest.raises(ScanMismatchError):
        run(IDS)
    block[0] = 4
    with pytest.raises(ScanMismatchError):
        run(IDS[:, :4])
    with model.edit(inplace=True):
        model.layers[1].output = torch.zeros(2, 5, 9)
    with pytest.raises(ScanMismatchError, match="last edits"):
        run(IDS)


def test_functions_are_validated_once(model, monkeypatch):
    from tracekit._vocabulary import scan

    passes = []
    kept = scan.Validating._validate
    monkeypatch.setattr(scan.Validating, "_validate", lambda *args: (passes.append(1), kept(*args)))

    def read(layer):
        model.trace(IDS, validate=True).run(lambda: model.layers[layer].output)

    for layer in (0, 0, 1, 0):
        read(layer)

    assert 2 == len(passes)


def test_max_rows_and_invokes(model):
    def run(index):
        shapes = []
        with model.trace(validate=True, max_rows=2) as tracer:
            for row in (IDS[:1], IDS[1:], IDS):
                with tracer.invoke(row):
                    shapes.append(tuple(model.layers[1].output[:, index].shape))
        return shapes

    kernels = Kernels()
    with pytest.raises(ScanMismatchError), kernels:
        run(5)

    assert [] == kernels.ran
    assert [(1, 8), (1, 8), (2, 8)] == run(4)


def test_a_real_run_in_another_thread(model):
    """A fake run's parameters are those of its own thread."""
    with torch.no_grad():
        expected = model._module(IDS)
    seen = []

    def real():
        with torch.no_grad():
            seen.append(model._module(IDS))
            with model.trace(IDS):
                seen.append(model.output)

    with model.scan(IDS) as tracer:
        model.layers[0].output
        thread = threading.Thread(target=real)
        thread.start()
        thread.join()
        model.layers[1].output
        weight = model.head.weight
        shown = [type(p) for _, p in model._module.named_parameters()]

    assert all(torch.equal(value, expected) for value in seen)
    assert type(weight.data) is FakeTensor
    assert nn.Parameter not in shown
    assert {1} == {record.visits for record in tracer.report().records}
    assert {dict} == {type(part._parameters) for part in model._module.modules()}


class Opaque(nn.Module):
    """Has a kernel that knows no shapes: it cannot be scanned."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(twice(x))


def test_assumed_axes_are_explained(model):
    opaque = Model(nn.Sequential(Opaque(), nn.Linear(8, 2)))
    with opaque.trace() as tracer:
        with tracer.invoke(torch.zeros(1, 8)):
            first = opaque[0].output
        with tracer.invoke(torch.zeros(2, 8)):
            second = opaque[1].output
    assumed = tracer.explain().splitlines()[-1]
    with model.trace() as known:
        with known.invoke(IDS):
            model.layers[0].output
        with known.invoke(IDS):
            pass

    assert ((1, 8), (2, 2)) == (first.shape, second.shape)
    assert assumed == (
        "  assumed   rows along axis 0, as the model cannot be scanned: "
        "model.0.output, model.1.output"
    )
    assert "rows along axis 0" not in known.explain()


def test_a_scan_with_edits_caches_operations_and_gradients(model):
    with model.edit() as (_, calm):
        calm.layers[0].output = calm.layers[0].output * 0.5
    with calm.scan(IDS) as tracer:
        cache = tracer.cache(include_inputs=True)
        gelu = calm.layers[1].source.F_gelu_0.output
        out = calm.layers[1].output
        with calm.output.sum().backward():
            gradient = out.grad
    shapes = {path: tuple(entry.output.shape) for path, entry in cache.items()}

    assert [(2, 5, 16), (2, 5, 8)] == [gelu.shape, gradient.shape]
    assert (2, 5, 11) == shapes[""]
    assert (2, 5, 8) == cache.layers[1].input.shape == shapes["layers.0.norm"]
    assert all(p.grad is None for p in model._module.parameters())


def test_mistakes_about_operations(model):
    def edit(model):
        model.layers[0].source.F_gelu_0.output = torch.zeros(2, 5, 15)

    error = raised(model, edit)
    assert "last edits: model.layers.0.source.F_gelu_0.output at" in str(error)
    assert isinstance(raised(model, lambda m: m.layers[0].source.gelu_9.output), UnknownNameError)
    assert isinstance(
        raised(model, lambda m: m.layers[0].source.F_gelu_0.output[:, 5]), ScanMismatchError
    )


def test_a_scan_without_a_block_and_on_another_device(model):
    assert (2, 5, 11) == model.scan(IDS, trace=False).shape
    with model.scan(IDS, device="cuda:1") as tracer:
        out = model.output

    assert torch.device("cuda", 1) == out.device
    assert "on cuda:1" in tracer.report().records[0].output
    assert torch.device("cpu") == model.head.weight.device


def test_the_forecast_of_a_plain_chain(model):
    """Without gradients two activations live at a time, with them all that are needed again."""
    net = Model(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()))
    with torch.no_grad(), net.scan(torch.zeros(4, 8)) as plain:
        pass
    with net.scan(torch.zeros(4, 8)) as graph:
        pass

    assert 2 * 4 * 8 * 4 == plain.report().peak_bytes
    assert 4 * 8 * 4 * 3 <= graph.report().peak_bytes <= 4 * 8 * 4 * 4
    assert 2 * (8 * 8 + 8) * 4 == plain.report().parameter_bytes


def test_a_model_below_in_the_same_file_is_not_the_block(model):
    class Below(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.second(self.first(x))

    below = Model(Below())

    def block(model):
        model.first.output = torch.zeros(1, 9)

    error = raised(below, block, torch.zeros(1, 8))

    assert "last edits: model.first.output" in str(error)
