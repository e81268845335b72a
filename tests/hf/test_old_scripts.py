"""Scripts of nnsight 0.5 to 0.8, with `import tracekit.nnsight as nnsight` as their only change.

Each row: the version whose documentation writes it so, what it is about, the script. The script
states itself what it expects, from the plain modules.
"""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from decoders import DECODERS, saved, tokenizer
from families import FAMILIES

import tracekit
from tracekit import nnsight

TEXT, LONG = "Rome is in", "The Eiffel Tower is in the city of"

WORKS = [
    (
        "0.5",
        "save, and the name is bound",
        """
with model.trace(TEXT):
    hidden = model.transformer.h[0].output.save()
assert hidden.shape[-1] == 32
""",
    ),
    (
        "0.5",
        "what is not saved keeps the value that it had",
        """
hidden = "before"
with model.trace(TEXT):
    hidden = model.transformer.h[0].output
    kept = model.output.logits.save()
assert hidden == "before" and torch.equal(kept, logits(TEXT))
""",
    ),
    (
        "0.5",
        "a list that was saved",
        """
with model.trace(TEXT):
    found = list().save()
    for block in model.transformer.h:
        found.append(block.output)
assert len(found) == 2
""",
    ),
    (
        "0.5",
        "nnsight.save",
        """
with model.trace(TEXT):
    kept = nnsight.save([model.transformer.h[0].output, 3])
    also = nnsight.save(7)
assert kept[1] == 3 and also == 7
""",
    ),
    (
        "0.5",
        "a base module",
        """
wrapped = nnsight.NNsight(net)
with wrapped.trace(x):
    first = wrapped[0].output.save()
    wrapped[0].output = torch.zeros_like(first)
    out = wrapped.output.save()
assert torch.equal(first, net[0](x)) and torch.equal(out, net[1:](torch.zeros_like(first)))
""",
    ),
    (
        "0.5",
        "inputs and input",
        """
wrapped = nnsight.NNsight(net)
with wrapped.trace(x):
    one = wrapped[0].input.save()
    pair = wrapped[0].inputs.save()
assert torch.equal(one, x) and torch.equal(pair[0][0], x) and pair[1] == {}
""",
    ),
    (
        "0.5",
        "two invokes",
        """
with model.trace() as tracer:
    with tracer.invoke(TEXT):
        one = model.output.logits[:, -1].save()
    with tracer.invoke(LONG):
        two = model.output.logits[:, -1].save()
assert torch.allclose(one, logits(TEXT)[:, -1], atol=1e-5)
assert torch.allclose(two, logits(LONG)[:, -1], atol=1e-5)
""",
    ),
    (
        "0.5",
        "an invoke without input sees all rows",
        """
with model.trace() as tracer:
    with tracer.invoke(TEXT):
        pass
    with tracer.invoke([LONG, TEXT]):
        pass
    with tracer.invoke():
        rows = model.output.logits.shape[0].save()
assert rows == 3
""",
    ),
    (
        "0.5",
        "a barrier",
        """
with model.trace() as tracer:
    barrier = tracer.barrier(2)
    with tracer.invoke(TEXT):
        words = model.transformer.wte.output
        barrier()
    with tracer.invoke("London is in"):
        barrier()
        model.transformer.wte.output = words
        out = model.output.logits.save()
assert torch.allclose(out, logits(TEXT), atol=1e-5)
""",
    ),
    (
        "0.5",
        "generate, and tracer.result",
        """
with model.generate(TEXT, max_new_tokens=3) as tracer:
    ids = tracer.result.save()
assert torch.equal(ids, generated(TEXT, 3))
""",
    ),
    (
        "0.5",
        "tracer.next",
        """
with model.generate(TEXT, max_new_tokens=3) as tracer:
    one = model.transformer.h[0].output.save()
    tracer.next()
    two = model.transformer.h[0].output.save()
    tracer.next(1)
    three = model.transformer.h[0].output.save()
assert [one.shape[1], two.shape[1], three.shape[1]] == [3, 1, 1]
""",
    ),
    (
        "0.7",
        "a loop over steps, and code after it",
        """
with model.generate(TEXT, max_new_tokens=4) as tracer:
    tokens = list().save()
    for step in tracer.iter[:]:
        tokens.append(model.lm_head.output[:, -1].argmax(-1).item())
    ids = tracer.result.save()
assert tokens == ids[0, 3:].tolist()
""",
    ),
    (
        "0.7",
        "some of the steps",
        """
with model.generate(TEXT, max_new_tokens=4) as tracer:
    steps = list().save()
    for step in tracer.iter[1:3]:
        model.transformer.h[0].output
        steps.append(step)
assert steps == [1, 2]
""",
    ),
    (
        "0.7",
        "a list of steps",
        """
with model.generate(TEXT, max_new_tokens=4) as tracer:
    steps = list().save()
    for step in tracer.iter[[0, 2]]:
        model.transformer.h[0].output
        steps.append(step)
assert steps == [0, 2]
""",
    ),
    (
        "0.5",
        "tracer.all",
        """
with model.generate(TEXT, max_new_tokens=3) as tracer:
    found = list().save()
    for step in tracer.all():
        found.append(model.transformer.h[1].output)
assert len(found) == 3
""",
    ),
    (
        "0.5",
        "stop",
        """
with model.trace(TEXT) as tracer:
    early = model.transformer.h[0].output.save()
    tracer.stop()
    never = model.output.save()
assert "never" not in globals()
""",
    ),
    (
        "0.5",
        "a cache, by path as older versions write it",
        """
with model.trace(TEXT) as tracer:
    cache = tracer.cache()
assert torch.equal(cache["model.transformer.h.0"].output, cache.model.transformer.h[0].output)
""",
    ),
    (
        "0.8",
        "a cache of some modules, with inputs, saved in one line",
        """
with model.trace(TEXT) as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0].mlp], include_inputs=True).save()
entry = cache["transformer.h.0.mlp"]
assert torch.equal(entry.output, model.transformer.h[0].mlp._module(entry.input))
""",
    ),
    (
        "0.8",
        "the keys of a cache, in every spelling",
        """
with model.trace(TEXT) as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0]])
assert "model.transformer.h.0" in cache.keys() and "transformer.h.0" in cache.keys()
assert "model.transformer.h.1" not in cache.keys()
""",
    ),
    (
        "0.7",
        "several visits in a cache, in both spellings",
        """
with model.generate(TEXT, max_new_tokens=3) as tracer:
    cache = tracer.cache(modules=["transformer.h.0"])
path = "model.transformer.h.0"
assert len(cache[path].output) == 3
assert torch.equal(cache[path][1].output, cache[path].output[1])
""",
    ),
    (
        "0.8",
        "an edit on a copy",
        """
with model.edit() as (tracer, edited):
    edited.transformer.h[0].output[:] = 0
with edited.trace(TEXT):
    changed = edited.transformer.h[0].output.save()
with model.trace(TEXT):
    plain = model.transformer.h[0].output.save()
assert changed.abs().sum() == 0 and plain.abs().sum() > 0
""",
    ),
    (
        "0.5",
        "an edit in place, and clear_edits",
        """
wrapped = nnsight.NNsight(net)
with wrapped.edit(inplace=True):
    wrapped[0].output[:] = 0
with wrapped.trace(x):
    changed = wrapped[0].output.save()
wrapped.clear_edits()
with wrapped.trace(x):
    plain = wrapped[0].output.save()
assert changed.abs().sum() == 0 and torch.equal(plain, net[0](x))
""",
    ),
    (
        "0.5",
        "a session: names go from trace to trace, saved ones leave it",
        """
with model.session() as session:
    with model.trace(TEXT) as tracer:
        words = model.transformer.wte.output
    with model.trace("London is in"):
        model.transformer.wte.output = words
        out = model.output.logits.save()
assert session and tracer and "words" not in globals()
assert torch.allclose(out, logits(TEXT), atol=1e-5)
""",
    ),
    (
        "0.7",
        "the session of the package",
        """
with nnsight.session():
    with model.trace(TEXT):
        out = model.output.logits.save()
assert torch.equal(out, logits(TEXT))
""",
    ),
    (
        "0.5",
        "scan",
        """
with model.scan(TEXT):
    width = model.transformer.h[0].output.shape[-1].save()
assert width == 32
""",
    ),
    (
        "0.5",
        "gradients in a block",
        """
with model.trace(TEXT):
    hidden = model.transformer.h[0].output
    with model.output.logits.sum().backward():
        grad = hidden.grad.save()
assert grad.shape == (1, 3, 32)
""",
    ),
    (
        "0.8",
        "gradients outside of a block, in the form that patches nothing",
        """
with model.trace(TEXT):
    hidden = model.transformer.h[0].output.save()
    loss = model.output.logits.sum().save()
with nnsight.backward(loss):
    grad = hidden.grad
assert grad.shape == (1, 3, 32)
""",
    ),
    (
        "0.5",
        "skip",
        """
wrapped = nnsight.NNsight(net)
with wrapped.trace(x):
    wrapped[1].skip(wrapped[0].output)
    out = wrapped.output.save()
assert torch.equal(out, net[2](net[0](x)))
""",
    ),
    (
        "0.5",
        "a module called in a block",
        """
with model.trace(TEXT):
    lens = model.lm_head(model.transformer.ln_f(model.transformer.h[1].output)).save()
    out = model.output.logits.save()
assert torch.equal(lens, out)
""",
    ),
    (
        "0.8",
        "an attached module, with its insides served",
        """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)

    def forward(self, value):
        return self.first(value)

wrapped = nnsight.NNsight(Net())
wrapped.probe = torch.nn.Sequential(torch.nn.Linear(4, 1))
with wrapped.edit(inplace=True):
    wrapped.probe(wrapped.first.output, hook=True)
with wrapped.trace(x):
    seen = wrapped.probe[0].output.save()
    first = wrapped.output.save()
assert torch.equal(seen, wrapped.probe(first))
""",
    ),
    (
        "0.5",
        "operations of a forward",
        """
with model.trace(TEXT):
    act = model.transformer.h[0].mlp.source.self_act_0.output.save()
assert act.shape[:2] == (1, 3)
""",
    ),
    (
        "0.5",
        "rename",
        """
renamed = nnsight.NNsight(net, rename={"0": "first"})
with renamed.trace(x):
    out = renamed.first.output.save()
assert torch.equal(out, net[0](x))
""",
    ),
    (
        "0.8",
        "rename over a standard name of a language model",
        """
renamed = nnsight.LanguageModel(module, tokenizer=tok, rename={"transformer.h": "layers"})
with renamed.trace(TEXT):
    out = renamed.layers[0].output.save()
assert torch.is_tensor(out) or isinstance(out, tuple)
""",
    ),
    (
        "0.8",
        "E_ for a child with the name of a value",
        """
layer = bert.encoder.layer[0]
assert layer.E_output._module is layer._module.output
""",
    ),
    (
        "0.7",
        "trace=False",
        """
out = model.trace(TEXT, trace=False)
assert torch.equal(out.logits, logits(TEXT))
""",
    ),
    (
        "0.8",
        "generate as a call",
        """
assert torch.equal(model.generate(TEXT, max_new_tokens=3), generated(TEXT, 3))
""",
    ),
    (
        "0.5",
        "any method of the module in a with line",
        """
class Net(torch.nn.Sequential):
    def twice(self, value):
        return self(self(value))
square = Net(torch.nn.Linear(3, 3))
wrapped = nnsight.NNsight(square)
with wrapped.twice(x) as tracer:
    out = tracer.result.save()
assert torch.equal(out, square(square(x)))
assert torch.equal(wrapped.twice(x), out)
""",
    ),
    (
        "0.8",
        "TransformersModel with a task",
        """
other = nnsight.TransformersModel(folder, task="text-generation", dispatch=True)
with other.trace(TEXT):
    out = other.lm_head.output.save()
assert out.shape[:2] == (1, 3)
""",
    ),
    (
        "0.5",
        "LanguageModel from a folder, dispatched by the first run",
        """
other = nnsight.LanguageModel(folder, device_map="cpu")
assert not other.dispatched
with other.trace(TEXT):
    out = other.lm_head.output.save()
assert other.dispatched
""",
    ),
    (
        "0.8",
        "tokenizer_kwargs",
        """
other = nnsight.LanguageModel(module, tokenizer=tok, tokenizer_kwargs={"padding_side": "left"})
assert other.tokenizer.padding_side == "left"
""",
    ),
    (
        "0.7",
        "settings",
        """
nnsight.CONFIG.set_default_api_key("key")
nnsight.CONFIG.APP.REMOTE_LOGGING = False
assert nnsight.CONFIG.API.APIKEY == "key"
""",
    ),
    (
        "0.5",
        "paths, get and named_modules",
        """
assert model.transformer.h[0].path == "model.transformer.h.0"
assert model.get("transformer.h.0.mlp") is model.transformer.h[0].mlp
assert model._model is module
""",
    ),
    (
        "0.8",
        "a served value with a transform",
        """
class Heads(nnsight.Envoy):
    @nnsight.eproperty(key="output")
    def heads(self, value):
        return value.view(*value.shape[:-1], 2, 2).transpose(0, 1).contiguous()

    @heads.transform
    def heads(self, view, raw):
        return view.transpose(0, 1).reshape(raw.shape)

wrapped = nnsight.NNsight(net, envoys={torch.nn.Linear: Heads})
with wrapped.trace(x):
    wrapped[0].heads[0] = 0
    out = wrapped[0].output.save()
assert out[:, :2].abs().sum() == 0 and torch.equal(out[:, 2:], net[0](x)[:, 2:])
""",
    ),
    (
        "0.7",
        "a served value: preprocess, and a transform of the view alone",
        """
class Double(nnsight.Envoy):
    @nnsight.eproperty(key="input")
    def first(self): ...

    @first.preprocess
    def first(self, value):
        return value[0][0].clone()

    @first.transform
    def first(self, view):
        return (view,), {}

wrapped = nnsight.NNsight(net, envoys={"0": Double})
with wrapped.trace(x):
    wrapped[0].first[:] = 0
    out = wrapped[0].output.save()
assert torch.equal(out, net[0](torch.zeros_like(x)))
""",
    ),
    (
        "0.8",
        "a served value: postprocess",
        """
class Percent(nnsight.Envoy):
    @nnsight.eproperty(key="output", description="in percent")
    def percent(self, value):
        return value * 100

    @percent.postprocess
    def percent(self, value):
        return value / 100

wrapped = nnsight.NNsight(net, envoys=Percent)
with wrapped.trace(x):
    wrapped[0].percent = torch.full((2, 4), 50.0)
    out = wrapped[0].output.save()
assert torch.equal(out, torch.full((2, 4), 0.5))
""",
    ),
]

