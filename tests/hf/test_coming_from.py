"""`docs/coming-from.md`: its code runs, and says what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from decoders import DECODERS, tokenizer

import tracekit
from tracekit import nnsight

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def names(no_residue):
    torch.manual_seed(0)
    model = tracekit.LanguageModel(DECODERS["gpt2"].build(), tokenizer())
    return {"model": model, "prompt": "Rome is in Italy"}


def test_the_page_runs(names):
    for block in BLOCKS:
        exec(compile(block, "coming-from.md", "exec"), names)
    model = names["model"]
    plain = model(**model.tokenizer(["Paris is in Italy"], return_tensors="pt")).logits

    assert nnsight is names["nnsight"]
    assert ["Rome", "is", "in", "Italy"] == names["tokens"]
    assert 2 == len(names["cache"])
    assert names["residual"].shape == (1, 4, 32)
    assert not torch.equal(plain, names["changed"])


def test_the_exchange_is_what_a_hook_would_do(names):
    for block in BLOCKS:
        exec(compile(block, "coming-from.md", "exec"), names)
    model = names["model"]
    mlp, given = model._module.transformer.h[0].mlp, {}

    def ids(text):
        return model.tokenizer([text], return_tensors="pt")["input_ids"]

    def put(_, args, out):
        out[:, 0] = given["out"]

    with torch.no_grad():
        handle = mlp.register_forward_hook(lambda m, a, out: given.update(out=out[:, 0].clone()))
        model._module(ids(names["source"]))
        handle.remove()
        handle = mlp.register_forward_hook(put)
        by_hand = model._module(ids(names["base"])).logits
        handle.remove()

    torch.testing.assert_close(by_hand, names["changed"])


def test_names_of_the_tables_exist(names):
    """Each `model.layers[...]` on the page is a place, and each `tracekit.` a public name."""
    model, i, n = names["model"], 0, 2
    for path in set(re.findall(r"`model\.layers\[\w+\]\.(attn|mlp)\b", PAGE)):
        assert getattr(model.layers[i], path)
    for name in set(re.findall(r"`(?:with )?tracekit\.(\w+)[(`.]", PAGE)) - {"hf", "nnsight"}:
        assert getattr(tracekit, name)
    assert all(getattr(model, size) for size in ("n_layers", "n_heads", "d_head", "d_vocab"))


def test_a_pipeline_is_traced_and_edited(names):
    from transformers import pipeline

    module, tok = names["model"]._module, names["model"].tokenizer
    options = {"max_new_tokens": 3, "do_sample": False}
    run = pipeline("text-generation", model=module, tokenizer=tok)
    model = tracekit.Model(module)
    shapes = []
    with model.trace("Rome is in", fn=run, **options) as tracer:
        for _ in tracer.iter[:]:
            shapes.append(model.transformer.h[0].output.shape[1])
            model.lm_head.output[..., 7] = 1000
        traced = tracer.result
    with model.edit() as (_, edited):
        edited.lm_head.output[..., 7] = 1000
    other = pipeline("text-generation", model=edited.as_module(), tokenizer=tok)

    assert shapes == [3, 1, 1]
    assert traced == other("Rome is in", **options)
    assert traced[0]["generated_text"].count(tok.decode([7])) == 3
