"""Attention weights under standard names, against transformers' own and hand-made ones."""

from __future__ import annotations

import pytest
import torch
import transformers
from decoders import DECODERS, tokenizer

from tracekit.errors import NoAttentionWeightsError, NoStandardNameError, WrongModelClassError
from tracekit.hf import LanguageModel

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"
WITH_ATTENTION = sorted(DECODERS.keys() - {"mamba", "mamba2"})


@pytest.fixture(autouse=True)
def _clean(no_residue):
    yield


def built(family, implementation="eager"):
    module = DECODERS[family].build()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model = LanguageModel(module, tokenizer())
    model.set_attn_implementation(implementation)
    return model


@pytest.mark.parametrize("family", WITH_ATTENTION)
class TestEveryFamily:
    def test_the_pattern_is_what_transformers_gives(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG, output_attentions=True):
            patterns = [layer.attn.pattern for layer in model.layers]
            attentions = model.output.attentions

        assert len(attentions) == len(patterns)
        for pattern, expected in zip(patterns, attentions, strict=True):
            assert (1, model.n_heads, 8, 8) == pattern.shape
            assert torch.equal(expected, pattern)

    def test_the_scores_make_the_pattern(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            scores = model.layers[1].attn.scores
            pattern = model.layers[1].attn.pattern

        assert (1, model.n_heads, 8, 8) == scores.shape
        if family == "gptoss":
            # A sink takes its share: a column that is cut off.
            sinks = model._module.model.layers[1].self_attn.sinks.reshape(1, -1, 1, 1)
            scores = torch.cat([scores, sinks.expand(1, -1, 8, 1)], -1)
            torch.testing.assert_close(scores.softmax(-1)[..., :-1], pattern)
        else:
            torch.testing.assert_close(scores.softmax(-1), pattern)

    def test_an_assigned_pattern_is_used(self, family):
        """Each position looks at the first only: each head gives the first position's values."""
        model = built(family)
        first = torch.zeros(1, model.n_heads, 8, 8)
        first[..., 0] = 1
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].attn.pattern = first
            assigned = model.layers[0].attn.output
            logits = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].attn.pattern[:] = first
            edited = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            plain = model.output.logits

        if family != "bloom":
            # Bloom's attention adds the residual stream to what it gives.
            torch.testing.assert_close(assigned[:, :1].expand_as(assigned), assigned)
        assert torch.equal(logits, edited)
        assert not torch.equal(plain, logits)

    def test_assigned_scores_are_used(self, family):
        model = built(family)
        knocked_out = []
        with torch.no_grad(), model.trace(LONG):
            scores = model.layers[0].attn.scores.clone()
            scores[:, 1, :, 0] = torch.finfo(scores.dtype).min
            model.layers[0].attn.scores = scores
            knocked_out.append(model.layers[0].attn.pattern)
            first = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].attn.scores[:, 1, :, 0] = torch.finfo(scores.dtype).min
            knocked_out.append(model.layers[0].attn.pattern)
            second = model.output.logits

        assert torch.equal(*knocked_out)
        assert torch.equal(first, second)
        assert 0 == knocked_out[0][:, 1, 1:, 0].abs().max()
        assert 0 < knocked_out[0][:, 0, 1, 0]


