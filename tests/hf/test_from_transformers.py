"""`Model.from_transformers`: any task's head, and labels of classifiers."""

from __future__ import annotations

import pytest
import torch
import transformers
from decoders import saved, tokenizer
from families import DEEP, FAMILIES, GROUPED, TEXT

import tracekit
from tracekit.errors import ModelNotFoundError, WrongModelClassError
from tracekit.hf import TransformersModel

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


@pytest.mark.parametrize(
    "auto", ["AutoModelForMaskedLM", transformers.AutoModelForMaskedLM], ids=["name", "class"]
)
def test_by_class_or_by_name(auto, tmp_path):
    folder = saved(tmp_path, "bert")
    model = tracekit.Model.from_transformers(auto, folder)
    assert not model.dispatched
    with torch.no_grad(), model.trace(LONG):
        found = model.bert.encoder.layer[0]["output"].output
        logits = model.output.logits
    real = transformers.BertForMaskedLM.from_pretrained(folder)
    with torch.no_grad():
        expected = real(**tokenizer()(LONG, return_tensors="pt")).logits

    assert isinstance(model, TransformersModel)
    assert torch.equal(expected, logits)
    assert (1, 8, 32) == found.shape


def test_a_class_that_is_not_there(tmp_path):
    with pytest.raises(WrongModelClassError, match="no model class 'AutoModelForMaskedLMs'"):
        tracekit.Model.from_transformers("AutoModelForMaskedLMs", saved(tmp_path, "bert"))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelNotFoundError):
        tracekit.Model.from_transformers("AutoModelForMaskedLM", tmp_path / "bert")


@pytest.fixture(scope="module")
def module():
    config = transformers.LlamaConfig(**TEXT, **DEEP, **GROUPED, num_labels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def expected(module):
    encoding = tokenizer()([LONG, SHORT], return_tensors="pt", padding=True)
    with torch.no_grad():
        return module(**encoding, labels=torch.tensor([1, 2]))


class TestLabelsOfAClassifier:
    """A row has one label, not one for each token."""

    @pytest.mark.parametrize("labels", [[1, 2], torch.tensor([1, 2])], ids=["list", "tensor"])
    def test_of_several_rows(self, module, expected, labels):
        model = TransformersModel(module, tokenizer())
        with torch.no_grad(), model.trace([LONG, SHORT], labels=labels):
            loss = model.output.loss

        assert expected.loss == loss

    def test_of_each_invoke(self, module, expected):
        model = TransformersModel(module, tokenizer())
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(LONG, labels=1):
                logits = model.output.logits
            with tracer.invoke(SHORT, labels=[2]):
                pass
            with tracer.invoke():
                loss = model.output.loss

        torch.testing.assert_close(expected.loss, loss)
        torch.testing.assert_close(expected.logits[:1], logits)

    def test_an_invoke_without_one_is_left_out_of_the_loss(self, module):
        model = TransformersModel(module, tokenizer())
        with torch.no_grad(), model.trace(LONG, labels=1):
            alone = model.output.loss
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(LONG, labels=1):
                loss = model.output.loss
            with tracer.invoke(SHORT):
                pass

        torch.testing.assert_close(alone, loss)

    def test_of_images(self):
        module = FAMILIES["vit"].build()
        call = {**FAMILIES["vit"].inputs(2), "labels": [0, 1]}
        model = TransformersModel(module)
        with torch.no_grad(), model.trace(**call):
            loss = model.output.loss
        with torch.no_grad():
            expected = module(**{**call, "labels": torch.tensor([0, 1])}).loss

        assert expected == loss
