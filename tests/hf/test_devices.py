"""Where values are: offloaded weights, several devices (as shapes), and mixing them.

No machine of these tests has an accelerator: what is said of one is tested on shapes.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from decoders import saved, tokenizer

from tracekit.errors import DevicesDifferError
from tracekit.hf import LanguageModel

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


@pytest.fixture
def split(tmp_path):
    """A Llama whose first layer stays on the disk, and the same one in memory."""
    pytest.importorskip("accelerate")
    path = saved(tmp_path, "llama")
    parts = ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb")
    places = {**{f"model.{part}": "cpu" for part in parts}, "lm_head": "cpu"}
    places["model.layers.0"] = "disk"
    split = LanguageModel(path, device_map=places, offload_folder=str(tmp_path / "offloaded"))
    return split, LanguageModel(path, dispatch=True)


class TestOffloadedToDisk:
    def test_values_and_parameters_are_those_of_the_model_in_memory(self, split):
        model, plain = split
        assert torch.device("cpu") == model.device
        with torch.no_grad(), model.trace([LONG, SHORT]):
            weight = model.layers[0].mlp.up_proj.weight
            hidden = [layer.output for layer in model.layers]
            logits = model.output.logits
        with torch.no_grad(), plain.trace([LONG, SHORT]):
            expected = [layer.output for layer in plain.layers]
            expected_logits = plain.output.logits

        assert model._module.model.layers[0].mlp.up_proj.weight.is_meta
        assert torch.equal(plain._module.model.layers[0].mlp.up_proj.weight, weight)
        assert all(torch.equal(*pair) for pair in zip(expected, hidden, strict=True))
        assert torch.equal(expected_logits, logits)
        assert torch.device("cpu") == model.device

    def test_edits_heads_and_invokes(self, split):
        for model in split:
            model.set_attn_implementation("eager")
        got = []
        for model in split:
            with torch.no_grad(), model.trace() as tracer:
                with tracer.invoke(LONG):
                    model.layers[0].attn.z[:, :, 1] = 0
                    edited = model.output.logits
                with tracer.invoke(SHORT):
                    pattern = model.layers[0].attn.pattern
                    plain = model.output.logits
            got.append((edited, pattern, plain))

        assert all(torch.equal(*pair) for pair in zip(*got, strict=True))

    def test_a_generation(self, split):
        ids = []
        for model in split:
            with model.generate(LONG, max_new_tokens=4, min_new_tokens=4) as tracer:
                for _ in tracer.iter[:]:
                    model.layers[0].output[:, :, 3] += 1
                ids.append(tracer.result)

        assert torch.equal(*ids)

    def test_the_lens_through_offloaded_parts(self, tmp_path):
        accelerate = pytest.importorskip("accelerate")
        path = saved(tmp_path, "llama")
        plain = LanguageModel(path, dispatch=True)
        module = transformers.AutoModelForCausalLM.from_pretrained(path)
        accelerate.disk_offload(module, str(tmp_path / "offloaded"), torch.device("cpu"))
        model = LanguageModel(module, tokenizer())
        with torch.no_grad(), model.trace(SHORT):
            hidden = model.layers[-1].output
            logits = model.output.logits
            lens = model.logit_lens(hidden)
        with torch.no_grad(), plain.trace(SHORT):
            expected = plain.output.logits

        assert torch.equal(expected, logits)
        assert torch.equal(expected, lens)
        assert torch.equal(plain.lm_head.weight, model.lm_head.weight)


class TestDevicesThatAreMixed:
    def test_a_value_of_another_device_is_not_assigned(self, tmp_path):
        model = LanguageModel(saved(tmp_path), device_map="cuda")

        def block():
            model.layers[0].output = torch.zeros(1, 3, 32)

        with pytest.raises(DevicesDifferError) as caught:
            model.scan(SHORT).run(block)

        assert "a tensor on cpu is assigned to an output on cuda:0" == caught.value.args[0]
        assert "assign `value.to('cuda:0')`" == caught.value.fix
        assert torch.device("cuda") == model.device
        assert not model.dispatched

    def test_torchs_own_error_gets_what_to_do(self, tmp_path):
        model = LanguageModel(saved(tmp_path), device_map="cuda")
        with pytest.raises(RuntimeError, match="same device|two different devices") as caught:
            with model.scan(SHORT):
                hidden = model.layers[0].output
                _ = hidden + torch.zeros(32)

        assert "move one to the other: `x.to(hidden.device)`" in "".join(caught.value.__notes__)

    def test_values_come_on_the_device_of_the_model(self, tmp_path):
        model = LanguageModel(saved(tmp_path), device_map="cuda")
        with model.scan([LONG, SHORT]):
            hidden = model.layers[0].output
            model.layers[1].output = hidden + torch.zeros(32).to(hidden.device)
            logits = model.output.logits

        assert torch.device("cuda", 0) == hidden.device == logits.device

    def test_also_in_a_real_run(self, tmp_path):
        model = LanguageModel(saved(tmp_path))

        def block():
            model.layers[0].output = torch.zeros(1, 3, 32, device="meta")

        with pytest.raises(DevicesDifferError, match="a tensor on meta is assigned"):
            model.trace(SHORT).run(block)
