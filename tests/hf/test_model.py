"""`LanguageModel`: traced runs against transformers called directly and hand-written hooks."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from decoders import DECODERS, saved, tokenizer
from families import FAMILIES

import tracekit
from tracekit.errors import (
    BatchAxisError,
    GenerateOnlyError,
    ModelNotFoundError,
    NoAttentionWeightsError,
    NoStandardNameError,
    NoTokenizerError,
    PromptError,
    ScanMismatchError,
    UnsupportedGenerationError,
    UnsupportedModuleError,
    WeightsNotLoadedError,
    WrongModelClassError,
)
from tracekit.hf import LanguageModel, TransformersModel
from tracekit.hf._names import sizes
from tracekit.hf._views import head_site

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"
NO_ATTENTION = ("mamba", "mamba2")
NO_MLP = (*NO_ATTENTION, "opt")
inference = torch.inference_mode


@pytest.fixture(autouse=True)
def _clean(no_residue):
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def loud(module):
    """Weights as large as a trained model's, so that a wrong value shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return module


def built(family="gpt2", **options):
    return LanguageModel(loud(DECODERS[family].build()), tokenizer(), **options)


def encoded(*texts, **options):
    side = {"padding": True, "padding_side": "left"} if len(texts) > 1 else {}
    return dict(tokenizer()(list(texts), return_tensors="pt", **side, **options))


def outputs(module, paths, **call):
    """The outputs of modules by hand-written hooks, and the logits."""
    found = {}
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _, args, out, path=path: found.__setitem__(
                path, (out[0] if isinstance(out, tuple) else out).clone()
            )
        )
        for path in paths
    ]
    try:
        with torch.no_grad():
            logits = module(**call).logits
    finally:
        for handle in handles:
            handle.remove()
    return found, logits


class TestLoading:
    def test_names_and_shapes_are_there_before_the_weights(self, tmp_path):
        model = LanguageModel(saved(tmp_path))

        assert not model.dispatched
        assert torch.device("cpu") == model.device
        assert (2, 32, 4, 4, 97) == (
            model.n_layers,
            model.d_model,
            model.n_heads,
            model.n_kv_heads,
            model.d_vocab,
        )
        assert "GPT2LMHeadModel" in repr(model)
        assert "layers" in dir(model)
        assert "attn" in dir(model.layers[0])

    def test_the_first_run_loads_them_with_transformers_progress_bar(self, tmp_path, capfd):
        folder = saved(tmp_path)
        model = LanguageModel(folder)
        transformers.logging.enable_progress_bar()
        before = capfd.readouterr().err
        with model.trace(SHORT):
            logits = model.output.logits
        shown = capfd.readouterr().err
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder)

        assert "Loading" not in before
        # Older versions show a bar for several files only.
        assert ("Loading" in capfd.readouterr().err) == ("Loading" in shown)
        assert model.dispatched
        assert torch.equal(expected(**encoded(SHORT)).logits, logits)

    def test_nodes_from_before_are_the_loaded_ones_after(self, tmp_path):
        model = LanguageModel(saved(tmp_path, "llama"))
        native, standard = model.model.layers[0].mlp, model.layers[0].mlp
        model.dispatch()

        assert not native.gate_proj.weight.is_meta
        assert native.gate_proj.weight is standard.gate_proj.weight
        assert model.model.layers[0].mlp is native
        with model.trace(SHORT):
            assert native.output.shape == standard.output.shape

    def test_a_parameter_asked_for_before(self, tmp_path):
        model = LanguageModel(saved(tmp_path))
        with pytest.raises(WeightsNotLoadedError) as caught:
            _ = model.transformer.wte.weight

        assert str(caught.value).startswith(
            "`transformer.wte.weight` has no values yet: the weights are not loaded"
        )
        assert "model.dispatch()" == caught.value.fix

    def test_dispatch_loads_at_once(self, tmp_path):
        model = LanguageModel(saved(tmp_path), dispatch=True)

        assert model.dispatched
        assert not model.lm_head.weight.is_meta
        assert model._module.lm_head.weight is model._module.transformer.wte.weight

    def test_a_call_loads_too(self, tmp_path):
        model = LanguageModel(saved(tmp_path))

        assert (1, 3, 97) == model(**encoded(SHORT)).logits.shape

    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m.to(torch.float64),
            lambda m: m.double(),
            lambda m: m.lm_head.cpu() and m.double(),
        ],
        ids=["to", "double", "cpu"],
    )
    def test_a_change_of_the_weights_loads_them_first(self, tmp_path, change):
        model = LanguageModel(saved(tmp_path))

        assert model is change(model)
        assert model.dispatched
        with model.trace(SHORT):
            hidden = model.layers[0].output
        assert torch.float64 == hidden.dtype

    def test_so_does_the_lens(self, tmp_path):
        model = LanguageModel(saved(tmp_path))

        assert (1, 3, 97) == model.logit_lens(torch.zeros(1, 3, 32)).shape

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_tokenizer_by_its_folder(self, tmp_path, kind):
        model = LanguageModel(DECODERS["gpt2"].build(), kind(saved(tmp_path)))

        assert encoded(SHORT)["input_ids"][0].tolist() == model.tokenizer(SHORT)["input_ids"]

    def test_what_is_set_before_holds_after(self, tmp_path):
        model = LanguageModel(saved(tmp_path))
        model.set_attn_implementation("eager")
        model.train()
        model.dispatch()

        assert "eager" == model.config._attn_implementation
        assert model.training

    def test_the_dtype(self, tmp_path):
        model = LanguageModel(saved(tmp_path), dtype=torch.bfloat16)
        with model.trace(SHORT):
            hidden = model.layers[0].output

        assert torch.bfloat16 == hidden.dtype

    def test_a_loaded_model_is_wrapped_as_it_is(self):
        module = DECODERS["gpt2"].build()
        model = LanguageModel(module, tokenizer())

        assert model._module is module
        assert model.dispatched

    def test_its_tokenizer_is_found_by_its_name(self, tmp_path):
        module = transformers.AutoModelForCausalLM.from_pretrained(saved(tmp_path))
        with LanguageModel(module).trace(SHORT) as tracer:
            ids = tracer.tokens.ids

        assert encoded(SHORT)["input_ids"].tolist() == ids

    def test_or_not_at_all(self):
        model = LanguageModel(DECODERS["gpt2"].build())
        with pytest.raises(NoTokenizerError, match="does not know where it was loaded from"):
            model.trace(SHORT).run(lambda: None)
        with model.trace([[4, 5, 6]]) as tracer:
            shape = model.output.logits.shape

        assert (1, 3, 97) == shape
        assert [["4", "5", "6"]] == list(tracer.tokens)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelNotFoundError):
            LanguageModel(tmp_path / "nothing")

    @pytest.mark.parametrize("thing", [7, torch.nn.Linear(2, 2)])
    def test_what_is_no_model_of_transformers(self, thing):
        with pytest.raises(TypeError, match="a folder, a name or a model of transformers"):
            LanguageModel(thing)

    def test_an_encoder(self):
        with pytest.raises(WrongModelClassError, match="`BertModel` does not generate text"):
            LanguageModel(transformers.BertModel(FAMILIES["bert"].build_on_meta().config))

    def test_options_for_a_model_that_is_loaded(self):
        with pytest.raises(TypeError, match="dtype: options of loading"):
            LanguageModel(DECODERS["gpt2"].build_on_meta(), dtype=torch.float16)

    def test_offloaded_parameters_are_real_in_a_block(self, tmp_path):
        accelerate = pytest.importorskip("accelerate")
        module = DECODERS["llama"].build()
        expected = module.model.layers[0].mlp.up_proj.weight.detach().clone()
        logits = module(**encoded(SHORT)).logits
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
        model = LanguageModel(module, tokenizer())
        with model.trace(SHORT):
            inside = model.layers[0].mlp.up_proj.weight
            hidden = model.layers[0].output
            traced = model.output.logits

        assert module.model.layers[0].mlp.up_proj.weight.is_meta
        assert torch.equal(expected, inside)
        assert torch.equal(expected, model.layers[0].mlp.up_proj.weight)
        assert torch.equal(logits, traced)
        assert torch.device("cpu") == model.device == hidden.device