WARNS = [
    (
        "0.5",
        "generator.output",
        "tracer.result",
        """
with model.generate(TEXT, max_new_tokens=3):
    ids = model.generator.output.save()
assert torch.equal(ids, generated(TEXT, 3))
""",
    ),
    (
        "0.5",
        "model.iter",
        "tracer.iter",
        """
with model.generate(TEXT, max_new_tokens=3):
    found = list().save()
    for step in model.iter[:]:
        found.append(model.transformer.h[0].output)
assert len(found) == 3
""",
    ),
    (
        "0.5",
        "model.all()",
        "tracer.all()",
        """
with model.generate(TEXT, max_new_tokens=3):
    found = list().save()
    for step in model.all():
        found.append(model.transformer.h[0].output)
assert len(found) == 3
""",
    ),
    (
        "0.5",
        "module.next()",
        "tracer.next()",
        """
with model.generate(TEXT, max_new_tokens=2):
    block = model.transformer.h[0]
    one = block.output.save()
    two = block.next().output.save()
assert [one.shape[1], two.shape[1]] == [3, 1]
""",
    ),
    (
        "0.5",
        "one name for an edit",
        "(tracer, edited)",
        """
with model.edit() as edited:
    model.transformer.h[0].output[:] = 0
with edited.trace(TEXT):
    changed = edited.transformer.h[0].output.save()
assert changed.abs().sum() == 0
""",
    ),
    (
        "0.7",
        "nns_output",
        ".output",
        """
with bert.trace(torch.tensor([[1, 2, 3]])):
    value = bert.encoder.layer[0].nns_output.save()
assert torch.is_tensor(value) or isinstance(value, tuple)
""",
    ),
    (
        "0.5",
        "trace(scan=True)",
        "validate=True",
        """
with model.trace(TEXT, scan=True):
    out = model.output.logits.save()
assert torch.equal(out, logits(TEXT))
""",
    ),
    (
        "0.8",
        "VisionLanguageModel",
        "tracekit.LanguageModel",
        """
other = nnsight.VisionLanguageModel(module, tokenizer=tok)
""",
    ),
    (
        "0.5",
        "with tracer.iter",
        "for step in tracer.iter",
        """
with model.generate(TEXT, max_new_tokens=3) as tracer:
    found = list().save()
    with tracer.iter[:]:
        found.append(model.transformer.h[0].output)
assert len(found) == 3
""",
    ),
]

