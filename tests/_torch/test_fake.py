"""The fake runner: shapes, dtypes and devices of a real run, without its values."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from families import BEFORE_5, FAMILIES, VOCAB
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tracekit._torch import nocuda
from tracekit._torch.fake import FakeRun
from tracekit._torch.values import tensors
from tracekit.errors import ScanDeviceError, ValueNotKnownError

CUDA = torch.device("cuda", 0)
OLD_TORCH = not hasattr(torch._C, "_ensureCUDADeviceGuardSet") and torch.backends.cuda.is_built()
"""It was built with CUDA, and asks for a GPU where newer ones do without."""


def record(module, call, *, without=()):
    """List what each module gave: (name, [(shape, dtype, device), ...])."""
    log = []

    def hook(name):
        def note(_module, _args, output):
            log.append((name, [(tuple(t.shape), t.dtype, str(t.device)) for t in tensors(output)]))

        return note

    handles = [
        part.register_forward_hook(hook(name))
        for name, part in module.named_modules()
        if not name.startswith(without)
    ]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return log


def fake_record(module, function, args, kwargs, device=None):
    def call():
        with FakeRun(module, device) as fake:
            fake_args, fake_kwargs = fake.inputs(args, kwargs)
            function(*fake_args, **fake_kwargs)

    return record(module, call)


def generation(family):
    inputs = family.inputs()
    inputs.pop("decoder_input_ids", None)
    return {**inputs, "max_new_tokens": 3, "min_new_tokens": 3}


def elsewhere(log, device):
    return [(name, [(shape, dtype, device) for shape, dtype, _ in outs]) for name, outs in log]


@pytest.fixture
def family(request):
    """A family whose modules are called by shapes alone."""
    name = request.param
    if BEFORE_5 and name in ("qwen3moe", "mixtral", "deepseekv3"):
        pytest.skip("experts were modules of their own, called if their router chose them")
    return FAMILIES[name]


class TestFamilies:
    """What every module gives in a fake run is what it gives in a real one, but for the values."""

    @pytest.mark.parametrize("family", FAMILIES, indirect=True)
    def test_forward(self, family):
        module, inputs = family.build(), family.inputs()
        real = record(module, lambda: module(**inputs))

        assert real == fake_record(module, module, (), inputs)
        meta = family.build_on_meta()
        assert real == fake_record(meta, meta, (), inputs)

    @pytest.mark.parametrize(
        "family", [n for n, f in FAMILIES.items() if f.generates], indirect=True
    )
    def test_generate(self, family):
        if family.name == "whisper":
            pytest.skip("whisper's own loop needs the tokens themselves")
        module, inputs = family.build(), generation(family)
        real = record(module, lambda: module.generate(**inputs))

        assert real == fake_record(module, module.generate, (), inputs)
        meta = family.build_on_meta()
        assert real == fake_record(meta, meta.generate, (), inputs)

    @pytest.mark.parametrize("family", FAMILIES, indirect=True)
    def test_on_a_device_that_is_not_there(self, family):
        module, inputs = family.build(), family.inputs()
        real = elsewhere(record(module, lambda: module(**inputs)), str(CUDA))

        assert real == fake_record(module, module, (), inputs, CUDA)
        meta = family.build_on_meta()
        assert real == fake_record(meta, meta, (), inputs, CUDA)

    @pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "t5", "mamba2"], indirect=True)
    def test_generate_on_a_device_that_is_not_there(self, family):
        module, inputs = family.build(), generation(family)
        real = elsewhere(record(module, lambda: module.generate(**inputs)), str(CUDA))

        assert real == fake_record(module, module.generate, (), inputs, CUDA)

    @pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "top_k": 4}])
    def test_other_ways_to_generate(self, options):
        family = FAMILIES["llama"]
        module, inputs = family.build(), {**generation(family), **options}
        real = record(module, lambda: module.generate(**inputs))

        assert real == fake_record(module, module.generate, (), inputs)

    @pytest.mark.parametrize("family", ["mixtral"], indirect=True)
    def test_a_forward_needs_no_guess(self, family):
        module, inputs = family.build(), family.inputs()
        with FakeRun(module) as fake, torch.no_grad():
            module(**inputs)

        assert {} == fake.guesses


class Everything(nn.Module):
    """Cells, convolutions, counters, tied weights, buffers of all kinds."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(3, dtype=torch.long))
        self.register_buffer("scale", torch.ones(8))
        self.plain = torch.ones(8)
        self.calls = 0
        self.log = []

    def forward(self, ids):
        self.calls += 1
        self.log.append(tuple(ids.shape))
        self.last = ids
        self.seen[ids.shape[1] % 3] += 1
        self.scale.mul_(2)
        h = self.embed(ids) * self.plain
        h = self.norm(self.conv(h.transpose(1, 2))).transpose(1, 2) * self.scale
        h, _ = self.lstm(h)
        h, _ = self.gru(h)
        return self.head(h)


