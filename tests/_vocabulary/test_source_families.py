"""Operations of real attentions, MLPs and mixers: names, identity, surgery."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402 (after the skip)
from families import BEFORE_5, FAMILIES  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from tracekit import Model, TraceError  # noqa: E402

HERE = Path(__file__).parent
SNAPSHOTS = HERE / "source_names.json"
"""transformers version -> class -> names of its forward's operations, by one space."""

# One module of each class like these.
INNER = re.compile(r"(Attention|MLP|Mixer|Experts|SparseMoeBlock|DenseAct|Router)\w*$")


def inner_modules(module: nn.Module) -> dict[str, str]:
    """Path of the first module of each class that holds a forward of interest."""
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        if INNER.search(type(part).__name__):
            found.setdefault(type(part).__name__, path)
    return found


def first_tensor(output: Any) -> torch.Tensor:
    return next(value for value in output.values() if isinstance(value, torch.Tensor))


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.values(), other.values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


def names_by_class() -> dict[str, str]:
    names = {}
    for name, family in FAMILIES.items():
        model = Model(family.build_on_meta())
        for cls, path in inner_modules(model._module).items():
            names[f"{name}: {cls}"] = " ".join(model.get(path).source.names)
    return names


def test_names_are_those_of_the_snapshot() -> None:
    known = json.loads(SNAPSHOTS.read_text())
    version = transformers.__version__
    if version not in known:
        pytest.skip(f"no snapshot for transformers {version}")
    assert names_by_class() == known[version]


def operations_run(model: Model, path: str, inputs: dict[str, Any]) -> list[str]:
    """Names of the operations of a forward in the order in which they end, each visit once."""
    source = model.get(path).source
    prefix = f"{path}.source."
    with model.trace(**inputs) as tracer:
        model.get(path).inputs
        # What runs first is not known yet; asking for one operation makes all of them report.
        try:
            source[source.names[0]].output
        except TraceError:
            pass
    return [
        site.path.removeprefix(prefix)
        for site in tracer.visited
        if site.path.startswith(prefix) and site.port == "output"
    ]


def test_every_operation_replaced_by_itself_changes_nothing(family, no_residue) -> None:
    module = family.build()
    inputs = family.inputs()
    # On its first call, transformers puts recording hooks of its own on some models.
    module(**inputs)
    no_residue(module)
    model = Model(module)
    with torch.no_grad():
        expected = module(**inputs)
        for path in inner_modules(module).values():
            ran = operations_run(model, path, inputs)
            assert ran, path
            source = model.get(path).source
            with model.trace(**inputs) as tracer:
                for name in ran:
                    operation = source[name]
                    operation.output = operation.output
                result = tracer.result
            assert same(result, expected), path


def test_zeroing_a_projection_is_what_a_hook_on_it_does(family, no_residue) -> None:
    """For each submodule that a forward calls: its call's output zeroed, against surgery."""
    if BEFORE_5 and family.name.startswith("mamba"):
        pytest.skip("it calls its projections in a second method")
    module = family.build()
    inputs = family.inputs()
    # On its first call, transformers puts recording hooks of its own on some models.
    module(**inputs)
    no_residue(module)
    model = Model(module)
    compared = 0
    with torch.no_grad():
        for path in inner_modules(module).values():
            part = module.get_submodule(path)
            ran = set(operations_run(model, path, inputs))
            for child_name, child in part.named_children():
                name = f"self_{child_name}_0"
                if name not in ran or not isinstance(child, (nn.Linear, Conv1D)):
                    continue
                with model.trace(**inputs) as tracer:
                    operation = model.get(path).source[name]
                    operation.output = torch.zeros_like(operation.output)
                    result = tracer.result
                visits = iter([True])
                handle = child.register_forward_hook(
                    lambda _module, _args, output: (
                        torch.zeros_like(output) if next(visits, False) else None
                    )
                )
                try:
                    surgery = module(**inputs)
                finally:
                    handle.remove()
                assert same(result, surgery), f"{path}.{child_name}"
                compared += 1
    assert compared


def test_zeroing_gpt2s_attention_weights_is_what_a_patched_softmax_does(
    no_residue, monkeypatch
) -> None:
    module = FAMILIES["gpt2"].build()
    module.set_attn_implementation("eager")
    no_residue(module)
    model = Model(module)
    inputs = FAMILIES["gpt2"].inputs()
    with torch.no_grad(), model.trace(**inputs) as tracer:
        inside = model.transformer.h[1].attn.source.attention_interface_0.source
        weights = inside.nn_functional_softmax_0
        weights.output = weights.output * 0
        result = tracer.result
    softmax = nn.functional.softmax
    calls = []

    def second_is_zero(*args, **kwargs):
        calls.append(args)
        return softmax(*args, **kwargs) * (len(calls) != 2)

    monkeypatch.setattr(nn.functional, "softmax", second_is_zero)
    with torch.no_grad():
        surgery = module(**inputs)
    assert len(calls) == 2
    assert same(result, surgery)


@pytest.mark.skipif(BEFORE_5, reason="experts were modules of their own")
def test_an_implementation_chosen_at_run_time_is_what_runs(no_residue) -> None:
    module = FAMILIES["mixtral"].build()
    no_residue(module)
    model = Model(module)
    experts = model.model.layers[0].mlp.experts
    assert "experts_forward_0" in experts.source
    with torch.no_grad(), model.trace(**FAMILIES["mixtral"].inputs()):
        inside = experts.source.experts_forward_0.source
        names = inside.names
        out = experts.source.experts_forward_0.output
        whole = experts.output
    assert len(names) > 10
    assert out is whole


def test_each_step_of_a_generation_visits_the_operations(no_residue) -> None:
    module = FAMILIES["gpt2"].build()
    no_residue(module)
    model = Model(module)
    shapes = []
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    with model.trace(**FAMILIES["gpt2"].inputs(), fn="generate", **options) as tracer:
        for _ in tracer.iter[:]:
            shapes.append(model.transformer.h[1].attn.source.query_states_2.output.shape[2])
    assert shapes == [7, 1, 1]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "mixtral", "mamba"])
def test_each_invoke_has_its_rows_of_every_operation(name, no_residue) -> None:
    """Read in one invoke of two, a value is the one of a run with that input alone."""
    if BEFORE_5 and name in ("mixtral", "mamba"):
        pytest.skip("one edits in place what it has read, the other computes in a second method")
    family = FAMILIES[name]
    module = family.build()
    no_residue(module)
    model = Model(module)
    ids = family.inputs()["input_ids"]
    paths = inner_modules(module).values()
    path = max(paths, key=lambda path: len(model.get(path).source))
    compared = 0
    with torch.no_grad():
        ran = operations_run(model, path, {"input_ids": ids[1:]})

        def values():
            source = model.get(path).source
            return [source[label].output for label in ran]

        alone = model.trace(ids[1:]).run(values)
        beside: list[Any] = []
        with model.trace() as tracer:
            with tracer.invoke(ids[:1]):
                pass
            with tracer.invoke(ids[1:]):
                source = model.get(path).source
                for label in ran:
                    beside.append(source[label].output)
        for label, one, other in zip(ran, alone, beside, strict=True):
            if isinstance(one, torch.Tensor):
                assert one.shape == other.shape, label
                if one.is_floating_point():
                    assert torch.allclose(one, other, atol=1e-5), label
                compared += 1
    assert compared > 10