REFUSED = [
    ("0.5", "model.transformer.h[0].wait_for_output()", "read it"),
    ("0.5", "model.transformer.h[0].wait_for_input()", "read it"),
    ("0.5", "model.export_edits('folder')", "edit().run(fn)"),
    ("0.5", "model.import_edits('folder')", "edit().run(fn)"),
    ("0.8", "model.pipe('text')", "fn=p"),
    ("0.8", "model.generator.streamer", "tracer.result"),
    ("0.5", "model.trace(TEXT, remote=True)", "leave `remote=` out"),
    ("0.5", "model.session(remote=True)", "leave `remote=` out"),
    ("0.5", "model.trace(TEXT, invoker_args={})", "trace() or invoke()"),
    ("0.8", "nnsight.TransformersModel(module, peft='adapter')", "PeftModel"),
    ("0.8", "nnsight.TransformersModel(folder, task='chess')", "auto="),
    ("0.8", "nnsight.NNsight(net, interleaver=object())", "tracer_cls="),
    ("0.8", "nnsight.DiffusionModel", "unet"),
    ("0.8", "nnsight.VLLM", "nnsight.LanguageModel"),
    ("0.7", "nnsight.ndif_status()", "on this machine"),
    ("0.3", "nnsight.util.apply", "call the function"),
    ("0.5", "nnsight.apply(len, [])", "call the function"),
    ("0.5", "nnsight.log(1)", "print"),
    ("0.7", "nnsight.requires_output", "eproperty"),
    ("0.8", "type('Mine', (nnsight.NNsight,), {'_batch': None})", "batch_axis"),
]