def state(module):
    return (
        {name: (id(t), t.clone()) for name, t in module.state_dict(keep_vars=True).items()},
        module.calls,
        list(module.log),
        hasattr(module, "last"),
    )


class TestNothingStays:
    """A fake run leaves the module, its inputs and the random state as they were."""

    @pytest.fixture
    def module(self):
        torch.manual_seed(0)
        return Everything().train()

    def test_module_state(self, module):
        ids = torch.randint(0, 11, (2, 5))
        before = state(module)
        with FakeRun(module) as fake:
            (given,), _ = fake.inputs((ids,), {})
            out = module(given)
            during = module.norm.num_batches_tracked.item(), module.calls, module.seen.sum().item()
        after = state(module)

        assert (1, 1, 1) == during
        assert (2, 5, 11) == out.shape
        assert before[1:] == after[1:]
        assert before[0].keys() == after[0].keys()
        for name, (identity, value) in before[0].items():
            assert identity == after[0][name][0]
            assert torch.equal(value, after[0][name][1])

    def test_module_state_after_an_error(self, module):
        before = state(module)
        with pytest.raises(RuntimeError), FakeRun(module):
            module(torch.zeros(2, 5, dtype=torch.long)) @ torch.zeros(3, 3)

        assert before[1:] == state(module)[1:]
        assert torch.equal(before[0]["seen"][1], module.seen)

    def test_ties_hold_in_the_run(self, module):
        with FakeRun(module):
            assert module.head.weight is module.embed.weight
            assert isinstance(module.head.weight, nn.Parameter)

    def test_inputs(self):
        class Writes(nn.Module):
            def forward(self, ids, x):
                ids.add_(1)
                x.add_(1)
                return x[ids]

        ids, x = torch.tensor([0, 1]), torch.zeros(3)
        with FakeRun(Writes()) as fake:
            args, _ = fake.inputs((ids, x), {})
            Writes()(*args)
            Writes()(ids, x)

        assert [0, 1] == ids.tolist()
        assert [0, 0, 0] == x.tolist()

    def test_random_state(self, module):
        def draw():
            return torch.rand(1).item(), random.random(), np.random.rand()

        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        expected = draw()
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        with FakeRun(module):
            torch.rand(4), torch.randint(0, 9, (4,)), torch.randperm(4)
            random.random(), np.random.rand()

        assert expected == draw()

    def test_gradients(self, module):
        with FakeRun(module):
            loss = module(torch.zeros(2, 5, dtype=torch.long)).sum()
            loss.backward()
            shape = module.embed.weight.grad.shape

        assert (11, 8) == shape
        assert [] == [name for name, p in module.named_parameters() if p.grad is not None]

    def test_the_modes_are_off_again(self, module):
        with FakeRun(module):
            assert not torch.ones(1).untyped_storage().device.type == "cpu"
        x = torch.ones(2) + 1

        assert [2, 2] == x.tolist()

    def test_hooks_stay_with_their_owners(self, module):
        with FakeRun(module):
            handle = module.register_forward_hook(lambda *_: None)

        assert 1 == len(module._forward_hooks)
        handle.remove()

    def test_is_entered_once(self, module):
        with FakeRun(module) as fake, pytest.raises(RuntimeError, match="entered once"):
            fake.__enter__()