@pytest.mark.parametrize("family", DECODERS)
class TestEveryFamily:
    def test_values_are_those_of_hand_written_hooks(self, family):
        """Bit for bit, under the standard names, each a tensor."""
        model = built(family)
        parts = model.anatomy
        paths = [parts.embed, parts.norm]
        for index in range(model.n_layers):
            paths.append(f"{parts.layers}.{index}")
            if family not in NO_ATTENTION:
                paths.append(parts.path("attn", index))
            if family not in NO_MLP:
                paths.append(parts.path("mlp", index))
        expected, logits = outputs(model._module, paths, **encoded(LONG))
        got = {}
        with torch.no_grad(), model.trace(LONG):
            got[parts.embed] = model.embed.output
            for index, layer in enumerate(model.layers):
                if family not in NO_ATTENTION:
                    got[parts.path("attn", index)] = layer.attn.output
                if family not in NO_MLP:
                    # Falcon adds the attention to it in place.
                    got[parts.path("mlp", index)] = layer.mlp.output.clone()
                got[f"{parts.layers}.{index}"] = layer.output
            got[parts.norm] = model.norm.output
            traced = model.output.logits

        assert torch.equal(logits, traced)
        assert set(expected) == set(got)
        assert all(torch.equal(expected[path], got[path]) for path in expected)
        assert {(1, 8, 32)} == {tuple(value.shape) for value in got.values()}

    def test_an_assigned_output_reaches_the_model(self, family):
        model = built(family)
        path = f"{model.anatomy.layers}.0"
        handle = model._module.get_submodule(path).register_forward_hook(
            lambda _, args, out: (out[0] * 2, *out[1:]) if isinstance(out, tuple) else out * 2
        )
        with torch.no_grad():
            expected = model._module(**encoded(LONG)).logits
        handle.remove()
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].output = model.layers[0].output * 2
            assigned = model.output.logits
        with torch.no_grad(), model.trace(LONG):
            model.layers[0].output[:] *= 2
            edited = model.output.logits

        assert torch.equal(expected, assigned)
        assert torch.equal(expected, edited)

    def test_the_lens_of_the_last_layer_is_the_output(self, family):
        model = built(family)
        with torch.no_grad(), model.trace(LONG):
            lens = model.logit_lens(model.layers[-1].output)
            logits = model.output.logits

        assert torch.equal(logits, lens)

    def test_generated_ids_are_transformers_own(self, family):
        model = built(family)
        expected = model._module.generate(**encoded(LONG, SHORT), max_new_tokens=4)
        seen = []
        with model.generate([LONG, SHORT], max_new_tokens=4) as tracer:
            for step in tracer.iter[:]:
                seen.append((step, tuple(model.layers[0].output.shape)))
            after = True
            ids = tracer.result

        assert after
        assert torch.equal(expected, ids)
        steps = ids.shape[1] - 8
        assert [(0, (2, 8, 32)), *((n, (2, 1, 32)) for n in range(1, steps))] == seen


