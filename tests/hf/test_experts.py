"""Where tokens of a mixture of experts go, against the experts' own arithmetic."""

from __future__ import annotations

import pytest
import torch
from decoders import DECODERS, tokenizer

from tracekit.errors import NoStandardNameError
from tracekit.hf import LanguageModel

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"
MIXTURES = ["qwen2moe", "qwen3moe", "mixtral", "gptoss", "deepseekv3"]


@pytest.fixture(autouse=True)
def _clean(no_residue):
    yield


def built(family):
    module = DECODERS[family].build()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
            if "gate.weight" in name or "router.weight" in name:
                parameter.normal_()
    model = LanguageModel(module, tokenizer())
    if family in MIXTURES and isinstance(model.layers[1].mlp._module.experts, torch.nn.ModuleList):
        pytest.skip("this version of transformers keeps experts as modules of their own")
    return model


def summed(routing):
    """What each expert makes of its tokens, weighted and added up: (tokens, d_model)."""
    made = torch.zeros_like(routing.hidden)
    for expert in range(4):
        tokens = routing.tokens(expert)
        with torch.no_grad():
            out = routing.output(expert)
        weights = (routing.weights * (routing.chosen == expert)).sum(-1)[tokens, None]
        made[tokens] += (out * weights).to(made.dtype)
    return made


@pytest.mark.parametrize("family", MIXTURES)
class TestRouting:
    def test_weighted_outputs_add_up_to_the_layers(self, family):
        model = built(family)
        with torch.no_grad(), model.trace([LONG, SHORT]):
            routing = model.layers[1].mlp.routing
            total = model.layers[1].mlp.experts.output
            given = routing.hidden
        counted = 0
        for expert in range(4):
            tokens = routing.tokens(expert)
            counted += len(tokens)
            assert torch.equal(given[tokens], routing.input(expert))

        assert (16, 2) == routing.chosen.shape == routing.weights.shape
        assert 32 == counted
        torch.testing.assert_close(summed(routing), total.flatten(0, -2))
        assert "<16 tokens, each to 2 experts>" == repr(routing)

    def test_a_knocked_out_expert(self, family):
        """Its weights set to zero, or its output replaced by zeros: the same logits."""
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            plain = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            routing = model.layers[1].mlp.routing
            expert = int(routing.chosen[-1, 0])
            routing.weights[routing.chosen == expert] = 0
            knocked_out = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            mlp = model.layers[1].mlp
            routing = mlp.routing
            zeros = torch.zeros_like(routing.input(expert))
            mlp.experts.output = routing.replaced(mlp.experts.output, {expert: zeros})
            replaced = model.output.logits

        torch.testing.assert_close(knocked_out, replaced, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(plain, replaced, atol=1e-3, rtol=1e-3)

    def test_tokens_sent_elsewhere(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            routing = model.layers[1].mlp.routing
            routing.chosen[:, 0] = 3
            routing.chosen[:, 1] = 2
            total = model.layers[1].mlp.experts.output
            logits = model.output.logits
        assert [3, 2] == routing.chosen[5].tolist()
        torch.testing.assert_close(summed(routing), total.flatten(0, -2))
        assert (1, 8, 97) == logits.shape

    def test_each_invoke_has_its_own(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            alone = model.layers[1].mlp.routing
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(SHORT):
                short = model.layers[1].mlp.routing
                short.weights[:] = 0
            with tracer.invoke(LONG):
                long = model.layers[1].mlp.routing

        assert (8, 2) == short.chosen.shape == long.chosen.shape
        assert torch.equal(alone.chosen, long.chosen)
        torch.testing.assert_close(alone.weights, long.weights, atol=1e-4, rtol=1e-3)


class TestRefusals:
    @pytest.mark.parametrize("family", ["gpt2", "deepseekv3"])
    def test_an_mlp_without_experts(self, family):
        model = built(family)
        with pytest.raises(NoStandardNameError, match="has no experts"):
            model.trace(SHORT).run(lambda: model.layers[0].mlp.routing)

    def test_a_routing_is_not_replaced(self):
        model = built("gptoss")

        def replace():
            model.layers[0].mlp.routing = None

        with pytest.raises(TypeError, match="a routing cannot be replaced; edit it in place"):
            model.trace(SHORT).run(replace)

    def test_experts_that_are_modules(self):
        model = built("gptoss")
        mlp = model.layers[0].mlp._module
        mlp.experts = torch.nn.ModuleList([torch.nn.Linear(32, 32)])
        with pytest.raises(NoStandardNameError) as caught:
            model.trace(SHORT).run(lambda: model.layers[0].mlp.routing)

        assert "its experts are 1 modules of their own" == caught.value.seen
