"""Blocks that go through a helper library, against what forward hooks of torch's see."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers")

import research_library as lib

from tracekit import Model, OutOfOrderError
from tracekit.testing import gpt2

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture
def net(no_residue):
    torch.manual_seed(0)
    made = gpt2().eval()
    no_residue(made)
    return made


@pytest.fixture
def std(net):
    return lib.StandardizedModel(Model(net))


def hooked(net, edits=None):
    """What torch's own hooks see: (values by path, logits). *edits*: path -> function."""
    seen = {}

    def hook(path, module, args, out):
        value = out[0] if isinstance(out, tuple) else out
        if edits and path in edits:
            value = edits[path](value)
            out = (value, *out[1:]) if isinstance(out, tuple) else value
        seen[path] = value.clone()
        return out

    paths = [f"transformer.h.{i}{part}" for i in range(2) for part in ("", ".attn", ".mlp")]
    handles = [
        net.get_submodule(path).register_forward_hook(functools.partial(hook, path))
        for path in paths
    ]
    try:
        logits = net(TOKENS).logits
    finally:
        for handle in handles:
            handle.remove()
    return seen, logits


def same(one, other):
    torch.testing.assert_close(one, other)


class TestReading:
    def test_by_index_in_any_expression(self, net, std):
        with std.model.trace(TOKENS):
            attn = std.attn_out[0].clone()
            resid = std.resid[0].clone()
            last = std.resid[-1].clone()
            logits = std.logits

        seen, expected = hooked(net)
        same(attn, seen["transformer.h.0.attn"])
        same(resid, seen["transformer.h.0"])
        same(last, seen["transformer.h.1"])
        same(logits, expected)

    def test_by_loop_slice_and_comprehension(self, net, std):
        with std.model.trace(TOKENS):
            both = torch.stack(std.resid[0:2])

        with std.model.trace(TOKENS):
            looped = [value.clone() for value in std.resid]

        with std.model.trace(TOKENS):
            a, b = std.resid

        seen, _ = hooked(net)
        expected = [seen["transformer.h.0"], seen["transformer.h.1"]]
        same(both, torch.stack(expected))
        same(looped, expected)
        same([a, b], expected)

    def test_an_index_that_is_not_there(self, std):
        with pytest.raises(IndexError, match="no layer 7"):
            with std.model.trace(TOKENS):
                std.resid[7]

    def test_from_a_generator_that_waits_for_the_model(self, net, std):
        with std.model.trace(TOKENS):
            answers = [logits.argmax(-1) for logits in std.lens()]

        seen, logits = hooked(net)
        first = net.lm_head(net.transformer.ln_f(seen["transformer.h.0"])).argmax(-1)
        same(answers, [first, logits.argmax(-1)])

    def test_stacked_from_a_generator(self, net, std):
        with std.model.trace(TOKENS):
            whole = torch.cat(value.norm()[None] for value in std.resid)

        seen, _ = hooked(net)
        same(whole, torch.stack([seen[f"transformer.h.{i}"].norm() for i in range(2)]))

    def test_a_probe_is_a_module(self, net, std):
        probes = [lib.Probe(32, layer) for layer in range(2)]
        with std.model.trace(TOKENS):
            read = torch.stack([probe(std, token=1) for probe in probes])

        seen, _ = hooked(net)
        expected = [
            probe.line(seen[f"transformer.h.{probe.layer}"][:, 1])[:, 0] for probe in probes
        ]
        same(read, torch.stack(expected))

    def test_a_dataclass_that_is_called(self, net, std):
        record = lib.Record(std)
        with std.model.trace(TOKENS):
            for layer in range(2):
                record(layer)
            norms = record.norms()

        seen, _ = hooked(net)
        assert ["attn_out.0", "attn_out.1", "resid.0", "resid.1"] == list(norms)
        same(record.values["resid.1"], seen["transformer.h.1"])
        assert norms["attn_out.0"] == pytest.approx(seen["transformer.h.0.attn"].norm().item())

    def test_decorated_and_recursive(self, net, std):
        with std.model.trace(TOKENS):
            means = lib.mean_of(std)
        with std.model.trace(TOKENS):
            norms = lib.path_of(std)

        seen, _ = hooked(net)
        same(means, [seen[f"transformer.h.{i}"].mean() for i in range(2)])
        assert norms == pytest.approx([seen[f"transformer.h.{i}"].norm().item() for i in range(2)])

    def test_stops_looking_when_a_callback_is_content(self, std):
        looked = []

        def accepts(value):
            looked.append(value.shape)
            return len(looked) == 1

        with std.model.trace(TOKENS):
            found = lib.first_that(std, accepts)
            later = std.resid[1].clone()

        assert 0 == found
        assert 1 == len(looked)
        assert (1, 5, 32) == tuple(later.shape)

    def test_in_the_wrong_order(self, std):
        with pytest.raises(OutOfOrderError) as caught:
            with std.model.trace(TOKENS):
                std.resid[1]
                std.attn_out[0]

        frames = [entry.name for entry in caught.traceback]
        assert "__getitem__" in frames
        assert "interleaver.py" not in {entry.path.name for entry in caught.traceback}


class TestWriting:
    def test_a_patch_by_a_callback_that_asks(self, net, std):
        def change(value, layer):
            return value + layer * std.attn_out[layer].mean() if layer > 5 else value * 2

        with std.model.trace(TOKENS):
            moved = lib.patched(std, {1, 0}, change)
            logits = std.logits

        double = dict.fromkeys(("transformer.h.0.mlp", "transformer.h.1.mlp"), lambda v: v * 2)
        seen, expected = hooked(net, double)
        same(logits, expected)
        halves = [seen[f"transformer.h.{i}.mlp"].norm().item() / 2 for i in range(2)]
        assert moved == pytest.approx(halves)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(functools.partial(lambda scale, v, layer: v * scale, 3), id="partial"),
            pytest.param(lambda v, layer: v * 3, id="lambda"),
            pytest.param(
                type("Triple", (), {"__call__": lambda self, v, layer: v * 3})(), id="object"
            ),
        ],
    )
    def test_callbacks_of_all_kinds(self, net, std, change):
        with std.model.trace(TOKENS):
            lib.patched(std, [0], change)
            logits = std.logits

        _, expected = hooked(net, {"transformer.h.0.mlp": lambda v: v * 3})
        same(logits, expected)

    def test_a_context_manager_that_writes(self, net, std):
        with std.model.trace(TOKENS):
            with lib.ablated(std, 0) as original:
                logits = std.logits

        seen, _ = hooked(net)
        _, expected = hooked(net, {"transformer.h.0.attn": torch.zeros_like})
        same(original, seen["transformer.h.0.attn"])
        same(logits, expected)

    def test_in_place_through_an_item(self, net, std):
        with std.model.trace(TOKENS):
            std.resid[0] = 0
            logits = std.logits

        _, expected = hooked(net, {"transformer.h.0": torch.zeros_like})
        same(logits, expected)


def test_from_one_invoke_into_another(net, std):
    other = torch.tensor([[9, 2, 6, 5, 3]])
    with std.model.trace() as tracer:
        with tracer.invoke(TOKENS):
            clean = std.resid[0].clone()
        with tracer.invoke(other):
            lib.patched(std, [0], lambda value, layer: clean, where="resid")
            logits = std.logits

    first = hooked(net)[0]["transformer.h.0"]
    handle = net.transformer.h[0].register_forward_hook(
        lambda module, args, out: (first, *out[1:]) if isinstance(out, tuple) else first
    )
    expected = net(other).logits
    handle.remove()
    same(logits, expected)
