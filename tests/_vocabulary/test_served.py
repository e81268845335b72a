"""Served values: views of ports with a way back, on nodes of classes by type or by path."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tracekit
from tracekit import Model

X = torch.linspace(-1.0, 1.0, 16).reshape(2, 8)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 8)
        self.n_heads = 2

    def forward(self, x, scale=1.0):
        return self.qkv(x) * scale, None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attn(x)[0])


class Heads(tracekit.Model):
    """The heads of an attention."""

    @tracekit.served("output")
    def heads(self, value):
        """One row for each head."""
        return value[0].unflatten(-1, (self.n_heads, -1))

    @heads.writer
    def heads(self, value, heads):
        return (heads.flatten(-2), *value[1:])

    @tracekit.served("output")
    def copied(self, value):
        return value[0].unflatten(-1, (self.n_heads, -1)).transpose(0, 1).contiguous()

    @copied.writer
    def copied(self, value, heads):
        value[0].copy_(heads.transpose(0, 1).flatten(-2))

    @tracekit.served("output")
    def read_only(self, value):
        return value[0] * 1

    @tracekit.served("input")
    def doubled(self, value):
        return value * 2

    @doubled.writer
    def doubled(self, value, doubled):
        return doubled / 2

    @tracekit.served("inputs")
    def options(self, value):
        return value[1]

    @options.writer
    def options(self, value, options):
        return value[0], options


def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def pair(clean):
    module = clean(net())
    return module, Model(module, wrappers={Attention: Heads})


def with_heads(module, change):
    heads = module.attn.qkv(X).unflatten(-1, (2, -1)).clone()
    heads = change(heads)
    return module.head(heads.flatten(-2))


class TestViews:
    def test_read(self, pair):
        module, model = pair
        with model.trace(X):
            heads = model.attn.heads
            again = model.attn.heads
        assert heads.shape == (2, 2, 4)
        assert again is heads
        assert torch.equal(heads.flatten(-2), module.attn(X)[0])

    def test_edited_in_place_where_memory_is_shared(self, pair):
        module, model = pair
        with model.trace(X):
            model.attn.heads[:, 1] = 0
            out = model.output

        def change(heads):
            heads[:, 1] = 0
            return heads

        assert torch.equal(out, with_heads(module, change))

    @pytest.mark.parametrize("how", ["ends", "asks", "reads"])
    def test_an_edited_copy_is_put_back(self, pair, how):
        module, model = pair
        with model.trace(X):
            heads = model.attn.copied
            heads[0] = 0
            if how == "reads":
                whole = model.attn.output[0].clone()
                assert model.attn.copied is heads
            if how != "ends":
                out = model.output
        if how == "ends":
            with model.trace(X):
                out = model.output
                # The run before has ended; its edit is not seen here.
            assert torch.equal(out, module(X))
            return

        def change(heads):
            heads[:, 0] = 0
            return heads

        assert torch.equal(out, with_heads(module, change))
        if how == "reads":
            assert torch.equal(whole, with_heads_only(module, change))

    def test_the_block_that_ends_with_the_edit(self, pair):
        module, model = pair
        with model.trace(X) as tracer:
            cache = tracer.cache()
            model.attn.copied[0] = 0
        assert cache.attn.output[0][:, :4].abs().sum() == 0
        assert torch.equal(cache.output, module.head(cache.attn.output[0]))

    def test_later_blocks_see_it(self, pair):
        module, model = pair
        with model.edit() as (tracer, edited):
            edited.attn.copied[0] = 0
        with edited.trace(X):
            seen = edited.attn.output[0].clone()
        assert seen[:, :4].abs().sum() == 0

    def test_edits_after_a_request_elsewhere_in_the_visit(self, pair):
        module, model = pair
        with model.trace(X):
            heads = model.attn.copied
            heads[0] = 0
            model.attn.output
            heads[1] = 0
            out = model.output
        assert torch.equal(out, module.head(torch.zeros(2, 8)))

    def test_assigned(self, pair):
        module, model = pair
        with model.trace(X):
            model.attn.heads = model.attn.heads.flip(1)
            out = model.output
        assert torch.equal(out, with_heads(module, lambda heads: heads.flip(1)))

    @given(number=st.floats(-2, 2), head=st.integers(0, 1), copy=st.booleans())
    def test_equal_to_editing_the_port(self, number, head, copy):
        module = net()
        model = Model(module, wrappers={Attention: Heads})
        with model.trace(X):
            if copy:
                model.attn.copied[head] *= number
            else:
                model.attn.heads[:, head] *= number
            mine = model.output
        with model.trace(X):
            model.attn.output[0][:, 4 * head : 4 * head + 4] *= number
            expected = model.output
        assert torch.allclose(mine, expected)

    def test_of_inputs(self, pair):
        module, model = pair
        with model.trace(X):
            doubled = model.attn.doubled
            model.attn.doubled = X * 4
            model.attn.options = {"scale": 0.5}
            out = model.output
        assert torch.equal(doubled, X * 2)
        assert torch.equal(out, module.head(module.attn(X * 2, scale=0.5)[0]))

    def test_rows_of_invokes(self, pair):
        module, model = pair
        with model.trace() as tracer:
            with tracer.invoke(X[:1]):
                model.attn.copied[0] = 0
                one = model.output
            with tracer.invoke(X):
                shape = model.attn.heads.shape
                two = model.output
        assert shape == (2, 2, 4)
        assert torch.allclose(two, module(X))
        assert not torch.allclose(one, module(X[:1]))

    def test_gradients_flow(self, pair):
        module, model = pair
        with model.trace(X):
            heads = model.attn.heads
            model.attn.heads = heads * 2
            loss = model.output.sum()
        (gradient,) = torch.autograd.grad(loss, heads)
        assert gradient.shape == heads.shape


def with_heads_only(module, change):
    return change(module.attn.qkv(X).unflatten(-1, (2, -1)).clone()).flatten(-2)


class TestErrors:
    def test_no_writer(self, pair):
        _, model = pair
        with pytest.raises(TypeError, match="can be read only"):
            with model.trace(X):
                model.attn.read_only = 1
        with pytest.raises(TypeError, match="`@read_only.writer`"):
            with model.trace(X):
                model.attn.read_only[:] = 1
        with model.trace(X):
            value = model.attn.read_only
        assert value.shape == (2, 8)

    def test_an_error_in_the_view_is_raised_where_it_is_read(self, clean):
        class Wrong(Model):
            @tracekit.served("output")
            def view(self, value):
                raise AttributeError("my own mistake")

        model = Model(clean(net()), wrappers={"head": Wrong})
        with pytest.raises(AttributeError, match="my own mistake"):
            with model.trace(X):
                model.head.view

    def test_outside_of_a_run(self, pair):
        _, model = pair
        assert not hasattr(model.attn, "heads")
        assert isinstance(Heads.heads, tracekit._vocabulary.served.Served)

    def test_an_unknown_port(self):
        with pytest.raises(ValueError, match="output, inputs, input"):
            tracekit.served("weights")(lambda self, value: value)


class TestWrappers:
    @pytest.mark.parametrize("key", [Attention, "attn", "a*", ".attn", nn.Module])
    def test_by_type_or_path(self, clean, key):
        model = Model(clean(net()), wrappers={key: Heads})
        assert type(model.attn) is Heads
        assert type(model.head) is (Heads if key is nn.Module else Model)
        assert type(model) is Model

    def test_types_first_and_the_nearest_class(self, clean):
        class Other(Model):
            pass

        wrappers = {"attn": Other, nn.Module: Model, Attention: Heads, "head": Other}
        model = Model(clean(net()), wrappers=wrappers)
        assert type(model.attn) is Heads
        assert type(model.head) is Model

    def test_by_alias(self, clean):
        model = Model(clean(net()), rename={"attn": "attention"}, wrappers={"attention": Heads})
        assert type(model.attn) is Heads
        assert type(model.attention) is Heads

    def test_one_class_for_all(self, clean):
        model = Model(clean(net()), wrappers=Heads)
        assert type(model.attn.qkv) is Heads

    def test_later(self, clean):
        model = Model(clean(net()))
        assert type(model.attn) is Model
        assert model.use_wrappers({Attention: Heads}) is model
        assert type(model.attn) is Heads
        with model.edit() as (tracer, edited):
            edited.attn.heads[:] = 0
        assert type(edited.attn) is Heads
        assert torch.equal(edited(X), edited._module.head(torch.zeros(2, 8)))

    @pytest.mark.parametrize("wrappers", [{3: Heads}, {"attn": Net}, {int: Heads}])
    def test_what_cannot_be(self, wrappers):
        with pytest.raises(TypeError):
            Model(net(), wrappers=wrappers)

    def test_shown(self, pair):
        _, model = pair
        text = repr(model)
        assert "<heads>: output, One row for each head." in text
        assert "<doubled>: input" in text
        assert "heads" in dir(model.attn)


def test_classes_for_the_modules_of_a_language_model():
    pytest.importorskip("transformers")
    from decoders import DECODERS, tokenizer

    class First(tracekit.Model):
        @tracekit.served("output")
        def hidden(self, value):
            return value[0]

        @hidden.writer
        def hidden(self, value, hidden):
            return (hidden, *value[1:])

    module = DECODERS["gpt2"].build()
    kind = type(module.transformer.h[0].attn)
    for wrappers in ({kind: First}, {"*.attn": First}):
        model = tracekit.LanguageModel(module, tokenizer(), wrappers=wrappers)
        with model.trace("Rome is in"):
            model.transformer.h[0].attn.hidden = 0 * model.transformer.h[0].attn.hidden
            zero = model.transformer.h[0].attn.output[0]
            standard = model.layers[1].attn.output
        assert not zero.any()
        assert standard.shape == zero.shape