class TestHeads:
    @pytest.mark.parametrize("family", sorted(DECODERS.keys() - {*NO_ATTENTION}))
    def test_heads_make_the_attention_that_the_model_makes(self, family):
        """q, k and v have the shapes of their heads; z mixed by the output projection is output."""
        model = built(family)
        parts = {}
        with torch.no_grad(), model.trace(LONG):
            attn = model.layers[0].attn
            for name in ("q", "k", "v"):
                parts[name] = getattr(attn, name)
            parts["z"] = attn.z
            out = attn.output
        n, kv, d = model.n_heads, model.n_kv_heads, model.d_head
        # In a latent attention, queries have a rotary part besides.
        rotary = 8 if family == "deepseekv3" else 0

        assert (1, 8, n, d + rotary) == parts["q"].shape
        assert (1, 8, n, d) == parts["z"].shape
        assert (1, 8, kv, d) == parts["k"].shape == parts["v"].shape
        # The first token can only look at itself, so each head gives its group's value; except
        # where a sink takes a share of the attention.
        if family != "gptoss":
            torch.testing.assert_close(
                parts["z"][:, 0], parts["v"][:, 0].repeat_interleave(n // kv, 1)
            )
        assert (1, 8, 32) == out.shape

    @pytest.mark.parametrize(
        "family",
        ["gpt2", "llama", "neox", "bloom", "falcon", "falcon-groups", "phi3", "deepseekv3"],
    )
    @pytest.mark.parametrize("name", ["q", "k", "v", "z"])
    def test_an_edit_in_place_and_an_assignment_do_the_same(self, family, name):
        model = built(family)
        results = []
        for assign, mode in ((False, torch.no_grad), (True, torch.no_grad), (False, inference)):
            with mode(), model.trace(LONG):
                attn = model.layers[0].attn
                heads = getattr(attn, name)
                if assign:
                    new = heads.clone()
                    new[:, :, 0] += 1
                    setattr(attn, name, new)
                else:
                    heads[:, :, 0] += 1
                results.append(model.output.logits)
        with torch.no_grad():
            plain = model._module(**encoded(LONG)).logits

        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
        assert not torch.equal(plain, results[0])

    @pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "falcon-groups", "deepseekv3"])
    def test_they_have_gradients(self, family):
        """Those by which a small change of the heads changes the loss."""
        model = built(family)
        loud(model._module)
        names = ("q", "k", "v", "z")
        plain = model._module(**encoded(LONG)).logits
        with model.trace(LONG):
            attn = model.layers[0].attn
            heads = [getattr(attn, name) for name in names]
            logits = model.output.logits
            loss = logits.double().square().sum()
            with loss.backward():
                grads = [one.grad for one in reversed(heads)][::-1]
        assert torch.equal(plain, logits)
        for name, grad in zip(names, grads, strict=True):
            change = grad / grad.norm() * 1e-2
            losses = []
            for sign in (1, -1):
                with torch.no_grad(), model.trace(LONG):
                    part = getattr(model.layers[0].attn, name)
                    part += sign * change
                    losses.append(model.output.logits.double().square().sum())
            torch.testing.assert_close(
                (losses[0] - losses[1]) / 2, (grad * change).double().sum(), rtol=0.03, atol=1e-6
            )

    def test_gradients_of_each_invokes_own_heads(self):
        model = built()
        alone = []
        for text in (LONG, SHORT):
            with model.trace(text):
                heads = model.layers[1].attn.v
                loss = model.output.logits.square().sum()
                with loss.backward():
                    alone.append(heads.grad)
        with model.trace() as tracer:
            with tracer.invoke(LONG):
                one = model.layers[1].attn.v
                first = model.output.logits.square().sum()
                with first.backward(retain_graph=True):
                    grad = one.grad
            with tracer.invoke(SHORT):
                other = model.layers[1].attn.v
                other[:, :, 0] *= 2

        torch.testing.assert_close(alone[0], grad, rtol=1e-4, atol=1e-4)
        assert alone[1].shape[1] == 3

    def test_ablating_a_head_is_what_a_hook_would_do(self):
        model = built("llama")

        def ablate(module, args):
            (hidden,) = args
            hidden = hidden.clone()
            hidden[..., 8:16] = 0
            return (hidden,)

        handle = model._module.model.layers[1].self_attn.o_proj.register_forward_pre_hook(ablate)
        with torch.no_grad():
            expected = model._module(**encoded(LONG)).logits
        handle.remove()
        with torch.no_grad(), model.trace(LONG):
            model.layers[1].attn.z[:, :, 1] = 0
            got = model.output.logits

        assert torch.equal(expected, got)

    def test_what_is_not_known(self):
        attention = torch.nn.ModuleDict({"mixed": torch.nn.Linear(2, 2)})
        known = sizes(DECODERS["llama"].build().config)
        for name in ("q", "z"):
            with pytest.raises(NoStandardNameError, match=f"has no heads `{name}` that are known"):
                head_site(attention, name, known)

    def test_grouped_queries_of_one_projection_lie_apart(self):
        model = built("falcon-groups")
        with torch.no_grad(), model.trace(SHORT):
            attn = model.layers[0].attn
            whole = model.transformer.h[0].self_attention.query_key_value.output
            queries, keys, values = attn.q, attn.k, attn.v
            z = attn.z
        lying = whole.unflatten(-1, (2, 4, 8))

        torch.testing.assert_close(z[:, 0], values[:, 0].repeat_interleave(2, 1))
        assert torch.equal(queries, torch.cat([lying[:, :, 0, :2], lying[:, :, 1, :2]], 2))
        assert torch.equal(keys, lying[..., 2, :])
        assert torch.equal(values, lying[..., 3, :])

    def test_of_a_latent_attention_are_what_each_head_makes_of_what_all_share(self):
        model = built("deepseekv3")
        inner = model._module.model.layers[0].self_attn
        with torch.no_grad(), model.trace(LONG):
            attn = model.layers[0].attn
            shared = attn.kv_a_layernorm.output
            keys, values = attn.k, attn.v
        with torch.no_grad():
            both = inner.kv_b_proj(shared).reshape(1, 8, 4, -1)

        assert torch.equal(both[..., : inner.qk_nope_head_dim], keys)
        assert torch.equal(both[..., inner.qk_nope_head_dim :], values)


