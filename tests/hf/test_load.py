"""From a name or a folder to a model: what is read when, and what is said when it is not there."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import transformers
from decoders import DECODERS, saved
from families import FAMILIES
from huggingface_hub import errors as hub_errors

from tracekit.errors import (
    GatedModelError,
    HubUnreachableError,
    ModelNotFoundError,
    NoTokenizerError,
    SkeletonWarning,
    WrongModelClassError,
)
from tracekit.hf import _load
from tracekit.hf._load import explained, future_device, load_tokenizer, open_checkpoint


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


class TestSkeleton:
    @pytest.mark.parametrize("name", DECODERS)
    def test_has_every_name_and_shape_of_the_real_model_and_no_storage(self, name, tmp_path):
        checkpoint = open_checkpoint(saved(tmp_path, name, with_tokenizer=False))
        skeleton, real = checkpoint.skeleton(), checkpoint.load()

        def described(model):
            return {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}

        assert described(real) == described(skeleton)
        assert {"meta"} == {tensor.device.type for tensor in skeleton.parameters()}
        assert not skeleton.training

    def test_tied_weights_are_one_parameter_in_both(self, tmp_path):
        checkpoint = open_checkpoint(saved(tmp_path, "gpt2"))
        for model in (checkpoint.skeleton(), checkpoint.load()):
            assert model.lm_head.weight is model.transformer.wte.weight

    def test_eight_billion_parameters_take_well_under_a_second(self, tmp_path):
        transformers.LlamaConfig(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            intermediate_size=14336,
            vocab_size=128256,
            architectures=["LlamaForCausalLM"],
        ).save_pretrained(tmp_path)
        start = time.process_time()
        skeleton = open_checkpoint(str(tmp_path)).skeleton()
        seconds = time.process_time() - start

        assert sum(p.numel() for p in skeleton.parameters()) > 8e9
        assert seconds < 1

    def test_the_dtype_is_the_checkpoints_unless_one_is_given(self, tmp_path):
        DECODERS["llama"].build().bfloat16().save_pretrained(tmp_path)
        as_saved = open_checkpoint(tmp_path)

        assert (torch.bfloat16, torch.bfloat16) == (
            as_saved.skeleton().dtype,
            as_saved.load().dtype,
        )
        for name in (torch.float32, "float32"):
            wide = open_checkpoint(tmp_path, dtype=name)
            assert (torch.float32, torch.float32) == (wide.skeleton().dtype, wide.load().dtype)

    def test_options_of_the_config_reach_both(self, tmp_path):
        checkpoint = open_checkpoint(
            saved(tmp_path, "llama"), attn_implementation="eager", rms_norm_eps=0.5
        )
        for model in (checkpoint.skeleton(), checkpoint.load()):
            assert ("eager", 0.5) == (model.config._attn_implementation, model.config.rms_norm_eps)

    def test_a_class_that_needs_values_is_loaded_for_real_and_one_line_says_why(
        self, tmp_path, monkeypatch
    ):
        checkpoint = open_checkpoint(saved(tmp_path, "gpt2"))
        init = transformers.GPT2Model.__init__

        def needs_values(self, config):
            init(self, config)
            torch.linspace(0, 1, 3)[1].item()

        monkeypatch.setattr(transformers.GPT2Model, "__init__", needs_values)
        with pytest.warns(SkeletonWarning) as caught:
            assert checkpoint.skeleton() is None
        message = str(caught[0].message)

        assert "loaded now (RuntimeError: Tensor.item() cannot be called on meta" in message
        assert "\n" not in message


class TestMissing:
    def test_a_path_that_is_not_there_names_the_nearest_folder(self, tmp_path):
        folder = Path(saved(tmp_path, "gpt2"))
        with pytest.raises(ModelNotFoundError) as caught:
            open_checkpoint(f"{tmp_path}/gpt")

        assert str(caught.value).startswith(f"there is no folder '{tmp_path}/gpt'")
        assert caught.value.fix == f"tracekit.LanguageModel({str(folder)!r})"

    def test_a_folder_without_a_config_names_the_one_below_that_has_it(self, tmp_path):
        folder = saved(tmp_path, "gpt2")
        with pytest.raises(ModelNotFoundError, match="it has no `config.json`") as caught:
            open_checkpoint(tmp_path)

        assert caught.value.fix == f"tracekit.LanguageModel({folder!r})"

    def test_a_file(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"")
        with pytest.raises(ModelNotFoundError, match="is a file; a model is a folder"):
            open_checkpoint(path)

    def test_what_can_be_no_name(self):
        with pytest.raises(ModelNotFoundError, match="no name that a model on the hub can have"):
            open_checkpoint("foo bar baz")

    def test_a_folder_in_a_folder(self, tmp_path):
        saved(tmp_path, "llama")
        found = open_checkpoint(tmp_path, subfolder="llama")

        assert 2 == found.load().config.num_hidden_layers
        assert found.hub == {"subfolder": "llama"}
        assert 4 == load_tokenizer(found.name, **found.hub)("The")["input_ids"][0]

    def test_a_folder_without_weights(self, tmp_path):
        DECODERS["gpt2"].build().config.save_pretrained(tmp_path)
        with pytest.raises(ModelNotFoundError, match="has a config, but no weights"):
            open_checkpoint(tmp_path).load()

    def test_a_config_that_does_not_say_what_it_is_for(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
        with pytest.raises(ModelNotFoundError, match="does not say which model it is for"):
            open_checkpoint(tmp_path)

    def test_a_name_without_a_network(self):
        with pytest.raises(HubUnreachableError, match="neither a folder here nor in the local"):
            open_checkpoint("nobody/nothing", local_files_only=True)

    @pytest.mark.parametrize(
        ("raised", "expected"),
        [
            (hub_errors.GatedRepoError, GatedModelError),
            (hub_errors.RepositoryNotFoundError, ModelNotFoundError),
        ],
    )
    def test_what_the_hub_answers_is_found_behind_transformers_own_error(self, raised, expected):
        """The hub's errors hold a response; transformers raises an OSError from them."""
        cause = raised.__new__(raised)
        Exception.__init__(cause, "401 client error")
        with pytest.raises(expected, match="'org/name'"), explained("org/name"):
            raise OSError("You are trying to access something") from cause

    def test_other_errors_pass(self):
        with pytest.raises(ValueError, match="something else"), explained("name"):
            raise ValueError("something else")


