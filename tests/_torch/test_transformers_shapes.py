"""Blocks on a GPT-2-shaped model of transformers, wrapped as any module, against hooks."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tracekit import Model  # noqa: E402

IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=3,
        n_head=2,
        bos_token_id=0,
        eos_token_id=49,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def hooked(net, change):
    """Run with hand-written hooks: `{path: function of the output}`."""
    handles = [
        net.get_submodule(path).register_forward_hook(
            lambda module, args, out, function=function: function(out)
        )
        for path, function in change.items()
    ]
    try:
        return net(IDS)
    finally:
        for handle in handles:
            handle.remove()


def test_reading_changes_nothing(clean, gpt2):
    clean(gpt2)
    expected = gpt2(IDS).logits
    model = Model(gpt2)
    with model.trace(IDS) as tracer:
        embedded = model.transformer.drop.output
        hidden = [layer.output for layer in model.transformer.h]
        normed = model.transformer.ln_f.output
        logits = model.output.logits
        lens = model.lm_head(model.transformer.ln_f(first(hidden[0])))
        result = tracer.result

    assert torch.equal(logits, expected)
    assert result.logits is logits
    assert embedded.shape == (2, 6, 16)
    assert len(hidden) == 3
    assert torch.equal(gpt2.lm_head(normed), expected)
    assert lens.shape == (2, 6, 50)


def first(value):
    return value[0] if isinstance(value, tuple) else value


def like(value, hidden):
    """What a block gives that returns *value*, with another hidden state."""
    return (hidden, *value[1:]) if isinstance(value, tuple) else hidden


def test_an_edit_equals_a_hook(clean, gpt2):
    clean(gpt2)

    def zero(out):
        first(out)[:, -1] = 0

    expected = hooked(gpt2, {"transformer.h.1": zero}).logits
    model = Model(gpt2)
    with torch.no_grad(), model.trace(IDS):
        first(model.transformer.h[1].output)[:, -1] = 0
        logits = model.output.logits

    assert torch.equal(logits, expected)


def test_patching_between_two_positions(clean, gpt2):
    clean(gpt2)
    model = Model(gpt2)
    with torch.no_grad(), model.trace(IDS):
        mlp = model.transformer.h[0].mlp.output
        model.transformer.h[0].mlp.output = mlp.flip(0)
        logits = model.output.logits

    expected = hooked(gpt2, {"transformer.h.0.mlp": lambda out: out.flip(0)}).logits
    assert torch.equal(logits, expected)


def test_an_edit_shows_in_the_recorded_hidden_states(clean, gpt2):
    gpt2(IDS, output_hidden_states=True)  # transformers installs its hooks once, for good
    clean(gpt2)
    before = [list(module._forward_hooks) for module in gpt2.modules()]
    model = Model(gpt2)
    with torch.no_grad(), model.trace(IDS, output_hidden_states=True):
        out = model.transformer.h[0].output
        model.transformer.h[0].output = like(out, first(out) * 0)
        states = model.output.hidden_states

    assert not states[1].any()
    assert before == [list(module._forward_hooks) for module in gpt2.modules()]


def test_a_call_in_the_block_is_not_recorded(clean, gpt2):
    """The collector of hidden states is a context variable of the model's."""
    clean(gpt2)
    model = Model(gpt2)
    with torch.no_grad(), model.trace(IDS, output_hidden_states=True):
        hidden = first(model.transformer.h[0].output)
        model.transformer.h[2](hidden)
        states = model.output.hidden_states

    assert len(states) == 4


def test_skip_a_layer(clean, gpt2):
    clean(gpt2)
    model = Model(gpt2)
    with torch.no_grad(), model.trace(IDS):
        before = model.transformer.h[0].output
        layer = model.transformer.h[1]
        layer.skip(like(before, layer.input))
        logits = model.output.logits

    gpt2.transformer.h[1].forward = lambda hidden, *_, **__: like(before, hidden)
    try:
        expected = gpt2(IDS).logits
    finally:
        del gpt2.transformer.h[1].forward
    assert torch.equal(logits, expected)


def test_generate(clean, gpt2):
    clean(gpt2)
    model = Model(gpt2)
    with model.trace(IDS, fn="generate", max_new_tokens=4, do_sample=False) as tracer:
        steps = [model.lm_head.output[:, -1].argmax(-1) for _ in tracer.iter[:]]
        ids = tracer.result

    expected = gpt2.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(ids, expected)
    assert torch.equal(torch.stack(steps, 1), expected[:, 6:])


def test_invokes_equal_separate_runs(clean, gpt2):
    clean(gpt2)
    model = Model(gpt2)
    with torch.no_grad(), model.trace() as tracer:
        with tracer.invoke(IDS[:1]):
            clean_hidden = first(model.transformer.h[1].output)
            one = model.output.logits
        with tracer.invoke(IDS[1:]):
            first(model.transformer.h[1].output)[:, -1] = 0
            two = model.output.logits

    torch.testing.assert_close(one, gpt2(IDS[:1]).logits)
    with torch.no_grad(), model.trace(IDS[1:]):
        first(model.transformer.h[1].output)[:, -1] = 0
        alone = model.output.logits
    torch.testing.assert_close(two, alone)
    assert clean_hidden.shape == (1, 6, 16)


def test_fused_kernels_stay_fused(clean):
    """A read of a child must not make torch take another path; the child never runs then."""
    from tracekit import NeverRanError

    torch.manual_seed(0)
    layer = clean(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval())
    model = Model(layer)
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        expected = layer(x)
        with pytest.raises(NeverRanError, match="`model.linear1` did not run"):
            with model.trace(x) as tracer:
                model.linear1.output
        with model.trace(x) as tracer:
            try:
                model.linear1.output
            except NeverRanError:
                result = tracer.result

    assert torch.equal(result, expected)