class TestSkip:
    """Under a standard name one tensor is an output, also where the module returns a tuple."""

    @pytest.mark.parametrize("rows", [1, 2])
    @pytest.mark.parametrize("part", ["layer", "attn", "mlp"])
    @pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "falcon", "gptoss", "mamba"])
    def test_does_what_assigning_the_output_does(self, family, part, rows):
        if family in NO_MLP and part != "layer":
            pytest.skip("no such part")
        model = built(family)
        value = torch.randn(rows, 3, 32, generator=torch.Generator().manual_seed(0))
        ids = [[5, 6, 7], [8, 9, 10]][:rows]
        results = []
        for skips in (True, False):
            with torch.no_grad(), model.trace(ids):
                layer = model.layers[0]
                node = layer if part == "layer" else getattr(layer, part)
                if skips:
                    node.skip(value.clone())
                else:
                    node.output = value.clone()
                results.append(model.output.logits)

        assert torch.equal(*results)

    def test_in_an_invoke_and_on_shapes(self):
        model = built("llama")
        zeros, ones = torch.zeros(1, 3, 32), torch.ones(1, 3, 32)
        skipped, expected = [], []
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke([[5, 6, 7]]):
                model.layers[0].attn.skip(zeros)
                skipped.append(model.output.logits)
            with tracer.invoke([[8, 9, 10]]):
                model.layers[0].attn.skip(ones)
                skipped.append(model.output.logits)
        for ids, value in (([5, 6, 7], zeros), ([8, 9, 10], ones)):
            with torch.no_grad(), model.trace(ids):
                model.layers[0].attn.output = value
                expected.append(model.output.logits)
        with model.scan(SHORT):
            model.layers[0].attn.skip(zeros)
            shape = model.output.logits.shape

        torch.testing.assert_close(expected, skipped)
        assert (1, 3, 97) == shape

    def test_what_a_module_returns_itself_is_given_on(self):
        model = built("llama")
        with torch.no_grad(), model.trace(SHORT):
            model.layers[0].attn.skip((torch.zeros(1, 3, 32), None))
            out = model.layers[0].attn.output

        assert (1, 3, 32) == out.shape

    def test_of_a_model_that_cannot_be_run_on_shapes(self, monkeypatch):
        def fail(*_):
            raise RuntimeError("no shapes")

        monkeypatch.setattr("tracekit.hf._returns.FakeRun", fail)
        model = built()

        with pytest.raises(UnsupportedModuleError, match="what `transformer.h.0.attn` returns"):
            model.trace(SHORT).run(lambda: model.layers[0].attn.skip(torch.zeros(1, 3, 32)))


