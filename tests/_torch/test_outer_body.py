"""The body around the invokes: it may read what they bind, and by that begins the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracekit import InvokeError, Model


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


ONE, TWO = torch.ones(1, 4), torch.full((2, 4), 2.0)


def test_reads_a_name_that_an_invoke_binds(no_residue) -> None:
    """As inline: the lines after the invoke see its names."""
    net = network()
    no_residue(net)
    model = Model(net)

    def traced():
        with model.trace() as tracer:
            with tracer.invoke(ONE):
                h = model[0].output
                kept = "bound"
            h = h * 2
            text = kept + "!"
        return h, text

    h, text = traced()

    assert torch.equal(net[0](ONE) * 2, h)
    assert "bound!" == text


def test_a_stale_value_is_never_read() -> None:
    """A value from before is not what the invoke leaves in the name."""
    net = network()
    model = Model(net)
    h = "stale"
    with model.trace() as tracer:
        with tracer.invoke(ONE):
            h = model[0].output
        with tracer.invoke(TWO):
            g = model[2].output
        seen = [h, g]

    assert torch.allclose(net[0](ONE), seen[0])
    assert torch.allclose(net(TWO), seen[1])


def test_its_own_name_is_its_own() -> None:
    """A name that it binds itself after the invokes needs no run."""
    net = network()
    model = Model(net)
    with model.trace() as tracer:
        with tracer.invoke(ONE):
            h = model[0].output
        h = 3
        early = h
        with tracer.invoke(TWO):
            g = model[0].output

    assert 3 == early
    assert torch.allclose(net[0](TWO), g)


def test_a_later_invoke_is_refused_and_both_lines_are_named() -> None:
    """The run has begun when the name was read."""
    model = Model(network())

    def traced():
        with model.trace() as tracer:
            with tracer.invoke(ONE):
                h = model[0].output
            shape = h.shape
            with tracer.invoke(TWO):
                model[0].output
        return shape

    with pytest.raises(InvokeError) as caught:
        traced()
    first = traced.__code__.co_firstlineno

    assert f":{first + 4}" in caught.value.seen
    assert first + 5 in {entry.tb_lineno for entry in entries(caught.value)}


def test_several_runs_are_refused() -> None:
    """With `max_rows` the other invokes have not run when the name is read."""
    model = Model(network())
    with pytest.raises(InvokeError, match="several runs"):
        with model.trace(max_rows=1) as tracer:
            with tracer.invoke(ONE):
                h = model[0].output
            with tracer.invoke(ONE):
                model[0].output
            h.shape


def test_module_level() -> None:
    """In a namespace as in a function."""
    net = network()
    namespace = {"model": Model(net), "ONE": ONE}
    exec(
        "with model.trace() as tracer:\n"
        "    with tracer.invoke(ONE):\n"
        "        h = model[0].output\n"
        "    seen = h + 1\n",
        namespace,
    )

    assert torch.equal(net[0](ONE) + 1, namespace["seen"])


def entries(error: BaseException):
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def test_a_comprehension_variable_is_no_name_of_the_block() -> None:
    """Its slot may be that of a name which another block binds: it is neither waited for nor told."""
    net = network()
    model = Model(net)

    def traced():
        with model.trace() as tracer:
            with tracer.invoke(ONE):
                first = [layer.output for layer in (model[0], model[2])]
            with tracer.invoke(TWO):
                second = []
                for layer in (model[0], model[2]):
                    second.append(layer.output)
            with tracer.invoke(ONE):
                third = [str(layer.path) for layer in (model[1],)]
                path = layer.path
        return first, second, third, path

    first, second, third, path = traced()

    assert torch.allclose(net(ONE), first[1])
    assert torch.allclose(net(TWO), second[1])
    assert (["1"], "2") == (third, path)


MODULE = """
got, keyed, listed, made = {}, [], [], []
l = "outside"
with model.trace() as tracer:
    for p in range(3):
        with tracer.invoke(ONE * p):
            model[0].output
            got[p] = p
            keyed.append(sorted([1, 2], key=lambda v: -v * (p + 1)))
            listed.append([p for _ in range(2)])
            l = p
            made.append(l)
            extra = p
            del extra
after = (p, l, "extra" in globals())
"""


def test_each_invoke_has_the_names_of_its_own_line_in_a_namespace() -> None:
    """In a script or notebook as in a function: loop variables, and what functions read."""
    namespace = {"model": Model(network()), "ONE": ONE}
    exec(MODULE, namespace)

    assert {0: 0, 1: 1, 2: 2} == namespace["got"]
    assert [[2, 1]] * 3 == namespace["keyed"]
    assert [[0, 0], [1, 1], [2, 2]] == namespace["listed"]
    assert [0, 1, 2] == namespace["made"]
    assert (2, 2, False) == namespace["after"]


def test_two_namespaces_and_class_bodies() -> None:
    """Where globals and locals differ."""
    outside = {"model": Model(network()), "ONE": ONE}
    inside: dict[str, object] = {}
    lines = [line for line in MODULE.splitlines() if "for _ in" not in line and "key=" not in line]
    exec("\n".join(lines).replace("globals()", "locals()"), outside, inside)

    assert {0: 0, 1: 1, 2: 2} == inside["got"]
    assert [0, 1, 2] == inside["made"]
    assert (2, 2, False) == inside["after"]