def cases(rows):
    return [pytest.param(*row[2:], id=f"{row[0]} {row[1]}") for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(saved(tmp_path_factory.mktemp("checkpoint"), "gpt2"))


@pytest.fixture
def names(folder, no_residue):
    torch.manual_seed(0)
    module, tok = DECODERS["gpt2"].build(), tokenizer()
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))

    def ids(text):
        return tok([text], return_tensors="pt")["input_ids"]

    def generated(text, count):
        return module.generate(ids(text), max_new_tokens=count, do_sample=False)

    return {
        "LONG": LONG,
        "TEXT": TEXT,
        "bert": nnsight.NNsight(FAMILIES["bert"].build().bert),
        "folder": folder,
        "generated": generated,
        "logits": lambda text: module(ids(text)).logits,
        "model": nnsight.LanguageModel(module, tokenizer=tok),
        "module": module,
        "net": net,
        "nnsight": nnsight,
        "tok": tok,
        "torch": torch,
        "x": torch.randn(2, 3),
    }


def skip_where_blocks_give_tuples(names, script):
    """A script takes what a block gives for a tensor, which it is from transformers 5 on."""
    if "transformer.h" not in script:
        return
    found = []
    block = names["module"].transformer.h[0]
    handle = block.register_forward_hook(lambda _module, _arguments, out: found.append(out))
    names["logits"](TEXT)
    handle.remove()
    if isinstance(found[0], tuple):
        pytest.skip("blocks of this version of transformers give tuples")