class TestNames:
    def test_standard_and_native_names_are_one_module(self):
        model = built("neox")

        assert model.layers[0]._module is model.gpt_neox.layers[0]._module
        assert model.layers[0].attn._module is model.gpt_neox.layers[0].attention._module
        assert model.embed is model.gpt_neox.embed_in
        assert ["gpt_neox.layers.0", "gpt_neox.layers.1"] == [one.path for one in model.layers]
        assert model.layers[-1] is model.layers[1] is model.layers[0:2][1]
        assert model.get("layers.1.attn") is model.layers[1].attn

    def test_a_native_name_gives_what_the_module_gives(self):
        model = built("bloom")
        with model.trace(SHORT):
            native = model.transformer.h[0].output
            standard = model.layers[0].output

        assert isinstance(native, tuple)
        assert native[0] is standard

    def test_a_part_that_an_architecture_does_not_have(self):
        model = built("mamba")

        assert not hasattr(model.layers[0], "attn")
        with pytest.raises(NoStandardNameError, match="no part 'attn'") as caught:
            _ = model.layers[0].attn
        assert "layers, embed, norm, lm_head" in caught.value.seen
        with pytest.raises(NoStandardNameError, match="has no n_heads"):
            _ = model.n_heads

    def test_a_users_own_names_are_added(self):
        model = built(rename={"transformer.h": "blocks"})

        assert model.blocks[0]._module is model.layers[0]._module

    def test_inside_an_adapters_wrapper(self):
        """As a PeftModel holds its model."""
        inner = DECODERS["llama"].build()

        class Wrapper(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.base_model = torch.nn.Module()
                self.base_model.model = inner
                self.config = inner.config

            def forward(self, **kwargs):
                return inner(**kwargs)

            def generate(self, **kwargs):
                return inner.generate(**kwargs)

            def get_base_model(self):
                return inner

        model = LanguageModel(Wrapper(), tokenizer())
        with model.trace([LONG, SHORT]):
            hidden = model.layers[0].attn.output
            logits = model.output.logits
        numbers = []
        with model.generate(SHORT, max_new_tokens=2, min_new_tokens=2) as tracer:
            for _ in tracer.iter[:]:
                _ = model.layers[0].output
                numbers.append(tracer.tokens.numbers.tolist())
            ids = tracer.result

        assert [[[0, 1, 2]], [[3]]] == numbers
        assert "base_model.model.model.layers.0" == model.layers[0].path
        assert (2, 8, 32) == hidden.shape
        assert torch.equal(inner(**encoded(LONG, SHORT)).logits[0], logits[0])
        expected = inner.generate(**encoded(SHORT), max_new_tokens=2, min_new_tokens=2)
        assert torch.equal(expected, ids)


class TestInputs:
    def test_a_batch_gives_each_prompt_what_it_gives_alone(self):
        model = built()
        alone = []
        for text in (LONG, SHORT):
            with torch.no_grad(), model.trace(text):
                alone.append(model.output.logits[0])
        with torch.no_grad(), model.trace([LONG, SHORT]) as tracer:
            together = model.output.logits

        for row, expected in enumerate(alone):
            torch.testing.assert_close(together[row, -len(expected) :], expected)
        assert [8, 3] == tracer.tokens.lengths.tolist()

    def test_tokens_are_found_in_each_row(self):
        model = built()
        with model.trace([LONG, SHORT]) as tracer:
            where = tracer.tokens.where(0)
            model.embed.output[where] = 0
            changed = model.embed.output.abs().sum(-1) == 0

        assert [[True, *[False] * 7], [*[False] * 5, True, False, False]] == changed.tolist()

    def test_labels_give_a_loss(self):
        model = built()
        with model.trace(LONG, labels=LONG):
            loss = model.output.loss
        ids = encoded(LONG)

        assert loss == model._module(**ids, labels=ids["input_ids"]).loss

    @pytest.mark.parametrize("word", ["trace", "scan"])
    def test_an_option_of_generate(self, word):
        with pytest.raises(GenerateOnlyError, match="`max_new_tokens` was given to one") as e:
            getattr(built(), word)(SHORT, max_new_tokens=3)

        assert "model.generate(prompt, max_new_tokens=3)" == e.value.fix

    def test_an_empty_prompt_is_refused_before_the_block(self):
        ran = []
        with pytest.raises(PromptError, match="the prompt is empty"):
            built().trace("").run(lambda: ran.append(1))

        assert [] == ran

    def test_a_given_cache_is_gone_on_from(self):
        model = built()
        cache = transformers.DynamicCache(config=model.config)
        name = "cache" if "cache" in model._reader._parameters else "past_key_values"
        with torch.no_grad():
            whole = model._module(**encoded(f"{LONG} {SHORT}")).logits
            with model.trace(LONG, **{name: cache}):
                first = model.output.logits
            with model.trace(SHORT, **{name: cache}) as tracer:
                numbers = tracer.tokens.numbers
                second = model.output.logits

        torch.testing.assert_close(whole, torch.cat([first, second], 1))
        assert [[8, 9, 10]] == numbers.tolist()

    def test_attention_weights_are_kept_by_the_switch_that_the_error_names(self):
        model = built()
        with pytest.raises(NoAttentionWeightsError) as caught:
            model.trace(SHORT, output_attentions=True).run(lambda: None)
        assert 'model.set_attn_implementation("eager")' == caught.value.fix

        model.set_attn_implementation("eager")
        with model.trace(SHORT, output_attentions=True):
            attentions = model.output.attentions

        assert 2 == len(attentions)
        assert (1, 4, 3, 3) == attentions[0].shape

    def test_an_edit_shows_in_transformers_recorded_hidden_states(self):
        model = built()
        with model.trace(SHORT, output_hidden_states=True):
            model.layers[0].output[:] = 7.0
            states = model.output.hidden_states

        assert (states[1] == 7).all()


class TestGenerate:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"do_sample": True, "temperature": 2.0},
            {"num_beams": 2},
            {"do_sample": True, "num_return_sequences": 3},
            {"num_beams": 3, "num_return_sequences": 2},
            {"use_cache": False},
            {"cache_implementation": "static"},
            {"prefill_chunk_size": 3},
            {"min_new_tokens": 3, "repetition_penalty": 1.5},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_every_way_of_generating_gives_transformers_ids(self, options, family):
        model = built(family)
        torch.manual_seed(5)
        expected = model._module.generate(**encoded(LONG, SHORT), max_new_tokens=4, **options)
        shapes, numbers = [], []
        torch.manual_seed(5)
        with model.generate([LONG, SHORT], max_new_tokens=4, **options) as tracer:
            for step in tracer.iter[:]:
                shapes.append(model.embed.output.shape[:2])
                numbers.append(tracer.tokens.numbers)
            ids = tracer.result

        assert torch.equal(expected, ids)
        assert shapes == [found.shape for found in numbers]
        last = numbers[-1][:, -1]
        # The steps before the one that ends the prompt, where it is read in pieces.
        widths = [width for _, width in shapes]
        steps = len(shapes) - next(n for n in range(len(widths)) if sum(widths[: n + 1]) >= 8)
        copies = len(last) // 2
        assert [8 + steps - 2] * copies + [3 + steps - 2] * copies == last.tolist()

    def test_a_row_that_ends_early(self):
        model = built()
        model._module.generation_config.eos_token_id = None
        ids = model._module.generate(**encoded(LONG, SHORT), max_new_tokens=4)
        ends = int(ids[1, 9])
        expected = model._module.generate(
            **encoded(LONG, SHORT), max_new_tokens=4, eos_token_id=ends, pad_token_id=0
        )
        hidden = []
        with model.generate(
            [LONG, SHORT], max_new_tokens=4, eos_token_id=ends, pad_token_id=0
        ) as tracer:
            for _ in tracer.iter[:]:
                hidden.append(model.layers[0].output)
            rows = tracer.tokens.along(hidden)
            got = tracer.result

        assert torch.equal(expected, got)
        answers = [got[0, 8:].tolist(), got[1, 8:].tolist()]
        for row, length, answer in zip(rows, (8, 3), answers, strict=True):
            stop = answer.index(ends) + 1 if ends in answer else len(answer)
            # The model reads a token in the step after it was made: a last one is never read.
            assert (min(length + stop, 8 + len(hidden) - 1 - (8 - length)), 32) == row.shape

    def test_what_is_joined_along_tokens_is_one_forward_of_the_whole(self):
        model = built("llama")
        hidden = []
        with model.generate([LONG, SHORT], max_new_tokens=5, min_new_tokens=5) as tracer:
            for _ in tracer.iter[:]:
                hidden.append(model.layers[1].output)
            ids = tracer.result
        for row, got in enumerate(tracer.tokens.along(hidden)):
            whole = [one for one in ids[row].tolist() if one != 0]
            with torch.no_grad(), model.trace([whole]):
                (expected,) = model.layers[1].output

            torch.testing.assert_close(got, expected[:-1])

    def test_steering_each_step_is_what_a_hook_would_do(self):
        model = built()
        direction = torch.randn(32, generator=torch.Generator().manual_seed(3)) * 5
        handle = model._module.transformer.h[0].register_forward_hook(
            lambda _, args, out: (
                (out[0] + direction, *out[1:]) if isinstance(out, tuple) else out + direction
            )
        )
        expected = model._module.generate(**encoded(LONG), max_new_tokens=6)
        handle.remove()
        plain = model._module.generate(**encoded(LONG), max_new_tokens=6)
        with model.generate(LONG, max_new_tokens=6) as tracer:
            for _ in tracer.iter[:]:
                model.layers[0].output += direction
            ids = tracer.result

        assert torch.equal(expected, ids)
        assert not torch.equal(plain, ids)

    def test_answer_tokens_only(self):
        model = built()
        with model.generate([LONG, SHORT], max_new_tokens=4, min_new_tokens=4) as tracer:
            edited = []
            for _ in tracer.iter[:]:
                hidden = model.layers[0].output
                hidden[tracer.tokens.answer] = 0
                edited.append((hidden == 0).all(-1))
            ids = tracer.result

        assert not edited[0].any()
        assert all(one.all() for one in edited[1:])
        assert 12 == ids.shape[1]

    def test_a_streamer_gets_the_tokens(self):
        got = []

        class Streamer(transformers.generation.BaseStreamer):
            def put(self, value):
                got.extend(value.reshape(-1).tolist())

            def end(self):
                got.append("end")

        model = built()
        with model.generate(SHORT, max_new_tokens=3, streamer=Streamer()) as tracer:
            ids = tracer.result

        assert [*ids[0].tolist(), "end"] == got

    def test_untraced(self):
        model = built()
        expected = model._module.generate(**encoded(SHORT), max_new_tokens=3)

        assert torch.equal(expected, model.generate(SHORT, max_new_tokens=3, trace=False))

    def test_an_output_with_scores(self):
        model = built()
        with model.generate(
            SHORT, max_new_tokens=2, return_dict_in_generate=True, output_scores=True
        ) as tracer:
            result = tracer.result

        assert 2 == len(result.scores)
        assert result.sequences[0].tolist() == tracer.tokens.ids[0]

    def test_encoder_decoders_generate_too(self):
        model = LanguageModel(loud(FAMILIES["t5"].build()), tokenizer())
        expected = model._module.generate(**encoded(LONG), max_new_tokens=3)
        with model.generate(LONG, max_new_tokens=3) as tracer:
            numbers = []
            for _ in tracer.iter[:]:
                _ = model.lm_head.output
                numbers.append(tracer.tokens.numbers.tolist())
            ids = tracer.result

        assert torch.equal(expected, ids)
        assert [[[n]] for n in range(len(numbers))] == numbers

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("assistant_model", "draft"),
            ("prompt_lookup_num_tokens", 2),
            ("assistant_early_exit", 1),
        ],
    )
    def test_several_tokens_a_step_are_refused(self, name, value):
        with pytest.raises(UnsupportedGenerationError, match=f"`{name}` makes several tokens"):
            built().generate(SHORT, **{name: value})

    def test_also_in_a_generation_config(self):
        config = transformers.GenerationConfig(prompt_lookup_num_tokens=2)
        with pytest.raises(UnsupportedGenerationError, match="`prompt_lookup_num_tokens`"):
            built().generate(SHORT, generation_config=config)

    def test_continuous_batching_is_refused(self):
        with pytest.raises(
            UnsupportedGenerationError, match=r"generate_batch\(\) cannot be traced"
        ):
            built().generate_batch([[4, 5]])

    def test_a_skip_that_would_leave_a_cache_short_is_refused(self):
        model = built()
        zeros = torch.zeros(1, 3, 32)

        def skip_layer():
            model.layers[0].skip(zeros)

        with pytest.raises(UnsupportedGenerationError, match="cannot be skipped in a generation"):
            model.generate(SHORT, max_new_tokens=2).run(skip_layer)

    def test_but_an_mlp_can_be_skipped_and_a_layer_in_a_trace(self):
        model = built()
        with model.generate(SHORT, max_new_tokens=2) as tracer:
            for _ in tracer.iter[:]:
                mlp = model.layers[0].mlp
                mlp.skip(torch.zeros_like(mlp.input))
            ids = tracer.result
        with model.trace(SHORT):
            layer = model.layers[0]
            layer.skip(layer.input)
            out = layer.output

        assert 5 == ids.shape[1]
        assert (1, 3, 32) == out.shape


