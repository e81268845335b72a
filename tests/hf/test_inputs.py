"""What a person has, as what a forward takes; a prompt gives the same alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import DECODERS, tokenizer
from families import FAMILIES, VOCAB, ids, pixels, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding

from tracekit.errors import DoubleBosWarning, MixedInputsError, NoTokenizerError, PromptError
from tracekit.hf._inputs import Reader
from tracekit.hf._load import no_tokenizer
from tracekit.hf._names import anatomy
from tracekit.hf._prompts import positions_of, rows_of

LONG = "The Eiffel Tower is in the city of"
SHORT = "Rome is in"


def no_tokenizer_here():
    raise no_tokenizer("none")


def reader(model, tok=None, processor=None):
    tok = tokenizer() if tok is None else tok
    return Reader(
        model,
        lambda: tok,
        (lambda: processor) if processor is not None else no_tokenizer_here,
        model.get_input_embeddings(),
    )


@pytest.fixture(scope="module")
def gpt2():
    return DECODERS["gpt2"].build()


def call(reader, *args, **kwargs):
    return reader.join([reader.read(args, kwargs)])


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else True
        for key in left
    )


class TestKinds:
    def test_text_is_the_call_one_writes_with_transformers(self, gpt2):
        expected = dict(tokenizer()(LONG, return_tensors="pt"))

        assert same(expected, call(reader(gpt2), LONG))
        assert same(expected, call(reader(gpt2), text=LONG))
        assert same(expected, call(reader(gpt2), [LONG]))

    def test_texts_are_padded_on_the_left(self, gpt2):
        got = call(reader(gpt2), [LONG, SHORT])

        assert [1] * 8 == got["attention_mask"][0].tolist()
        assert [0] * 5 + [1] * 3 == got["attention_mask"][1].tolist()
        assert [0] * 5 + tokenizer()(SHORT)["input_ids"] == got["input_ids"][1].tolist()
        assert [0, 0, 0, 0, 0, 0, 1, 2] == got["position_ids"][1].tolist()

    @pytest.mark.parametrize(
        "given",
        [
            [5, 6, 7],
            (5, 6, 7),
            [[5, 6, 7]],
            torch.tensor([5, 6, 7]),
            torch.tensor([[5, 6, 7]]),
            np.array([5, 6, 7]),
            [np.array([5, 6, 7])],
            [torch.tensor([5, 6, 7])],
            {"input_ids": [5, 6, 7]},
            {"input_ids": torch.tensor([[5, 6, 7]])},
            BatchEncoding({"input_ids": [[5, 6, 7]]}),
        ],
    )
    def test_ids_in_any_shape_are_one_row(self, gpt2, given):
        assert same({"input_ids": torch.tensor([[5, 6, 7]])}, call(reader(gpt2), given))

    def test_ragged_ids_are_padded_and_masked(self, gpt2):
        got = call(reader(gpt2), [[5, 6, 7], [8]])

        assert [[5, 6, 7], [0, 0, 8]] == got["input_ids"].tolist()
        assert [[1, 1, 1], [0, 0, 1]] == got["attention_mask"].tolist()

    def test_an_encoding_is_passed_as_it_is(self, gpt2):
        """Padded on the right by the user, it stays so: no position ids are needed."""
        encoding = tokenizer()([LONG, SHORT], padding=True, return_tensors="pt")

        assert same(dict(encoding), call(reader(gpt2), encoding))
        assert same(dict(encoding), call(reader(gpt2), **encoding))

    def test_an_encoding_padded_on_the_left_gets_positions(self, gpt2):
        encoding = tokenizer()(
            [LONG, SHORT], padding=True, padding_side="left", return_tensors="pt"
        )
        got = call(reader(gpt2), encoding)

        assert torch.equal(positions_of(encoding["attention_mask"]), got["position_ids"])

    def test_a_chat_goes_through_the_template(self, gpt2):
        chat = [{"role": "user", "content": "Hello world"}]
        other = [*chat, {"role": "assistant", "content": "Hello"}]
        tok = tokenizer()

        def words(*chats):
            rows = call(reader(gpt2, tok), *chats)["input_ids"]
            return [tok.decode(row, skip_special_tokens=False).split() for row in rows]

        asked = "<s> user : Hello world assistant :".split()
        answered = "<s> user : Hello world assistant : Hello".split()
        assert [asked] == words(chat) == words(chat[0])
        assert [answered] == words(other)
        assert [asked, asked] == words([chat, chat])

    def test_a_chat_without_a_template(self, gpt2):
        with pytest.raises(PromptError, match="the tokenizer has no chat template"):
            call(reader(gpt2, tokenizer(chat=False)), [{"role": "user", "content": "Hello"}])

    def test_embeddings(self, gpt2):
        embedded = torch.randn(4, 32)

        assert same({"inputs_embeds": embedded[None]}, call(reader(gpt2), inputs_embeds=embedded))

    def test_other_keywords_are_the_forwards(self, gpt2):
        got = call(reader(gpt2), SHORT, output_hidden_states=True, use_cache=None)

        assert True is got["output_hidden_states"]
        assert "use_cache" not in got

    def test_special_tokens_can_be_left_out(self, gpt2):
        both = reader(gpt2, tokenizer(bos=True))

        assert 4 == call(both, SHORT)["input_ids"].shape[1]
        assert 3 == call(both, SHORT, add_special_tokens=False)["input_ids"].shape[1]


class TestLabels:
    def test_texts_are_padded_with_what_the_loss_leaves_out(self, gpt2):
        got = call(reader(gpt2), [LONG, SHORT], labels=[LONG, SHORT])

        # Nothing predicts a prompt's first token when it is alone, and no pad does here.
        assert [-100] * 6 + tokenizer()(SHORT)["input_ids"][1:] == got["labels"][1].tolist()
        assert tokenizer()(LONG)["input_ids"] == got["labels"][0].tolist()

    @pytest.mark.parametrize("given", ["a list", "invokes"])
    def test_the_loss_of_a_batch_is_that_of_its_prompts(self, gpt2, given):
        both = reader(gpt2)
        if given == "a list":
            batch = call(both, [LONG, SHORT], labels=[LONG, SHORT])
        else:
            batch = both.join([both.read([one], {"labels": one}) for one in (SHORT, LONG)])
        losses = [gpt2(**call(both, one, labels=one)).loss for one in (LONG, SHORT)]

        torch.testing.assert_close((losses[0] * 7 + losses[1] * 2) / 9, gpt2(**batch).loss)

    def test_the_loss_is_transformers_own(self, gpt2):
        encoding = dict(tokenizer()(LONG, return_tensors="pt"))
        expected = gpt2(**encoding, labels=encoding["input_ids"]).loss

        assert expected == gpt2(**call(reader(gpt2), LONG, labels=LONG)).loss

    def test_an_invoke_without_labels_is_left_out_of_the_loss(self, gpt2):
        both = reader(gpt2)
        got = both.join([both.read([LONG], {"labels": LONG}), both.read([SHORT], {})])
        encoding = dict(tokenizer()(LONG, return_tensors="pt"))

        assert [-100] * 8 == got["labels"][1].tolist()
        torch.testing.assert_close(
            gpt2(**encoding, labels=encoding["input_ids"]).loss, gpt2(**got).loss
        )

    def test_of_another_shape(self, gpt2):
        with pytest.raises(
            PromptError, match=r"labels of shape \(1, 3\) for ids of shape \(1, 8\)"
        ):
            call(reader(gpt2), LONG, labels=SHORT)


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("", "the prompt is empty"),
            (["Rome", ""], "text 1 of 2 is empty"),
            ([], "the list of prompts is empty"),
            ([[]], "prompt 0 of 1 has no tokens"),
            ([[5], []], "prompt 1 of 2 has no tokens"),
            (7, "7 is no prompt"),
            ([5, "Rome"], "entry 0 of the list is 5"),
            ([[5], "Rome"], "entry 1 of the list is 'Rome'"),
            ([True], "entry 0 of the list is True"),
            (torch.zeros(2, 3), "a tensor of float32 is no token ids"),
            (torch.zeros(2, 3, 4, dtype=torch.long), r"token ids of shape \(2, 3, 4\)"),
            (torch.zeros(1, 0, dtype=torch.long), r"token ids of shape \(1, 0\)"),
        ],
    )
    def test_what_is_no_prompt(self, gpt2, given, message):
        with pytest.raises(PromptError, match=message):
            call(reader(gpt2), given)

    def test_two_side_by_side(self, gpt2):
        with pytest.raises(PromptError, match="2 prompts were given side by side") as caught:
            call(reader(gpt2), LONG, SHORT)

        assert f"one list: ['{LONG}', '{SHORT}']" in caught.value.fix

    def test_twice(self, gpt2):
        with pytest.raises(PromptError, match="the prompt is given twice"):
            call(reader(gpt2), LONG, input_ids=torch.tensor([[5]]))

    def test_a_mask_of_other_rows(self, gpt2):
        with pytest.raises(PromptError, match="attention_mask has 1 rows, the prompt has 2"):
            call(reader(gpt2), [[5], [6]], attention_mask=torch.ones(1, 1))

    def test_text_without_a_tokenizer(self, gpt2):
        bare = Reader(gpt2, no_tokenizer_here, no_tokenizer_here, gpt2.get_input_embeddings())
        with pytest.raises(NoTokenizerError):
            bare.read([LONG], {})

        assert 1 == bare.read([[5, 6]], {}).rows

    def test_images_without_a_processor(self, gpt2):
        tok = tokenizer()
        with pytest.raises(PromptError, match="images were given, and the model has no processor"):
            reader(gpt2, tok, tok).read(["Rome"], {"images": torch.zeros(3, 4, 4)})


class TestDoubleBos:
    def test_warns_at_the_users_line(self, gpt2):
        both = reader(gpt2, tokenizer(bos=True))
        with pytest.warns(DoubleBosWarning, match="prompt 1 begins with two") as caught:
            both.read([["Rome", "<s> Rome"]], {})

        assert __file__ == caught[0].filename

    @pytest.mark.parametrize("given", ["<s> Rome", [[1, 5]], [[5, 1, 1]]])
    def test_one_is_fine(self, gpt2, given):
        assert 1 == reader(gpt2).read([given], {}).rows

    def test_padding_with_it_is_fine(self, gpt2):
        mask = torch.tensor([[0, 0, 1, 1]])

        assert reader(gpt2).read([[1, 1, 1, 5]], {"attention_mask": mask})


def activations(model, call):
    """Outputs of all layers and the logits, by hand-written hooks."""
    found = []
    layers = model.get_submodule(anatomy(model, model.config).layers)
    handles = [
        layer.register_forward_hook(
            lambda module, args, out: found.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            found.append(model(**call).logits)
    finally:
        for handle in handles:
            handle.remove()
    return found


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request):
    model = DECODERS[request.param].build()
    # Weights as large as a trained model's, so that a wrong position or mask shows.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and name.endswith("weight"):
                parameter.mul_(4)
    return model


PROMPTS = st.lists(st.lists(st.integers(3, 40), min_size=1, max_size=12), min_size=2, max_size=4)


class TestAloneAndInABatch:
    @settings(max_examples=8, deadline=None)
    @given(prompts=PROMPTS, kinds=st.lists(st.sampled_from(["ids", "rows", "embeds"]), min_size=4))
    def test_a_prompt_gives_the_same(self, decoder, prompts, kinds):
        """In a batch of any prompts, given in any form, to float tolerance; all families."""
        both = reader(decoder)

        def read(row, kind):
            if kind == "embeds":
                ids = torch.tensor([row])
                return both.read([], {"inputs_embeds": decoder.get_input_embeddings()(ids)})
            return both.read([row if kind == "ids" else torch.tensor([row])], {})

        parts = [read(row, kind) for row, kind in zip(prompts, kinds, strict=False)]
        together = activations(decoder, both.join(parts))
        for row, (prompt, part) in enumerate(zip(prompts, parts, strict=True)):
            for got, alone in zip(together, activations(decoder, both.join([part])), strict=True):
                scale = float(alone.abs().max())
                torch.testing.assert_close(
                    got[row : row + 1, -len(prompt) :] / scale, alone / scale, atol=1e-4, rtol=0
                )

    def test_a_prompt_alone_gives_what_transformers_gives(self, decoder):
        both = reader(decoder)
        expected = activations(decoder, dict(tokenizer()(LONG, return_tensors="pt")))
        got = activations(decoder, both.join([both.read([LONG], {})]))

        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))

    def test_without_positions_it_would_be_wrong(self, gpt2):
        """The test above can fail: GPT-2 has learned positions."""
        both = reader(gpt2)
        batch = both.join([both.read([LONG], {}), both.read([SHORT], {})])
        alone = activations(gpt2, both.join([both.read([SHORT], {})]))
        right = activations(gpt2, batch)
        del batch["position_ids"]
        wrong = activations(gpt2, batch)

        torch.testing.assert_close(right[0][1:, -3:], alone[0])
        assert (wrong[0][1:, -3:] - alone[0]).abs().max() > 1e-3

    def test_rows_follow_one_another(self, gpt2):
        both = reader(gpt2)
        parts = [both.read([[LONG, SHORT]], {}), both.read([SHORT], {})]

        assert [slice(0, 2), slice(2, 3)] == list(rows_of(parts))

    def test_a_users_right_padding_stays_where_it_is(self, gpt2):
        both = reader(gpt2)
        encoding = tokenizer()([LONG, SHORT], padding=True, return_tensors="pt")
        batch = both.join([both.read([encoding], {}), both.read([[5] * 10], {})])
        alone = activations(gpt2, both.join([both.read([SHORT], {})]))

        assert (3, 10) == batch["input_ids"].shape
        torch.testing.assert_close(activations(gpt2, batch)[0][1:2, 2:5], alone[0])

    def test_generate_counts_positions_itself(self, gpt2):
        both = reader(gpt2)
        parts = [both.read([LONG], {}), both.read([SHORT], {})]

        assert "position_ids" not in both.join(parts, generating=True)


class TestOneCall:
    def test_options_of_all_invokes_are_the_calls(self, gpt2):
        both = reader(gpt2)
        got = both.join([both.read([SHORT], {"use_cache": False}), both.read([LONG], {})])

        assert False is got["use_cache"]

    def test_two_values_for_one_option(self, gpt2):
        both = reader(gpt2)
        parts = [both.read([SHORT], {"use_cache": value}) for value in (False, True)]
        with pytest.raises(PromptError, match="two invokes give use_cache different values"):
            both.join(parts)

    def test_types_of_tokens_beside_a_prompt_without(self, gpt2):
        """GPT-2 adds the embedding of token 0 for a type of 0: not what no types give."""
        both = reader(gpt2)
        typed = both.read([[[4, 5]]], {"token_type_ids": [[0, 0]]})
        with pytest.raises(MixedInputsError, match="one invoke gives token_type_ids"):
            both.join([typed, both.read([[4, 5, 6]], {})])

    def test_a_mask_per_head_beside_another_prompt(self, gpt2):
        both = reader(gpt2)
        mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
        parts = [both.read([[5, 6]], {"attention_mask": mask}), both.read([SHORT], {})]
        with pytest.raises(MixedInputsError, match="in one of several invokes"):
            both.join(parts)


class TestOtherModels:
    @pytest.mark.parametrize("family", ["t5", "bart"])
    def test_encoder_decoders_are_padded_on_the_right(self, family):
        model = FAMILIES[family].build()
        both = reader(model)
        parts = [
            both.read([text], {"decoder_input_ids": [[1]], "labels": [[4, 5, 6][:width]]})
            for text, width in ((LONG, 1), (SHORT, 3))
        ]
        batch = both.join(parts)
        batch.pop("labels")
        with torch.no_grad():
            got = model(**batch).logits
            for row, part in enumerate(parts):
                single = both.join([part])
                single.pop("labels")
                torch.testing.assert_close(model(**single).logits[0], got[row])

        assert [1, 1, 1, 0, 0, 0, 0, 0] == batch["attention_mask"][1].tolist()
        assert "position_ids" not in batch

    def test_labels_of_an_encoder_decoder_have_their_own_width(self):
        both = reader(FAMILIES["t5"].build())
        parts = [both.read([LONG], {"labels": [[4]]}), both.read([SHORT], {"labels": [[5, 6, 7]]})]

        assert [[4, -100, -100], [5, 6, 7]] == both.join(parts)["labels"].tolist()

    def test_encoders_are_padded_on_the_right(self):
        got = call(reader(FAMILIES["bert"].build()), [LONG, SHORT])

        assert [1, 1, 1, 0, 0, 0, 0, 0] == got["attention_mask"][1].tolist()

    def test_a_float_tensor_is_the_main_input_of_a_model_of_images(self):
        model = FAMILIES["vit"].build()
        images = pixels()["pixel_values"]
        part = reader(model).read([images], {})

        assert 2 == part.rows
        assert same({"pixel_values": images}, part.arguments())

    def test_audio_of_one_size_is_batched(self):
        both = reader(FAMILIES["whisper"].build())
        one, two = sound(1), sound(1)
        batch = both.join([both.read([], one), both.read([], two)])

        assert (2, 8, 32) == batch["input_features"].shape

    def test_images_beside_another_prompt(self):
        both = reader(FAMILIES["llava"].build())
        parts = [both.read([], FAMILIES["llava"].inputs(1)), both.read([[4, 5, VOCAB - 1]], {})]
        with pytest.raises(MixedInputsError, match="pixel_values cannot be batched") as caught:
            both.join(parts)

        assert isinstance(caught.value, NotImplementedError)

    def test_images_and_texts_go_through_the_processor(self):
        model = FAMILIES["llava"].build()
        asked = {}

        class Processor:
            tokenizer = tokenizer()

            def __call__(self, **kwargs):
                asked.update(kwargs)
                return BatchEncoding(FAMILIES["llava"].inputs(1))

        part = reader(model, processor=Processor()).read(["a cat"], {"images": "picture"})

        assert {"images": "picture", "text": "a cat", "return_tensors": "pt"} == asked
        assert 1 == part.rows
        with torch.no_grad():
            assert torch.equal(
                model(**FAMILIES["llava"].inputs(1)).logits, model(**part.arguments()).logits
            )

    def test_ids_stay_where_they_are(self, gpt2):
        given = ids()

        assert given is call(reader(gpt2), given)["input_ids"]
