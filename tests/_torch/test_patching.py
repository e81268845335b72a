"""Clean into corrupted, in one run and without a barrier, on shapes of real models."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from families import FAMILIES

from tracekit import Model

LAYERS = {
    "gpt2": "transformer.h.1.mlp",
    "llama": "model.layers.1.mlp",
    "bert": "encoder.layer.1.output",
}


@pytest.mark.parametrize("name", LAYERS)
def test_patching_equals_two_runs_with_hooks(clean, name):
    family = FAMILIES[name]
    module = clean(family.build())
    path = next(p for p, _ in module.named_modules() if p.endswith(LAYERS[name]))
    inputs = family.inputs(2)
    one, two = ({k: v[n : n + 1] for k, v in inputs.items()} for n in range(2))
    kept = []
    target = module.get_submodule(path)
    with torch.no_grad():
        handle = target.register_forward_hook(lambda _m, _a, out: kept.append(out))
        module(**one)
        handle.remove()
        handle = target.register_forward_hook(lambda _m, _a, _out: kept[0])
        expected = module(**two)[0]
        handle.remove()

        model = Model(module)
        layer = model.get(path)
        with model.trace() as tracer:
            with tracer.invoke(**one):
                hidden = layer.output
            with tracer.invoke(**two):
                layer.output = hidden
                out = model.output[0]

    torch.testing.assert_close(hidden, kept[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