class TestHelpers:
    def test_the_most_probable_tokens(self):
        model = built()
        with model.trace([LONG, SHORT]):
            logits = model.output.logits
        best = model.next_tokens(logits, 3)
        probabilities = logits[:, -1].softmax(-1)

        assert 2 == len(best)
        for row, tokens in enumerate(best):
            values, ids = probabilities[row].topk(3)
            assert [model.tokenizer.decode([one]) for one in ids.tolist()] == [t for t, _ in tokens]
            torch.testing.assert_close(values, torch.tensor([p for _, p in tokens]))

    def test_of_what_are_no_logits(self):
        with pytest.raises(PromptError, match=r"logits of shape \(3,\)"):
            built().next_tokens(torch.zeros(3))


class TestOtherClasses:
    def test_a_classifier(self, tmp_path):
        path = saved(tmp_path, "bert")
        model = TransformersModel(path, auto="AutoModelForMaskedLM")
        with model.trace([LONG, SHORT]):
            hidden = model.bert.encoder.layer[0]["output"].output
            logits = model.output.logits
        encoding = tokenizer()([LONG, SHORT], return_tensors="pt", padding=True)
        expected = transformers.AutoModelForMaskedLM.from_pretrained(path)(**encoding).logits

        assert torch.equal(expected, logits)
        assert (2, 8, 32) == hidden.shape

    def test_a_model_of_images(self, tmp_path):
        path = saved(tmp_path, "vit", with_tokenizer=False)
        model = TransformersModel(path, auto="AutoModelForImageClassification")
        images = FAMILIES["vit"].inputs()["pixel_values"]
        with model.trace(images):
            logits = model.output.logits

        assert torch.equal(model._module(images).logits, logits)

    @pytest.mark.parametrize("family", ["llava", "whisper", "t5", "bart"])
    def test_several_kinds_of_input(self, family, tmp_path):
        path = saved(tmp_path, family, with_tokenizer=False)
        model = LanguageModel(path)
        inputs = FAMILIES[family].inputs()
        with model.trace(**inputs):
            logits = model.output.logits

        assert torch.equal(model._module(**inputs).logits, logits)

    def test_the_bare_model_is_the_default(self, tmp_path):
        assert "BertModel" == type(TransformersModel(saved(tmp_path, "bert"))._module).__name__