class TestOneFamily:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "falcon", "gptoss"])
    def test_each_invoke_has_its_own(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            expected = model.layers[1].attn.pattern
            logits = model.output.logits
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(SHORT):
                short = model.layers[1].attn.pattern
                model.layers[1].attn.pattern = torch.zeros_like(short)
            with tracer.invoke(LONG):
                long = model.layers[1].attn.pattern
                untouched = model.output.logits

        assert (1, model.n_heads, 8, 8) == short.shape == long.shape
        # 5 pads stand before the 3 tokens; none of these looks at a pad.
        assert 0 == short[:, :, 5:, :5].abs().max()
        torch.testing.assert_close(long, expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(untouched, logits, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("name", ["scores", "pattern"])
    @pytest.mark.parametrize("family", ["gpt2", "llama", "falcon", "falcon-alibi"])
    def test_fused_attention_says_which_switch_to_set(self, family, name):
        model = built(family, "sdpa")
        with pytest.raises(NoAttentionWeightsError, match=f"{name}` is asked for") as caught:
            model.trace(SHORT).run(lambda: getattr(model.layers[0].attn, name))

        assert 'model.set_attn_implementation("eager")' == caught.value.fix
        model.set_attn_implementation("eager")
        with model.trace(SHORT):
            weights = getattr(model.layers[0].attn, name)

        assert (1, 4, 3, 3) == weights.shape

    def test_the_tuple_of_a_fused_attention_holds_none_and_the_error_says_why(self):
        model = built("llama", "sdpa")
        with pytest.raises(AttributeError, match="'NoneType' object has no") as caught:
            with model.trace(SHORT):
                _ = model.model.layers[0].self_attn.output[1].mean()
        with pytest.raises(TypeError, match="'NoneType' object is not") as also:
            with model.trace(SHORT):
                _ = model.output.attentions[0]
        with pytest.raises(AttributeError) as unrelated:
            with model.trace(SHORT):
                _ = model.layers[0].mlp.output
                _ = None.mean()

        for one in (caught, also):
            assert 'model.set_attn_implementation("eager")' in "".join(one.value.__notes__)
        assert "attention" not in "".join(getattr(unrelated.value, "__notes__", []))

    def test_an_implementation_that_this_class_takes_only_when_loaded(self):
        with pytest.raises(WrongModelClassError, match="cannot be switched to 'flash") as caught:
            built("falcon", "flash_attention_2")

        assert 'LanguageModel(..., attn_implementation="flash_attention_2")' == caught.value.fix

    def test_the_projections_can_be_asked_for_first(self):
        model = built("llama")
        with torch.no_grad(), model.trace(LONG):
            attn = model.layers[0].attn
            q, v = attn.q, attn.v
            pattern, z = attn.pattern, attn.z
        # Two query heads share the values of one head.
        values = v.repeat_interleave(2, dim=2)
        made = torch.einsum("bhqk,bkhd->bqhd", pattern, values)

        assert (1, 8, 4, 8) == q.shape
        torch.testing.assert_close(made, z)

    def test_in_each_step_of_a_generation(self):
        model = built("llama")
        shapes = []
        with model.generate(LONG, max_new_tokens=3, min_new_tokens=3) as tracer:
            for _ in tracer.iter[:]:
                shapes.append(tuple(model.layers[1].attn.pattern.shape))

        assert [(1, 4, 8, 8), (1, 4, 1, 9), (1, 4, 1, 10)] == shapes

    def test_on_shapes(self):
        model = built("llama")
        with model.scan(LONG):
            shape = model.layers[1].attn.scores.shape

        assert (1, 4, 8, 8) == shape

    def test_an_attention_function_of_ones_own(self):
        def counted(module, query, key, value, mask, scaling=None, dropout=0.0, **kwargs):
            keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            values = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
            raw = query @ keys.transpose(2, 3) * scaling
            weights = torch.softmax(raw if mask is None else raw + mask, -1)
            return (weights @ values).transpose(1, 2).contiguous(), None

        transformers.AttentionInterface.register("counted", counted)
        try:
            model = built("llama", "counted")
            with torch.no_grad(), model.trace(LONG):
                pattern = model.layers[0].attn.pattern
        finally:
            del transformers.AttentionInterface._global_mapping["counted"]

        torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 4, 8))

    def test_gpt2s_attention_in_single_precision(self):
        module = DECODERS["gpt2"].build()
        for layer in module.transformer.h:
            layer.attn.reorder_and_upcast_attn = True
        model = LanguageModel(module, tokenizer())
        model.set_attn_implementation("eager")
        with torch.no_grad(), model.trace(SHORT, output_attentions=True):
            pattern = model.layers[0].attn.pattern
            attentions = model.output.attentions

        assert torch.equal(attentions[0], pattern)

    def test_gradients_of_a_pattern(self):
        model = built("llama")
        with model.trace(SHORT):
            pattern = model.layers[0].attn.pattern
            loss = model.output.logits.sum()
            with loss.backward():
                gradient = pattern.grad

        assert pattern.shape == gradient.shape
        assert 0 < gradient.abs().max()

    def test_an_attention_without_a_softmax(self):
        module = DECODERS["gpt2"].build()

        class Linear(torch.nn.Module):
            def forward(self, hidden_states, *args, **kwargs):
                return hidden_states, None

        module.transformer.h[0].attn = Linear()
        model = LanguageModel(module, tokenizer())
        with pytest.raises(NoStandardNameError, match="`Linear` has no attention pattern"):
            model.trace(SHORT).run(lambda: model.layers[0].attn.pattern)