class TestClass:
    @pytest.mark.parametrize(
        ("family", "auto"),
        [
            ("bert", "AutoModelForMaskedLM"),
            ("vit", "AutoModelForImageClassification"),
            ("clip", "AutoModelForZeroShotImageClassification"),
        ],
    )
    def test_what_generates_no_text_is_refused_with_the_class_to_use(self, family, auto, tmp_path):
        path = saved(tmp_path, family, with_tokenizer=False)
        with pytest.raises(WrongModelClassError, match="does not generate text") as caught:
            open_checkpoint(path)

        assert f"auto={auto!r}" in caught.value.fix

    @pytest.mark.parametrize(
        ("family", "auto"),
        [
            ("t5", "AutoModelForSeq2SeqLM"),
            ("bart", "AutoModelForSeq2SeqLM"),
            ("whisper", "AutoModelForSpeechSeq2Seq"),
            ("llava", "AutoModelForImageTextToText"),
        ],
    )
    def test_what_does_is_loaded_with_its_own_class(self, family, auto, tmp_path):
        checkpoint = open_checkpoint(saved(tmp_path, family, with_tokenizer=False))

        assert auto == checkpoint.auto.__name__
        assert type(FAMILIES[family].build()) is type(checkpoint.load())

    def test_a_bare_decoder_gets_a_head(self, tmp_path):
        DECODERS["llama"].build().model.save_pretrained(tmp_path)

        assert open_checkpoint(tmp_path).auto is transformers.AutoModelForCausalLM

    def test_a_classifier_made_of_a_decoder_is_refused(self, tmp_path):
        config = DECODERS["llama"].build().config
        transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
        with pytest.raises(WrongModelClassError) as caught:
            open_checkpoint(tmp_path)

        assert "AutoModelForSequenceClassification" in caught.value.fix

    def test_the_class_can_be_chosen(self, tmp_path):
        path = saved(tmp_path, "bert", with_tokenizer=False)

        assert type(FAMILIES["bert"].build()) is type(
            open_checkpoint(path, auto="AutoModelForMaskedLM").load()
        )

    def test_a_class_that_transformers_does_not_have(self, tmp_path):
        path = saved(tmp_path, "bert", with_tokenizer=False)
        with pytest.raises(WrongModelClassError, match="no model class 'AutoModelForMaskLM'") as e:
            open_checkpoint(path, auto="AutoModelForMaskLM")

        assert "AutoModelForMaskedLM" in e.value.seen


class TestTokenizer:
    def test_comes_with_the_checkpoint(self, tmp_path):
        assert load_tokenizer(saved(tmp_path))("Rome")["input_ids"] == [16]

    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_a_folder_without_one(self, tmp_path, family):
        path = saved(tmp_path, family, with_tokenizer=False)
        with pytest.raises(NoTokenizerError, match="has no tokenizer files"):
            load_tokenizer(path)

    def test_one_that_cannot_be_read(self, tmp_path):
        path = saved(tmp_path, with_tokenizer=False)
        (Path(path) / "tokenizer.json").write_text("{}")
        with pytest.raises(NoTokenizerError, match="no tokenizer can be loaded"):
            load_tokenizer(path)

    def test_a_processor_that_is_not_there(self, tmp_path):
        path = saved(tmp_path, "vit", with_tokenizer=False)
        with pytest.raises(NoTokenizerError, match="no processor can be loaded"):
            _load.load_processor(path)


class TestDevice:
    @pytest.mark.parametrize(
        ("device_map", "device"),
        [
            (None, "cpu"),
            ("cpu", "cpu"),
            ("cuda:1", "cuda:1"),
            (torch.device("cuda", 1), "cuda:1"),
            (1, "cuda:1"),
            ({"": "cpu"}, "cpu"),
            ({"model.embed_tokens": "cuda:2", "model.layers": 0}, "cuda:2"),
            ({"model": "disk"}, "cpu"),
        ],
    )
    def test_is_known_before_loading(self, device_map, device):
        assert torch.device(device) == future_device(device_map)

    def test_auto_is_the_accelerator_if_there_is_one(self, monkeypatch):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        without = future_device("auto")
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))

        assert (torch.device("cpu"), torch.device("cuda:0")) == (without, future_device("auto"))