def test_the_front_door():
    assert tracekit.LanguageModel is LanguageModel
    assert pickle.loads(pickle.dumps(PromptError("x"))).args == ("x",)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "gemma3", "mixtral", "mamba"])
class TestInvokes:
    def test_each_prompt_sees_its_own_rows(self, family):
        model = built(family)
        alone = []
        for text in (LONG, SHORT):
            with torch.no_grad(), model.trace(text):
                alone.append((model.layers[0].output, model.output.logits))
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(LONG) as first:
                hidden_1, logits_1 = model.layers[0].output, model.output.logits
            with tracer.invoke(tokenizer()(SHORT)) as second:
                hidden_2, logits_2 = model.layers[0].output, model.output.logits
                text = list(second.tokens)

        assert [["Rome", "is", "in"]] == text == list(second.tokens)
        assert [8] == first.tokens.lengths.tolist()
        for got, expected in ((logits_1, alone[0][1]), (logits_2, alone[1][1])):
            assert (1, 8, 97) == got.shape
            scale = expected.abs().max()
            torch.testing.assert_close(
                got[:, -expected.shape[1] :] / scale, expected / scale, atol=1e-4, rtol=0
            )
        scale = alone[1][0].abs().max()
        torch.testing.assert_close(hidden_2[:, -3:] / scale, alone[1][0] / scale, atol=1e-4, rtol=0)
        assert (1, 8, 32) == hidden_1.shape

    def test_an_edit_in_one_leaves_the_others(self, family):
        model = built(family)
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(LONG):
                plain = model.output.logits
            with tracer.invoke(LONG):
                model.layers[0].output[:] = 0
                edited = model.output.logits
            with tracer.invoke([SHORT, LONG]):
                both = model.output.logits
        with torch.no_grad():
            expected = model._module(**encoded(LONG)).logits

        scale = expected.abs().max()
        torch.testing.assert_close(plain / scale, expected / scale, atol=1e-4, rtol=0)
        torch.testing.assert_close(both[1:] / scale, expected / scale, atol=1e-4, rtol=0)
        assert not torch.allclose(edited, expected)

    def test_in_a_generation(self, family):
        model = built(family)
        expected = [
            model._module.generate(**encoded(text), max_new_tokens=3, min_new_tokens=3)
            for text in (LONG, SHORT)
        ]
        with model.generate(max_new_tokens=3, min_new_tokens=3) as tracer:
            with tracer.invoke(LONG) as first:
                shapes = []
                for _ in tracer.iter[:]:
                    shapes.append(
                        (model.layers[0].output.shape, first.tokens.numbers.tolist()[0][-1])
                    )
                ids_1 = tracer.result
            with tracer.invoke(SHORT) as second:
                ids_2 = tracer.result

        assert torch.equal(expected[0], ids_1)
        assert torch.equal(expected[1], ids_2[:, 5:])
        assert [((1, 8, 32), 7), ((1, 1, 32), 8), ((1, 1, 32), 9)] == shapes
        assert [expected[1][0].tolist()] == second.tokens.ids


