"""One standard name per part, over all families."""

from __future__ import annotations

import pytest
import torch
from decoders import DECODERS
from families import FAMILIES
from torch import nn

from tracekit.errors import NoStandardNameError
from tracekit.hf._names import STANDARD, anatomy, sizes

NO_ATTENTION = ("mamba", "mamba2")
NO_MLP = (*NO_ATTENTION, "opt")


@pytest.mark.parametrize("family", DECODERS)
class TestEveryFamily:
    def test_each_name_leads_to_a_module(self, family):
        model = DECODERS[family].build_on_meta()
        found = anatomy(model, model.config)
        for name in ("layers", "embed", "norm", "lm_head"):
            assert isinstance(model.get_submodule(found.path(name)), nn.Module)
        for index in range(found.sizes.n_layers):
            for name, without in (("attn", NO_ATTENTION), ("mlp", NO_MLP)):
                if family in without:
                    with pytest.raises(NoStandardNameError, match=f"no part '{name}'"):
                        found.path(name, index)
                else:
                    path = found.path(name, index)
                    assert path.startswith(f"{found.layers}.{index}.")
                    assert model.get_submodule(path) is model.get_submodule(
                        found.path(name, index - found.sizes.n_layers)
                    )

    def test_the_parts_are_those_of_the_forward(self, family):
        """Embedding, layers, norm and head run in this order, once, on the residual stream."""
        model = DECODERS[family].build()
        found = anatomy(model, model.config)
        seen = []
        order = [
            found.embed,
            *(f"{found.layers}.{i}" for i in range(found.sizes.n_layers)),
            found.norm,
            found.lm_head,
        ]
        for path in order:
            model.get_submodule(path).register_forward_hook(
                lambda module, args, out, path=path: seen.append(
                    (path, (out[0] if isinstance(out, tuple) else out).shape[-1])
                )
            )
        with torch.no_grad():
            model(**DECODERS[family].inputs())
        widths = [found.sizes.d_model] * (len(order) - 1) + [found.sizes.d_vocab]

        assert list(zip(order, widths, strict=True)) == seen

    def test_rules_name_each_part_that_has_another_name(self, family):
        model = DECODERS[family].build_on_meta()
        found = anatomy(model, model.config)
        rules = found.rename()

        assert "layers" == rules[found.layers]
        assert all(isinstance(model.get_submodule(path), nn.Module) for path in rules)
        assert {alias.rpartition(".")[2] for alias in rules.values()} <= set(STANDARD)


class TestSizes:
    @pytest.mark.parametrize(
        ("family", "expected"),
        [
            ("gpt2", (2, 32, 4, 4, 8, 97)),
            ("llama", (2, 32, 4, 2, 8, 97)),
            ("neox", (2, 32, 4, 4, 8, 97)),
            ("bloom", (2, 32, 4, 4, 8, 97)),
            ("falcon", (2, 32, 4, 1, 8, 97)),
            ("deepseekv3", (2, 32, 4, 4, 8, 97)),
            ("mamba", (2, 32, None, None, None, 97)),
            ("mamba2", (2, 32, None, None, None, 97)),
        ],
    )
    def test_of_a_family(self, family, expected):
        found = sizes(DECODERS[family].build_on_meta().config)

        assert expected == (
            found.n_layers,
            found.d_model,
            found.n_heads,
            found.n_kv_heads,
            found.d_head,
            found.d_vocab,
        )

    def test_of_the_text_part_of_a_larger_model(self):
        assert 97 == sizes(FAMILIES["llava"].build_on_meta().config).d_vocab

    def test_a_model_of_images_has_none(self):
        with pytest.raises(NoStandardNameError, match="is no config of a language model"):
            sizes(FAMILIES["vit"].build_on_meta().config)


class TestFoundByStructure:
    def test_inside_a_wrapper(self):
        """As a PeftModel holds its model: `base_model.model`, with a getter for the inner one."""
        inner = DECODERS["llama"].build_on_meta()

        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.base_model = nn.Module()
                self.base_model.model = inner

            def get_base_model(self):
                return inner

        found = anatomy(Wrapper(), inner.config)

        assert "base_model.model.model.layers" == found.layers
        assert "base_model.model.model.embed_tokens" == found.embed
        assert "base_model.model.lm_head" == found.lm_head

    def test_the_text_part_beside_a_tower_of_as_many_layers(self):
        model = FAMILIES["llava"].build_on_meta()

        assert "model.language_model.layers" == anatomy(model, model.config).layers

    def test_a_model_without_a_head(self):
        model = DECODERS["llama"].build_on_meta().model
        found = anatomy(model, model.config)

        assert ("layers", "embed_tokens", "norm", None) == (
            found.layers,
            found.embed,
            found.norm,
            found.lm_head,
        )

    def test_an_encoder_decoder_has_no_single_list_of_layers(self):
        model = FAMILIES["t5"].build_on_meta()
        with pytest.raises(NoStandardNameError, match="has an encoder and a decoder"):
            anatomy(model, model.config)

    def test_a_config_that_tells_another_width(self):
        model = DECODERS["llama"].build_on_meta()
        model.config.hidden_size = 64
        with pytest.raises(NoStandardNameError, match="was not found in `LlamaForCausalLM`"):
            anatomy(model, model.config)

    def test_a_norm_of_another_width(self):
        model = DECODERS["llama"].build_on_meta()
        model.model.norm = nn.LayerNorm(64, device="meta")
        with pytest.raises(NoStandardNameError, match="residual stream of width 32") as caught:
            anatomy(model, model.config)

        assert "model.norm: 64" == caught.value.seen