class TestNoWeightIsRead:
    def test_on_meta(self):
        with torch.device("meta"):
            module = Everything().eval()
        log = fake_record(module, module, (torch.zeros(2, 5, dtype=torch.long),), {})
        torch.manual_seed(0)
        real = Everything().eval()

        assert log == record(real, lambda: real(torch.zeros(2, 5, dtype=torch.long)))
        assert all(p.is_meta for p in module.parameters())

    def test_weights_too_big_to_hold(self):
        """A layer of two terabytes."""
        module = nn.Linear(2**20, 2**19, device="meta")
        with FakeRun(module) as fake:
            args, _ = fake.inputs((torch.zeros(1, 2**20),), {})

            assert (1, 2**19) == module(*args).shape

    def test_integer_weights_are_weights(self):
        """Quantised weights are as big as others: they are not computed with."""

        class Quantised(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(
                    torch.empty(2**16, 2**16, dtype=torch.int8, device="meta"),
                    requires_grad=False,
                )

            def forward(self, x):
                return x @ (self.weight >> 4).to(x.dtype)

        with FakeRun(Quantised().requires_grad_(False)) as fake:
            (x,), _ = fake.inputs((torch.zeros(1, 2**16, device="meta"),), {})
            out = fake.module(x)

        assert (1, 2**16) == out.shape


ASKING = {
    "item": lambda t: t.sum().item(),
    "bool": lambda t: bool(t.sum()),
    "comparison": lambda t: 1 if t.sum() > 0 else 2,
    "float": lambda t: float(t[0, 0]),
    "int": lambda t: int(t[0, 0]),
    "tolist": lambda t: t.tolist(),
    "numpy": lambda t: t.detach().numpy(),
    "asarray": lambda t: np.asarray(t.detach()),
    "argmax": lambda t: t.argmax().item(),
    "argmax tolist": lambda t: t.argmax(-1).tolist(),
    "argmax numpy": lambda t: t.argmax(-1).numpy(),
    "any": lambda t: (t > 0).any().item(),
    "mask": lambda t: t[t > 0],
    "nonzero": lambda t: t.nonzero(),
    "nonzero of a comparison": lambda t: (t > 0).nonzero(),
    "masked_select": lambda t: t.masked_select(t > 0),
    "equal": lambda t: torch.equal(t, t + 1),
    "allclose": lambda t: torch.allclose(t, t + 1),
    "unique": lambda t: t.unique(),
    "written integer": lambda t: torch.zeros(2, dtype=torch.long).copy_(t[0, :2]).sum().item(),
    "written view": lambda t: _write_a_view(t),
    "format": lambda t: f"{t.sum():.2f}",
}


def _write_a_view(t):
    base = torch.zeros(4, dtype=torch.long)
    base[1:2] = t.argmax()
    return base.tolist()


class TestValues:
    @pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
    def test_a_float_has_none(self, ask):
        module = nn.Linear(4, 3)
        with FakeRun(module) as fake, pytest.raises(ValueNotKnownError, match="does not know"):
            ask(module(fake.inputs((torch.ones(2, 4),), {})[0][0]))

    def test_the_message(self):
        module = nn.Linear(4, 3)
        with FakeRun(module), pytest.raises(ValueNotKnownError) as caught:
            (module(torch.ones(2, 4)).argmax(-1)).tolist()

        assert str(caught.value) == (
            "`.tolist()` needs the value of a tensor, and a scan does not know it\n"
            "  Seen: int64[2]: it follows from floating-point ones\n"
            "  Why:  in a scan floating-point tensors have shapes, dtypes and devices, "
            "but no values\n"
            "  Fix:  use `.shape` here, or run the block with `trace` instead of `scan`\n"
            "  See:  python -m tracekit.errors value-not-known"
        )

    @pytest.mark.parametrize("device", [None, CUDA], ids=["here", "cuda"])
    def test_integers_have_theirs(self, device):
        ids = torch.tensor([[3, 1, 2], [2, 2, 0]])
        with FakeRun(nn.Identity(), device) as fake:
            (given,), _ = fake.inputs((ids,), {})
            mask = given > 1
            picked = given[mask]
            shifted = given.clone()
            shifted[:, 0] = -1
            shifted[1] += 10
            more = torch.arange(3, device=given.device) + given
            seen = [
                given.tolist(),
                mask.tolist(),
                picked.tolist(),
                shifted.tolist(),
                more.tolist(),
                given.max().item(),
                bool(mask.any()),
                mask.sum(-1).tolist(),
                given.unique().tolist(),
            ]
            devices = {t.device for t in (given, mask, picked, shifted, more)}

        real = ids.clone()
        real[:, 0] = -1
        real[1] += 10
        assert seen == [
            ids.tolist(),
            (ids > 1).tolist(),
            ids[ids > 1].tolist(),
            real.tolist(),
            (torch.arange(3) + ids).tolist(),
            3,
            True,
            [2, 2],
            [0, 1, 2, 3],
        ]
        assert devices == {device or torch.device("cpu")}

    def test_a_literal_has_its_own(self):
        with FakeRun(nn.Identity()):
            assert 1.5 == torch.tensor(1.5).item()

    @pytest.mark.parametrize("device", ["cpu", CUDA], ids=["here", "cuda"])
    def test_a_float_that_was_only_filled_has_one(self, device):
        """Masks are made so, and asked whether they hide anything."""
        with FakeRun(nn.Identity()):
            mask = torch.ones(2, 3, device=device)
            known = [mask.bool()[:, None].all().item(), (mask == 0).tolist(), mask.long().tolist()]
            known.append(torch.full((2,), -3.5, device=device).int().tolist())
            mask[0, 1:] = 0
            with pytest.raises(ValueNotKnownError):
                mask.bool().all().item()

        assert [True, [[False] * 3] * 2, [[1] * 3] * 2, [-3, -3]] == known

    def test_shapes_from_masks(self):
        """A mask of integers has a known number of hits, also on a fake tensor."""
        ids = torch.tensor([[3, 1, 2], [2, 2, 0]])
        x = torch.zeros(2, 3, 5)
        with FakeRun(nn.Identity()):
            assert (4, 5) == x[ids > 1].shape
            assert (4,) == x[..., 0].masked_select(ids > 1).shape
            y = x.clone()
            y[ids > 1] = 1.0
            with pytest.raises((RuntimeError, IndexError)):
                y[ids > 1] = torch.zeros(3, 5)


MISTAKES = {
    "shape": lambda h: h + torch.zeros(5, device=h.device),
    "matmul": lambda h: h @ h,
    "dtype": lambda h: h @ torch.zeros(3, 3, dtype=torch.float64, device=h.device),
    "device": lambda h: h + torch.zeros(3, device="cpu" if h.is_cuda else "cuda"),
    "index": lambda h: h[7],
    "index list": lambda h: h[[0, 7]],
    "index tensor": lambda h: h[torch.tensor([0, 7], device=h.device)],
    "gather": lambda h: h.gather(0, torch.full((1, 1), 9, device=h.device)),
    "embedding": lambda h: nn.functional.embedding(torch.tensor([-1], device=h.device), h),
    "axis": lambda h: h.sum(5),
    "assignment": lambda h: h.__setitem__((slice(None), 0), torch.zeros(9, device=h.device)),
    "view": lambda h: h.view(4, 4),
}


@pytest.mark.parametrize("device", [None, CUDA], ids=["here", "cuda"])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found(mistake, device):
    module = nn.Linear(4, 3)
    with FakeRun(module, device) as fake, torch.no_grad():
        hidden = module(fake.inputs((torch.ones(2, 4),), {})[0][0])
        with pytest.raises((RuntimeError, IndexError)):
            mistake(hidden)


INDICES = st.lists(
    st.one_of(
        st.integers(-2, 1),
        st.slices(2),
        st.just(None),
        st.just([0, 1, 1]),
        st.just("mask"),
        st.just("ids"),
    ),
    max_size=4,
)


@settings(deadline=None)
@given(INDICES, st.integers(0, 4))
def test_subscripts_on_a_device_that_is_not_there(items, ellipsis):
    """Subscripts give the shapes that they give here, also where torch cannot do them itself."""
    items = [i for i in items if not (isinstance(i, slice) and (i.step or 1) < 1)]
    if ellipsis < len(items):
        items[ellipsis] = Ellipsis
    x = torch.arange(24.0).reshape(2, 3, 4, 1)

    def result(x, mask, ids):
        index = tuple((mask if i == "mask" else ids) if isinstance(i, str) else i for i in items)
        try:
            got = x[index].shape
            y = x.clone()
            y[index] = 1.0
            y[index] = x[index]
        except (IndexError, RuntimeError, TypeError) as error:
            return type(error)
        return got

    expected = result(x, torch.tensor([True, False]), torch.tensor([0, 1, 0]))
    with FakeRun(nn.Identity(), CUDA) as fake, torch.no_grad():
        given_x, _ = fake.inputs((x, torch.tensor([True, False]), torch.tensor([0, 1, 0])), {})
        found = result(*given_x)

    if isinstance(expected, type):
        assert isinstance(found, type)
    else:
        assert expected == found


def test_eight_billion_parameters():
    """Seconds on a laptop; the weights are never there."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    ids = torch.ones(2, 128, dtype=torch.long)
    with FakeRun(module) as fake, torch.no_grad():
        (given,), _ = fake.inputs((ids,), {})
        logits = module(given).logits

    assert 8e9 < sum(p.numel() for p in module.parameters())
    assert ((2, 128, 128256), torch.device("cpu")) == (tuple(logits.shape), logits.device)
    assert VOCAB < config.vocab_size


class Over(nn.Module):
    """A layer and how it is called on a value of shape (batch, seq, 8)."""

    def __init__(self, make, call):
        super().__init__()
        self.layer = make()
        self.call = call

    def forward(self, x):
        return self.call(self.layer, x)


LAYERS = {
    "linear": (lambda: nn.Linear(8, 8), lambda f, x: f(x)),
    "wide": (lambda: nn.Linear(8, 16), lambda f, x: f(x)[..., ::2]),
    "norm": (lambda: nn.LayerNorm(8), lambda f, x: f(x)),
    "batch norm": (lambda: nn.BatchNorm1d(8), lambda f, x: f(x.transpose(1, 2)).transpose(1, 2)),
    "group norm": (lambda: nn.GroupNorm(2, 8), lambda f, x: f(x.transpose(1, 2)).transpose(1, 2)),
    "conv": (
        lambda: nn.Conv1d(8, 8, 3, padding=1),
        lambda f, x: f(x.transpose(1, 2)).transpose(1, 2),
    ),
    "conv 2d": (lambda: nn.Conv2d(1, 8, 3, padding=1), lambda f, x: f(x.unsqueeze(1)).mean(1)),
    "pool": (lambda: nn.AvgPool1d(2), lambda f, x: x + f(x).repeat_interleave(2, -1)),
    "lstm": (lambda: nn.LSTM(8, 8, batch_first=True), lambda f, x: f(x)[0]),
    "gru": (lambda: nn.GRU(8, 4, bidirectional=True, batch_first=True), lambda f, x: f(x)[0]),
    "rnn cell": (
        lambda: nn.RNNCell(8, 8),
        lambda f, x: torch.stack([f(h) for h in x.unbind(1)], 1),
    ),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda f, x: f(x, x, x)[0],
    ),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda f, x: f(x),
    ),
    "codebook": (lambda: nn.Embedding(8, 8), lambda f, x: f(x.argmax(-1))),
    "routing": (
        lambda: nn.Linear(8, 4),
        lambda f, x: x * f(x).topk(2).values.sum(-1, keepdim=True),
    ),
    "dropout": (lambda: nn.Dropout(0.5), lambda f, x: f(x)),
    "double": (lambda: nn.Identity(), lambda f, x: f(x.double()).float()),
    "in place": (lambda: nn.ReLU(inplace=True), lambda f, x: f(x.clone())),
}


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5),
    st.booleans(),
    st.integers(1, 3),
    st.integers(2, 5),
)
def test_generated_modules(names, training, batch, seq):
    """Shapes, dtypes and devices of the real run, also where there is no weight to read."""

    def build():
        return nn.Sequential(*[Over(*LAYERS[name]) for name in names]).train(training)

    x = torch.randn(batch, seq, 8)
    module = build()
    with torch.device("meta"):
        meta = build()
    fake = fake_record(module, module, (x,), {})
    on_meta = fake_record(meta, meta, (x,), {})
    real = record(module, lambda: module(x))

    assert real == fake
    assert real == on_meta
    if OLD_TORCH and {"attention", "encoder"} & set(names):
        return  # inside these, that torch asks the driver which kernel to take
    assert elsewhere(real, str(CUDA)) == fake_record(meta, meta, (x,), {}, CUDA)


class TestADeviceThatIsNotThere:
    @pytest.fixture
    def run(self):
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        with FakeRun(module) as fake:
            yield module(fake.inputs((torch.ones(2, 4),), {})[0][0])

    def test_all_ways_there(self, run):
        other = torch.zeros(1, device="cuda")
        there = [run.to("cuda"), run.cuda(), run.to(device="cuda"), run.to(other), run.cuda(0)]
        there += [run.to("cuda", torch.float16), run.cuda(non_blocking=True), run.to(CUDA)]

        assert {CUDA} == {tensor.device for tensor in there}
        assert all(tensor.requires_grad for tensor in there)
        assert torch.device("cuda", 1) == run.cuda(1).device
        assert torch.device("cpu") == run.cuda().half().cpu().device

    @pytest.mark.skipif(OLD_TORCH, reason="there a fake parameter cannot be given other data")
    def test_modules_made_on_the_way_are_moved(self, run):
        made = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("cuda", torch.float16)

        assert (CUDA, torch.float16) == (made(run.cuda().half()).device, made[0].weight.dtype)
        assert torch.float64 == nn.Linear(3, 3).to(run.device).double().weight.dtype

    @pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
    def test_gradients_need_the_device(self, run):
        loss = run.cuda().sum()
        with pytest.raises(ScanDeviceError, match="gradients are asked for on a device"):
            loss.backward()
        with pytest.raises(ScanDeviceError):
            torch.autograd.grad(loss, run)

    def test_the_guard_is_gone_after_the_run(self):
        if not nocuda.is_needed():
            pytest.skip("this torch has a guard of its own")
        registry = nocuda._names().registry
        before = registry[1]
        with FakeRun(nn.Identity()), FakeRun(nn.Identity()):
            assert registry[0] == registry[1]

        assert before == registry[1]

    def test_refused_where_no_guard_can_be_had(self, monkeypatch):
        monkeypatch.setattr(nocuda, "is_usable", lambda: False)
        with FakeRun(nn.Identity()):
            with pytest.raises(ScanDeviceError, match="knows none"):
                torch.zeros(2).cuda()
            with pytest.raises(ScanDeviceError):
                torch.zeros(2, device="cuda")