class TestInvokesOfAnyKind:
    def test_kinds_are_mixed(self):
        model = built()
        embeds = model._module.get_input_embeddings()(encoded(SHORT)["input_ids"]).detach()
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(inputs_embeds=embeds):
                from_embeds = model.output.logits
            with tracer.invoke([4, 5, 6]):
                from_ids = model.output.logits
            with tracer.invoke([{"role": "user", "content": "Hello"}]):
                from_chat = model.output.logits
        with torch.no_grad():
            expected = model._module(**encoded(SHORT)).logits

        torch.testing.assert_close(from_embeds[:, -3:], expected)
        assert (1, 6, 97) == from_ids.shape == from_chat.shape

    def test_labels_of_each(self):
        model = built()
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(LONG, labels=LONG):
                loss = model.output.loss
            with tracer.invoke(SHORT):
                pass
        ids = encoded(LONG)
        with torch.no_grad():
            expected = model._module(**ids, labels=ids["input_ids"]).loss

        torch.testing.assert_close(expected, loss)

    def test_options_of_the_trace_are_for_all(self):
        model = built()
        with model.trace(output_hidden_states=True) as tracer:
            with tracer.invoke(LONG):
                one = model.output.hidden_states
            with tracer.invoke(SHORT):
                two = model.output.hidden_states

        assert (3, 3) == (len(one), len(two))
        assert (1, 8, 32) == one[0].shape == two[0].shape

    def test_beams_and_copies_keep_each_prompts_rows(self):
        model = built()
        options = {"max_new_tokens": 3, "num_beams": 2, "num_return_sequences": 2}
        expected = model._module.generate(**encoded(LONG, SHORT), **options)
        with model.generate(**options) as tracer:
            with tracer.invoke(LONG):
                ids_1 = tracer.result
            with tracer.invoke(SHORT) as second:
                shape = model.layers[0].output.shape
                lengths = second.tokens.lengths.tolist()
                ids_2 = tracer.result

        assert torch.equal(expected, torch.cat([ids_1, ids_2]))
        assert ((2, 8, 32), [3, 3]) == (shape, lengths)

    def test_a_streamer_gets_no_made_up_tokens(self):
        got = []

        class Streamer(transformers.generation.BaseStreamer):
            def put(self, value):
                got.append(value.shape)

            def end(self):
                got.append("end")

        model = built()
        with model.generate(max_new_tokens=2, streamer=Streamer()) as tracer:
            with tracer.invoke(LONG):
                _ = model.layers[0].output
            with tracer.invoke(SHORT):
                _ = model.layers[0].output

        assert 1 == got.count("end")

    def test_max_rows(self):
        model = built()
        lengths = []
        with model.trace(max_rows=2) as tracer:
            for text in (LONG, SHORT, LONG, SHORT, SHORT):
                with tracer.invoke(text):
                    lengths.append(model.output.logits.shape[0])

        assert [1] * 5 == lengths

    def test_a_cache_is_edited_in_ones_own_rows(self):
        """As evicting a token of the prompt: the other prompt's answer stays."""
        model = built()
        options = {"max_new_tokens": 4, "min_new_tokens": 4}
        expected = model._module.generate(**encoded(LONG, LONG), **options)

        def evict(cache):
            for layer in cache.layers:
                layer.values[:, :, :6] = 0

        name = "cache" if "cache" in model._reader._parameters else "past_key_values"
        with model.generate(LONG, **options) as tracer:
            for _ in tracer.iter[0:1]:
                evict(model.output[name])
            alone = tracer.result
        with model.generate(**options) as tracer:
            with tracer.invoke(LONG):
                untouched = tracer.result
            with tracer.invoke(LONG):
                for _ in tracer.iter[0:1]:
                    cache = model.output[name]
                    shape = cache.layers[0].keys.shape
                    evict(cache)
                edited = tracer.result

        assert (1, 4, 8, 8) == shape
        assert torch.equal(expected[:1], untouched)
        assert torch.equal(alone, edited)
        assert not torch.equal(untouched, edited)

    def test_a_tensor_of_ones_rows_of_a_cache_cannot_be_replaced(self):
        model = built()
        name = "cache" if "cache" in model._reader._parameters else "past_key_values"
        with pytest.raises(BatchAxisError, match="`keys` of one invoke's rows of a cache"):
            with model.trace() as tracer:
                with tracer.invoke(LONG):
                    layer = model.output[name].layers[0]
                    layer.keys = layer.keys * 2
                with tracer.invoke(SHORT):
                    pass


@pytest.mark.parametrize("family", DECODERS)
class TestScan:
    def test_shapes_are_those_of_a_real_run_and_no_weight_is_loaded(self, family, tmp_path):
        model = LanguageModel(saved(tmp_path, family), tokenizer())
        with model.scan([LONG, SHORT]) as tracer:
            hidden = model.layers[0].output
            logits = model.output.logits
            numbers = tracer.tokens.numbers
        dispatched = model.dispatched
        with model.trace([LONG, SHORT]):
            real = model.layers[0].output
            real_logits = model.output.logits

        assert not dispatched
        assert (real.shape, real.dtype, real.device) == (hidden.shape, hidden.dtype, hidden.device)
        assert real_logits.shape == logits.shape
        assert [-1] * 5 + [0, 1, 2] == numbers[1].tolist()

    def test_a_generation(self, family, tmp_path):
        model = LanguageModel(saved(tmp_path, family), tokenizer())
        shapes = []
        with model.scan(SHORT, fn="generate", max_new_tokens=3, min_new_tokens=3) as tracer:
            for _ in tracer.iter[:]:
                shapes.append(model.layers[0].output.shape)
            ids = tracer.result

        assert not model.dispatched
        assert [(1, 3, 32), (1, 1, 32), (1, 1, 32)] == shapes
        assert (1, 6) == ids.shape


def test_a_mistake_is_found_before_the_weights_are_loaded(tmp_path):
    model = LanguageModel(saved(tmp_path), validate=True)

    def mistaken():
        model.layers[0].output = model.layers[0].output[:, :, :7]

    with pytest.raises(ScanMismatchError):
        model.trace(SHORT).run(mistaken)

    assert not model.dispatched


class TestLife:
    def test_a_model_is_freed_with_its_last_name(self):
        gc.disable()
        try:
            model = built()
            alive = weakref.ref(model._module)
            with model.trace(SHORT) as tracer:
                hidden = model.layers[0].attn.output
            with model.generate(SHORT, max_new_tokens=2) as tracer:
                _ = model.layers[0].output
            del model

            assert alive() is None
            assert (1, 3, 32) == hidden.shape
            assert 5 == len(tracer.tokens.ids[0])
        finally:
            gc.enable()

    def test_a_standard_part_keeps_what_it_needs(self):
        layer = built().layers[0]

        assert "attn" in dir(layer)
        assert "transformer.h.0.attn" == layer.attn.path

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_a_copy_is_a_model_of_its_own(self, copied):
        model = built()
        other = copied(model)
        with torch.no_grad(), model.trace(SHORT):
            expected = model.output.logits
        with torch.no_grad():
            other._module.transformer.wte.weight.zero_()
            with other.trace(SHORT):
                hidden = other.layers[0].output
                changed = other.output.logits
        with torch.no_grad(), model.trace(SHORT):
            again = model.output.logits

        assert other._module is not model._module
        assert torch.equal(expected, again)
        assert not torch.equal(expected, changed)
        assert (1, 3, 32) == hidden.shape

    def test_a_part_of_a_wrapper_that_is_gone(self, tmp_path):
        embedding = LanguageModel(saved(tmp_path)).transformer.wte
        with pytest.raises(WeightsNotLoadedError, match="`transformer.wte` is a part of is gone"):
            _ = embedding.weight