@pytest.mark.parametrize("script", cases(WORKS))
def test_a_script_runs(names, script):
    skip_where_blocks_give_tuples(names, script)
    exec(compile(script, "<old script>", "exec"), names)


@pytest.mark.parametrize(("instead", "script"), cases(WARNS))
def test_a_script_runs_and_is_told_the_better_name(names, instead, script):
    skip_where_blocks_give_tuples(names, script)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        exec(compile(script, "<old script>", "exec"), names)
    told = [each for each in seen if issubclass(each.category, FutureWarning)]

    assert told
    assert issubclass(told[0].category, nnsight.NNsightDeprecationWarning)
    assert instead in str(told[0].message)
    assert "<old script>" == told[0].filename


@pytest.mark.parametrize(
    ("script", "instead"),
    [pytest.param(script, fix, id=f"{version} {script}") for version, script, fix in REFUSED],
)
def test_a_name_without_counterpart_says_what_to_write(names, script, instead):
    with pytest.raises(tracekit.OldNameError) as caught:
        exec(compile(script, "<old script>", "exec"), names)

    assert instead in caught.value.fix


def test_what_a_call_is_stands_in_its_with_line(names):
    """A tracer in a `with` line, wherever that stands; a call everywhere else."""
    model, plain = names["model"], names["generated"](TEXT, 2)

    class Holder:
        def ids(self):
            with torch.no_grad(), model.generate(TEXT, max_new_tokens=2) as tracer:
                ids = tracer.result.save()
            return ids

    assert torch.equal(plain, Holder().ids())
    with model.session():
        called = model.generate(TEXT, max_new_tokens=2).save()
        with model.generate(TEXT, max_new_tokens=2) as tracer:
            ids = tracer.result.save()
    assert torch.equal(plain, called)
    assert torch.equal(plain, ids)
    with contextlib.nullcontext(model.generate(TEXT, max_new_tokens=2)) as given:
        assert torch.equal(plain, given)
    found = [model.generate(TEXT, max_new_tokens=2) for _ in range(2)]
    assert all(torch.equal(plain, each) for each in found)
    tracer = model.generate(TEXT, max_new_tokens=2, trace=True)
    assert torch.equal(plain, tracer.run(lambda tracer: tracer.result))


