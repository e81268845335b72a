"""`[0]` on an output under a standard name warns, once for each place of the model."""

from __future__ import annotations

import linecache
import warnings

import pytest
import torch
from decoders import DECODERS, tokenizer

from tracekit.errors import FirstRowWarning
from tracekit.hf import LanguageModel

TEXT = "Rome is in"


@pytest.fixture(autouse=True)
def _clean(no_residue):
    yield


def built():
    return LanguageModel(DECODERS["gpt2"].build(), tokenizer())


def test_reading_says_so_at_the_users_line():
    model = built()
    with pytest.warns(FirstRowWarning, match=r"`model.transformer.h.1.output\[0\]`") as caught:
        with model.trace(TEXT):
            hidden = model.layers[1].output[0]

    assert (3, 32) == hidden.shape
    assert [__file__] == [one.filename for one in caught]
    assert "Leave `[0]` out" in str(caught[0].message)
    assert "hidden = model" in linecache.getline(__file__, caught[0].lineno)


def test_writing_and_editing_too():
    model = built()
    with pytest.warns(FirstRowWarning) as caught:
        with model.trace(TEXT):
            model.layers[0].output[0] = torch.zeros(3, 32)
            model.layers[1].output[0][:, 0] = 1

    assert ["h.0.output", "h.1.output"] == [
        str(one.message).split("`")[1].partition("[")[0].partition("transformer.")[2]
        for one in caught
    ]


def test_once_a_place_in_loops_and_helpers():
    model = built()

    def first(layer):
        return layer.output[0]

    with pytest.warns(FirstRowWarning) as caught:
        for _ in range(3):
            with model.trace(TEXT):
                got = [first(layer) for layer in model.layers]

    assert (2, 2) == (len(caught), len(got))


def test_other_items_other_names_and_native_names_say_nothing():
    model = built()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.trace([TEXT, TEXT]):
            row = model.layers[0].output[1]
            part = model.layers[0].output[0, 1]
            first = model.layers[0].output[:1]
            hidden = model.layers[0].output
            named = hidden[0]
            native = model.transformer.h[1].attn.output[0]

    assert (3, 32) == row.shape == named.shape
    assert (32,) == part.shape
    assert (1, 3, 32) == first.shape
    assert (2, 3, 32) == native.shape
