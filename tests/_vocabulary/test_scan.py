"""Blocks on shapes: scan, its report, and validation before a run."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES
from torch import nn

from tracekit import Model
from tracekit._torch.values import tensors
from tracekit.errors import ScanMismatchError, TraceError, ValueNotKnownError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 3)
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return self.second(self.norm(self.first(x)).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def model(net):
    return Model(net)


X = torch.ones(2, 4)


class TestScan:
    def test_shapes_of_the_real_run(self, model):
        with model.trace(X):
            real = [model.first.output, model.norm.input, model.second.output, model.output]
        with model.scan(X) as tracer:
            fake = [model.first.output, model.norm.input, model.second.output, model.output]
            result = tracer.result

        def spec(values):
            return [(t.shape, t.dtype, t.device) for t in values]

        assert spec(real) == spec(fake)
        assert result.shape == real[-1].shape

    def test_edits(self, model):
        with model.scan(X):
            model.first.output[:, 0] = 0
            model.norm.output = torch.zeros(2, 8)
            out = model.output.softmax(-1)

        assert (2, 3) == out.shape

    def test_the_model_stays_as_it_was(self, net):
        model = Model(net.train())
        with model.scan(X):
            out = model.output

        assert 0 == net.runs == net.norm.num_batches_tracked
        assert isinstance(net.first.weight, nn.Parameter)
        assert not list(tensors(list(net.first._forward_hooks.values())))
        assert (2, 3) == out.shape

    def test_on_meta(self):
        with torch.device("meta"):
            net = Net().eval()
        model = Model(net)
        with model.scan(X):
            out = model.output

        assert ((2, 3), "cpu") == (tuple(out.shape), str(out.device))
        assert net.first.weight.is_meta

    def test_backward(self, model):
        with model.scan(X):
            hidden = model.first.output
            hidden.retain_grad()
            model.output.sum().backward()
            grad = hidden.grad

        assert (2, 8) == grad.shape
        assert model._module.first.weight.grad is None

    def test_a_value_is_refused_at_the_line(self, model):
        with pytest.raises(ValueNotKnownError) as caught:
            with model.scan(X):
                hidden = model.first.output
                hidden.sum().item()

        line = caught.traceback[0].statement if len(caught.traceback) else ""
        assert "with model.scan" in str(line) or "item" in str(line)

    def test_function_form(self, model):
        assert (2, 8) == model.scan(X).run(lambda: model.first.output.shape)

    @pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bert", "t5", "mamba"])
    def test_families(self, name):
        family = FAMILIES[name]
        inputs = family.inputs()
        shapes = []
        for module in (family.build(), family.build_on_meta()):
            model = Model(module)
            with model.scan(**inputs) as tracer:
                last = tracer.result
            shapes.append((tuple(last.logits.shape), str(last.logits.device)))
        model = Model(family.build())
        with torch.no_grad(), model.trace(**inputs) as tracer:
            last = tracer.result

        assert [(tuple(last.logits.shape), "cpu")] * 2 == shapes

    def test_generation(self):
        family = FAMILIES["llama"]
        model = Model(family.build())
        inputs = {**family.inputs(), "max_new_tokens": 3, "min_new_tokens": 3}
        shapes = []
        with model.scan(fn="generate", **inputs) as tracer:
            for _ in tracer.iter[:]:
                shapes.append(tuple(model.lm_head.output.shape))

        assert [(2, 1, 97)] * 3 == shapes

    def test_two_inputs(self, model):
        with model.scan() as tracer:
            with tracer.invoke(X):
                one = model.first.output
            with tracer.invoke(torch.ones(3, 4)):
                two = model.first.output

        assert ((2, 8), (3, 8)) == (one.shape, two.shape)


class TestLanguageModel:
    """Skeletons of a folder: nothing is loaded for a scan, nor before a mistake is found."""

    @pytest.fixture
    def language_model(self, tmp_path):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from transformers.utils import logging

        from tracekit import LanguageModel

        logging.disable_progress_bar()
        FAMILIES["llama"].build().save_pretrained(tmp_path)
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w3"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="w1", eos_token="w2", pad_token="w0"
        ).save_pretrained(tmp_path)
        return LanguageModel(str(tmp_path))

    def test_nothing_is_loaded(self, language_model):
        model = language_model
        with model.scan("w5 w6 w7"):
            hidden = model.model.layers[0].output
        with model.scan() as tracer:
            with tracer.invoke("w5 w6"):
                one = model.lm_head.output
            with tracer.invoke("w5 w6 w7 w8"):
                two = model.lm_head.output
        with pytest.raises(ScanMismatchError):
            with model.trace("w5 w6", validate=True):
                model.model.layers[0].output + torch.zeros(5)

        assert not model.dispatched
        assert (1, 3, 32) == hidden.shape
        assert ((1, 4, 97), (1, 4, 97)) == (one.shape, two.shape)

    def test_a_validated_generation(self, language_model):
        model = language_model
        with model.generate("w5 w6", max_new_tokens=2, validate=True) as tracer:
            logits = model.lm_head.output

        assert model.dispatched
        assert tracer.validated_to is None
        assert type(logits) is torch.Tensor


class TestReport:
    def test_what_a_scan_knows(self, model):
        with model.scan(X) as tracer:
            hidden = model.first.output
        report = tracer.report()

        assert [("first", "Linear", 1, "float32[2, 8]", 64)] == [
            (r.path, r.kind, r.visits, r.output, r.output_bytes)
            for r in report.records
            if r.path == "first"
        ]
        assert hidden.shape == (2, 8)
        assert 64 == report.retained_bytes
        assert 64 + 64 <= report.peak_bytes <= 64 * 4
        assert 4 * sum(p.numel() for p in model._module.parameters()) < report.parameter_bytes
        assert "peak of activations" in str(report)
        assert "float32[2, 8]" in str(report)

    def test_the_wrapper_shows_the_shapes(self, model):
        before = repr(model)
        with model.scan(X):
            pass

        assert "->" not in before
        assert repr(model).endswith(")  -> float32[2, 3]")
        assert "(first): Linear(in_features=4, out_features=8, bias=True)  -> float32[2, 8]" in (
            repr(model)
        )
        assert repr(model.first).endswith("-> float32[2, 8]")
        assert not list(tensors(model._tree.shapes))

    def test_before_the_end(self, model):
        with model.scan(X) as tracer:
            with pytest.raises(RuntimeError, match="after its `with`"):
                tracer.report()


MISTAKES = {
    "shape": lambda h: h + torch.zeros(5),
    "dtype": lambda h: h @ torch.zeros(8, 8, dtype=torch.float64),
    "index": lambda h: h[9],
    "axis": lambda h: h.sum(4),
    "list": lambda h: h[[0, 9]],
}


class TestValidate:
    def test_the_real_run_follows(self, model, net):
        with model.trace(X, validate=True) as tracer:
            hidden = model.first.output
            validating = tracer.validating

        with torch.no_grad():
            assert torch.equal(hidden, net.first(X))
        assert validating is False
        assert tracer.validated_to is None
        assert 1 == net.runs

    @pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
    def test_mistakes_are_found_before_the_run(self, mistake, model, net):
        with pytest.raises(ScanMismatchError) as caught:
            with model.trace(X, validate=True):
                mistake(model.first.output)

        assert 0 == net.runs
        assert f"{__file__}:" in caught.value.where
        assert isinstance(caught.value.__cause__, (RuntimeError, IndexError))

    def test_an_edit_that_does_not_fit(self, model, net):
        with pytest.raises(ScanMismatchError, match="does not fit what the model does") as caught:
            with model.trace(X, validate=True):
                model.first.output = torch.zeros(2, 9)

        assert 0 == net.runs
        assert f"{__file__}:" in caught.value.where
        assert "first.output" in str(caught.value)

    def test_other_errors_come_before_the_run_too(self, model, net):
        with pytest.raises(TraceError):
            with model.trace(X, validate=True):
                model.second.output
                model.first.output

        assert 0 == net.runs

    def test_a_value_ends_validation(self, model, net):
        with model.trace(X, validate=True) as tracer:
            hidden = model.first.output
            total = float(hidden.sum())
            out = model.output

        assert isinstance(total, float)
        assert tracer.validated_to.startswith(f"{__file__}:")
        assert (2, 3) == out.shape
        assert 1 == net.runs

    def test_what_the_first_pass_wrote_is_put_back(self, model):
        class Box:
            pass

        box, seen, counts, nested = Box(), [], {"n": 0}, {"a": []}
        box.log = []
        total = 0
        with model.trace(X, validate=True):
            hidden = model.first.output
            seen.append(hidden)
            counts["n"] += 1
            nested["a"].append(hidden)
            box.hidden = hidden
            box.log.append(1)
            total += 1

        assert (1, 1, 1, 1, 1) == (
            len(seen),
            counts["n"],
            len(nested["a"]),
            len(box.log),
            total,
        )
        assert type(seen[0]) is type(box.hidden) is type(nested["a"][0]) is torch.Tensor

    def test_cells(self, model):
        count = 0

        def bump():
            nonlocal count
            count += 1

        with model.trace(X, validate=True):
            hidden = model.first.output
            count += 1
        bump()

        assert 2 == count
        assert type(hidden) is torch.Tensor

    def test_module_namespace(self, net):
        text = "with model.trace(x, validate=True):\n    n = n + 1\n    h = model.first.output\n"
        names = {"model": Model(net), "x": X, "n": 0}
        exec(compile(text, "<names>", "exec"), names)

        assert 1 == names["n"]
        assert type(names["h"]) is torch.Tensor

    def test_random_state(self, model):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        with model.trace(X, validate=True):
            model.first.output
            drawn = torch.rand(2)

        assert torch.equal(expected, drawn)

    def test_repeated_validation_is_kept(self, model, monkeypatch):
        from tracekit._vocabulary import scan

        passes = []
        kept = scan.Validating._validate
        monkeypatch.setattr(
            scan.Validating, "_validate", lambda *args: (passes.append(1), kept(*args))
        )
        for n in (2, 2, 2, 3):
            with model.trace(torch.ones(n, 4), validate=True):
                hidden = model.first.output

        assert 2 == len(passes)
        assert (3, 8) == hidden.shape

    def test_the_models_default(self, net):
        model = Model(net, validate=True)
        with pytest.raises(ScanMismatchError):
            with model.trace(X):
                model.first.output + torch.zeros(5)
        with model.trace(X, validate=False):
            hidden = model.first.output

        assert (2, 8) == hidden.shape

    def test_before_weights_are_there(self):
        with torch.device("meta"):
            net = Net().eval()
        model = Model(net)
        with pytest.raises(ScanMismatchError):
            with model.trace(X, validate=True):
                model.first.output + torch.zeros(5)

    def test_two_inputs(self, model, net):
        with model.trace(validate=True) as tracer:
            with tracer.invoke(X):
                one = model.first.output
            with tracer.invoke(torch.zeros(3, 4)):
                two = model.first.output

        with torch.no_grad():
            assert torch.allclose(one, net.first(X))
            assert torch.allclose(two, net.first(torch.zeros(3, 4)))
        with pytest.raises(ScanMismatchError):
            with model.trace(validate=True) as tracer:
                with tracer.invoke(X):
                    model.first.output + torch.zeros(5)
                with tracer.invoke(X):
                    model.first.output
