"""Adapters and quantized modules of other packages, where those are installed."""

from __future__ import annotations

import warnings

import pytest
import torch
from decoders import DECODERS, tokenizer

from tracekit.hf import LanguageModel

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    yield


def encoded(text):
    return dict(tokenizer()(text, return_tensors="pt"))


class TestAdapters:
    @pytest.fixture
    def adapted(self):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # The packages deprecate parts of one another.
            warnings.simplefilter("ignore")
            return peft.get_peft_model(DECODERS["llama"].build(), config).eval()

    def test_standard_names_and_values(self, adapted):
        model = LanguageModel(adapted, tokenizer())
        kept = {}
        handle = adapted.base_model.model.model.layers[1].self_attn.register_forward_hook(
            lambda _, args, out: kept.__setitem__("attn", out[0])
        )
        with torch.no_grad():
            expected = adapted(**encoded(LONG)).logits
        handle.remove()
        with torch.no_grad(), model.trace(LONG):
            queries = model.layers[1].attn.q
            hidden = model.layers[1].attn.output
            logits = model.output.logits

        assert "base_model.model.model.layers.1.self_attn" == model.layers[1].attn.path
        assert (1, 8, 4, 8) == queries.shape
        assert torch.equal(kept["attn"], hidden)
        assert torch.equal(expected, logits)

    def test_parts_of_an_adapter_can_be_edited(self, adapted):
        model = LanguageModel(adapted, tokenizer())
        with torch.no_grad(), adapted.disable_adapter():
            expected = adapted(**encoded(SHORT)).logits
        with torch.no_grad(), model.trace(SHORT):
            for layer in model.layers:
                attn = layer.attn
                for name in ("q_proj", "v_proj"):
                    getattr(attn, name).lora_B.default.output = torch.zeros(
                        getattr(attn, name).base_layer.output.shape
                    )
            logits = model.output.logits

        torch.testing.assert_close(expected, logits)

    def test_patterns_and_a_generation(self, adapted):
        model = LanguageModel(adapted, tokenizer())
        model.set_attn_implementation("eager")
        expected = adapted.generate(**encoded(LONG), max_new_tokens=3, min_new_tokens=3)
        shapes = []
        with model.generate(LONG, max_new_tokens=3, min_new_tokens=3) as tracer:
            for _ in tracer.iter[:]:
                shapes.append(model.layers[0].attn.pattern.shape[-2:])
            ids = tracer.result

        assert [(8, 8), (1, 9), (1, 10)] == shapes
        assert torch.equal(expected, ids)


class TestQuantized:
    @staticmethod
    def check(module, weight):
        model = LanguageModel(module, tokenizer())
        with torch.no_grad():
            expected = module(**encoded(LONG)).logits
        kept = {}
        handle = module.model.layers[0].mlp.register_forward_hook(
            lambda _, args, out: kept.__setitem__("mlp", out)
        )
        with torch.no_grad():
            module(**encoded(LONG))
        handle.remove()
        with torch.no_grad(), model.trace(LONG):
            inside = model.layers[0].mlp.up_proj.weight
            mlp = model.layers[0].mlp.output
            logits = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].mlp.output[:] = 0
            edited = model.output.logits
        with model.generate(SHORT, max_new_tokens=2, min_new_tokens=2) as tracer:
            ids = tracer.result

        assert type(inside) is weight
        assert torch.equal(kept["mlp"], mlp)
        assert torch.equal(expected, logits)
        assert not torch.equal(expected, edited)
        assert torch.equal(
            module.generate(**encoded(SHORT), max_new_tokens=2, min_new_tokens=2), ids
        )

    def test_by_torchao(self):
        pytest.importorskip("torchao")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            module = DECODERS["llama"].build()
            quantize_(module.model, Int8WeightOnlyConfig())
            self.check(module, type(module.model.layers[0].mlp.up_proj.weight))

        assert torch.nn.Parameter is not type(module.model.layers[0].mlp.up_proj.weight)

    def test_by_bitsandbytes(self):
        bitsandbytes = pytest.importorskip("bitsandbytes")
        module = DECODERS["llama"].build()
        for layer in module.model.layers:
            for name in ("gate_proj", "up_proj"):
                plain = getattr(layer.mlp, name)
                packed = bitsandbytes.nn.Linear4bit(
                    plain.in_features, plain.out_features, bias=False, compute_dtype=torch.float32
                )
                packed.load_state_dict({"weight": plain.weight.detach()})
                setattr(layer.mlp, name, packed.to("cpu"))
        self.check(module, bitsandbytes.nn.Params4bit)

    def test_by_a_linear_of_ones_own(self):
        """A stand-in with the shape that such packages have: a packed weight and its scales."""

        class Packed(torch.nn.Parameter):
            pass

        class Linear8(torch.nn.Linear):
            def __init__(self, plain):
                super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
                scale = plain.weight.detach().abs().amax(1, keepdim=True) / 127
                data = (plain.weight.detach() / scale).round().to(torch.int8)
                self.weight = torch.Tensor._make_subclass(Packed, data, require_grad=False)
                self.weight._is_param = True
                self.register_buffer("scale", scale)

            def forward(self, x):
                return torch.nn.functional.linear(x, self.weight.data.float() * self.scale)

        module = DECODERS["llama"].build()
        for layer in module.model.layers:
            for name in ("gate_proj", "up_proj"):
                setattr(layer.mlp, name, Linear8(getattr(layer.mlp, name)))
        self.check(module, Packed)