@pytest.mark.filterwarnings("ignore::tracekit.nnsight.NNsightDeprecationWarning")
def test_a_generation_of_several_prompts(names):
    model = names["model"]
    with model.generate(max_new_tokens=2) as tracer:
        with tracer.invoke(TEXT):
            one = tracer.result.save()
        with tracer.invoke("London is in"):
            two = model.generator.output.save()

    assert torch.equal(names["generated"](TEXT, 2), one)
    assert torch.equal(names["generated"]("London is in", 2), two)


def test_warnings_are_of_one_class_that_default_filters_show():
    assert issubclass(nnsight.NNsightDeprecationWarning, FutureWarning)


def test_tracer_names_of_before_are_refused(names):
    with names["model"].trace(TEXT) as tracer:
        pass
    for name in ("apply", "log", "cond"):
        with pytest.raises(tracekit.OldNameError):
            getattr(tracer, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("intervention.envoy", "Envoy"),
        ("intervention.tracing.base", "Tracer"),
        ("intervention", "Cache"),
        ("tracing.tracer", "Tracer"),
        ("modeling.language", "LanguageModel"),
        ("models.NNsightModel", "NNsight"),
    ],
)
def test_modules_of_before_can_be_imported(module, name):
    names = {}
    exec(f"from tracekit.nnsight.{module} import {name}", names)
    exec(f"import tracekit.nnsight.{module} as found", names)

    assert names[name] is getattr(nnsight, name)
    assert getattr(names["found"], name) is names[name]


def test_errors_of_before_can_be_caught(names):
    with pytest.raises(nnsight.intervention.interleaver.Mediator.OutOfOrderError):
        exec("with model.trace(TEXT):\n    model.output\n    model.transformer.h[0].input", names)


def test_a_place_in_an_attached_module(names):
    from tracekit.nnsight.util import WrapperModule

    place = WrapperModule()

    assert place(1) == 1
    assert place(1, 2) == (1, 2)


def test_an_import_of_a_name_without_counterpart_says_what_to_write():
    with pytest.raises(ImportError, match=r"nnsight\.NNsight\(pipeline\.unet\)"):
        exec("from tracekit.nnsight import DiffusionModel")
    with pytest.raises(ImportError, match="call the function"):
        exec("from tracekit.nnsight.util import apply")
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from tracekit.nnsight.intervention import whatever")


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="no attribute 'flux'"):
        nnsight.flux  # noqa: B018


def test_all_names_exist():
    for name in nnsight.__all__:
        assert getattr(nnsight, name) is not None
