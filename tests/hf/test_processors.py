"""Images and audio: through a processor, against the model called with what it makes.

Whisper's processor is transformers' own. That of images needs packages that are not installed
here, so a stand-in is used, with the calls that transformers' processors take.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from decoders import DECODERS, saved, tokenizer
from families import FAMILIES, VOCAB

from tracekit.errors import BatchAxisError, NoTokenizerError, PromptError
from tracekit.hf import LanguageModel, TransformersModel

IMAGE = VOCAB - 1
TEXT = "<image> The cat sat on"
SHORT = "<image> a dog"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


class Processor:
    """A picture of 16 x 16 is four tokens."""

    def __init__(self):
        self.tokenizer = tokenizer()
        self.chat_template = "yes"

    def __call__(
        self, images=None, text=None, *, padding=False, padding_side=None, return_tensors="pt"
    ):
        texts = [text] if isinstance(text, str) else list(text)
        rows = []
        for one in texts:
            row = []
            for word in one.split():
                ids = self.tokenizer(word)["input_ids"]
                row += [IMAGE] * 4 if word == "<image>" else ids
            rows.append(row)
        width = max(map(len, rows)) if padding else len(rows[0])
        left = padding_side == "left"
        padded, mask = [], []
        for row in rows:
            pads, ones = [0] * (width - len(row)), [1] * len(row)
            padded.append(pads + row if left else row + pads)
            mask.append(pads + ones if left else ones + pads)
        found = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
        if images is not None:
            found["pixel_values"] = torch.stack(images if isinstance(images, list) else [images])
        return transformers.BatchFeature(found)

    def apply_chat_template(self, chat, **options):
        options = {k: v for k, v in options.items() if k.startswith("padding")}
        chats = chat if isinstance(chat[0], list) else [chat]
        parts = [part for one in chats for message in one for part in message["content"]]
        texts = [
            " ".join(
                "<image>" if part["type"] == "image" else part["text"]
                for message in one
                for part in message["content"]
            )
            for one in chats
        ]
        images = [part["image"] for part in parts if part["type"] == "image"]
        return self(images=images, text=texts, **options)


def picture(seed):
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed))


class TestImages:
    @pytest.fixture
    def model(self):
        return LanguageModel(FAMILIES["llava"].build(), processor=Processor())

    def test_an_image_and_a_text(self, model):
        made = Processor()(images=picture(1), text=TEXT)
        with torch.no_grad():
            expected = model._module(**made).logits
        with torch.no_grad(), model.trace(TEXT, images=picture(1)) as tracer:
            tower = model.model.vision_tower.output.last_hidden_state
            hidden = model.layers[0].output
            logits = model.output.logits
        with torch.no_grad(), model.trace(text=TEXT, images=picture(1)):
            by_name = model.output.logits

        assert (1, 8, 32) == hidden.shape
        assert tower.shape[1] in (4, 5)
        assert torch.equal(expected, logits)
        assert torch.equal(expected, by_name)
        assert [8] == tracer.tokens.lengths.tolist()

    def test_several_in_a_batch_are_as_alone(self, model):
        alone = []
        for text, seed in ((TEXT, 1), (SHORT, 2)):
            with torch.no_grad(), model.trace(text, images=picture(seed)):
                alone.append(model.output.logits[0])
        with torch.no_grad(), model.trace([TEXT, SHORT], images=[picture(1), picture(2)]):
            together = model.output.logits

        for row, expected in enumerate(alone):
            torch.testing.assert_close(together[row, -len(expected) :], expected)

    def test_each_invoke_has_its_picture(self, model):
        with torch.no_grad(), model.trace(SHORT, images=picture(2)):
            expected = model.output.logits
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(TEXT, images=picture(1)):
                model.layers[0].output[:] = 0
                edited = model.output.logits
            with tracer.invoke(SHORT, images=picture(2)):
                plain = model.output.logits

        torch.testing.assert_close(plain[:, -6:], expected)
        assert not torch.allclose(plain, edited)

    @pytest.mark.parametrize("order", ["AB", "BA", "CB", "BCA"])
    def test_prompts_with_and_without_images_beside_one_another(self, model, order):
        given = {
            "A": ((TEXT,), {"images": picture(1)}),
            "B": (("Rome is in",), {}),
            "C": (("<image> a <image> dog",), {"images": [picture(2), picture(3)]}),
        }

        def read():
            return model.layers[1].attn.q, model.layers[1].output, model.output.logits

        alone = {}
        for name, (args, kwargs) in given.items():
            with torch.no_grad(), model.trace(*args, **kwargs):
                alone[name] = read()
        found = []
        with torch.no_grad(), model.trace() as tracer:
            for name in order:
                args, kwargs = given[name]
                with tracer.invoke(*args, **kwargs):
                    found.append(read())
        for name, values in zip(order, found, strict=True):
            for value, expected in zip(values, alone[name], strict=True):
                torch.testing.assert_close(value[:, -expected.shape[1] :], expected)

    def test_the_part_that_sees_images_has_no_rows_of_prompts_then(self, model):
        tracer = model.trace()
        with pytest.raises(BatchAxisError, match=r"`model.vision_tower` has no rows of its own"):
            with torch.no_grad(), tracer:
                with tracer.invoke(TEXT, images=picture(1)):
                    _ = model.model.vision_tower.output
                with tracer.invoke("Rome is in"):
                    pass
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(TEXT, images=picture(1)):
                pass
            with tracer.invoke("Rome is in"):
                pass
            with tracer.invoke():
                seen = model.model.multi_modal_projector.output

        assert (1, 4, 32) == seen.shape

    def test_in_a_generation_too(self, model):
        expected = [
            model.generate("Rome is in", max_new_tokens=3, min_new_tokens=3, trace=False)[0, -3:],
            model.generate(
                TEXT, images=picture(1), max_new_tokens=3, min_new_tokens=3, trace=False
            )[0, -3:],
        ]
        with model.generate(max_new_tokens=3, min_new_tokens=3) as tracer:
            with tracer.invoke("Rome is in"):
                first = tracer.result[0, -3:]
            with tracer.invoke(TEXT, images=picture(1)):
                second = tracer.result[0, -3:]

        assert all(map(torch.equal, expected, (first, second)))

    def test_a_chat_with_an_image(self, model):
        def chat(text, seed):
            content = [
                {"type": "image", "image": picture(seed)},
                {"type": "text", "text": text},
            ]
            return [{"role": "user", "content": content}]

        with torch.no_grad(), model.trace("<image> a dog", images=picture(2)):
            expected = model.output.logits
        with torch.no_grad(), model.trace(chat("a dog", 2)):
            logits = model.output.logits
        with torch.no_grad(), model.trace([chat("The cat sat on", 1), chat("a dog", 2)]):
            both = model.output.logits

        assert torch.equal(expected, logits)
        torch.testing.assert_close(both[1:, -6:], expected)

    def test_a_generation(self, model):
        made = Processor()(images=picture(1), text=TEXT)
        expected = model._module.generate(**made, max_new_tokens=3, min_new_tokens=3)
        numbers = []
        with model.generate(TEXT, images=picture(1), max_new_tokens=3, min_new_tokens=3) as tracer:
            for _ in tracer.iter[:]:
                _ = model.layers[0].output
                numbers.append(tracer.tokens.numbers[0, -1].item())
            ids = tracer.result

        assert torch.equal(expected, ids)
        assert [7, 8, 9] == numbers

    def test_shapes_before_the_weights(self, tmp_path):
        path = saved(tmp_path, "llava", with_tokenizer=False)
        model = LanguageModel(path, processor=Processor())
        with model.scan(TEXT, images=picture(1)):
            shape = model.layers[0].output.shape

        assert (1, 8, 32) == shape
        assert not model.dispatched


class TestAudio:
    @pytest.fixture
    def processor(self):
        features = transformers.WhisperFeatureExtractor(
            feature_size=8, chunk_length=1, hop_length=500
        )
        made = transformers.WhisperTokenizerFast(tokenizer_object=tokenizer()._tokenizer)
        return transformers.WhisperProcessor(features, made)

    @pytest.fixture
    def model(self, processor):
        return LanguageModel(FAMILIES["whisper"].build(), processor=processor)

    @staticmethod
    def sound(seed):
        return np.random.default_rng(seed).standard_normal(16000).astype("float32")

    def test_a_sound(self, model, processor):
        made = processor(audio=self.sound(1), sampling_rate=16000, return_tensors="pt")
        given = {"decoder_input_ids": torch.tensor([[1, 5, 6]])}
        with torch.no_grad():
            expected = model._module(**made, **given).logits
        with torch.no_grad(), model.trace(audio=self.sound(1), sampling_rate=16000, **given):
            heard = model.model.encoder.output.last_hidden_state
            logits = model.output.logits

        assert torch.equal(expected, logits)
        assert (1, 16, 32) == heard.shape

    def test_each_invoke_hears_its_own(self, model):
        given = {"decoder_input_ids": torch.tensor([[1, 5, 6]]), "sampling_rate": 16000}
        with torch.no_grad(), model.trace(audio=self.sound(2), **given):
            expected = model.output.logits
        with torch.no_grad(), model.trace() as tracer:
            with tracer.invoke(audio=self.sound(1), **given):
                model.model.encoder.conv1.output[:] = 0
            with tracer.invoke(audio=self.sound(2), **given):
                plain = model.output.logits

        torch.testing.assert_close(plain, expected)

    def test_a_transcription(self, model, processor):
        made = processor(audio=self.sound(1), sampling_rate=16000, return_tensors="pt")
        expected = model._module.generate(**made, max_new_tokens=3)
        with model.generate(audio=self.sound(1), sampling_rate=16000, max_new_tokens=3) as tracer:
            ids = tracer.result

        assert torch.equal(expected, ids)


class TestRefusals:
    def test_images_for_a_model_of_text(self):
        model = LanguageModel(DECODERS["gpt2"].build(), tokenizer(), processor=tokenizer())
        with pytest.raises(PromptError, match="^images were given, and the model has no") as caught:
            model.trace("a cat", images=picture(1)).run(lambda: None)

        assert "AutoProcessor.from_pretrained" in caught.value.fix

    def test_a_processor_that_nobody_knows(self):
        model = LanguageModel(FAMILIES["llava"].build())
        with pytest.raises(NoTokenizerError, match="does not know where it was loaded from"):
            model.trace(TEXT, images=picture(1)).run(lambda: None)

    def test_a_processor_that_is_not_in_the_folder(self, tmp_path):
        path = saved(tmp_path, "vit", with_tokenizer=False)
        model = TransformersModel(path, auto="AutoModelForImageClassification")
        with pytest.raises(NoTokenizerError, match="no processor can be loaded") as caught:
            model.trace(images=picture(1)).run(lambda: None)

        assert "processor=AutoProcessor" in caught.value.fix
