"""The oracles: an oracle that cannot fail is no oracle."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tracekit import testing
from tracekit.testing import Residue, no_residue, run_inline, run_traced, same_as_inline

TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="needs torch")


class TestSameAsInline:
    def test_a_program(self):
        outcome = same_as_inline("with trace():\n    x = ask(2) + 1\n    print(x)\n    log(x)")

        assert {"x": "3"} == outcome.names
        assert ("3\n", ("3",), ("2",)) == (outcome.printed, outcome.logged, outcome.asked)

    def test_a_function(self):
        def program(trace, ask, log):
            with trace():
                x = [ask(i) for i in range(3)]
            log(x)
            return x

        assert "list(0, 1, 2)" == same_as_inline(program).returned

    def test_requests_suspend(self):
        """The traced program is served from outside: not one request is a plain call."""
        (outcome,) = run_traced("with trace(): x = ask(1) + ask(2)")

        assert ("1", "2") == outcome.asked

    def test_an_answer_may_be_an_error(self):
        same_as_inline(
            "with trace():\n"
            "    try: ask(KeyError('k'))\n"
            "    except KeyError as error: log(error)\n"
            "    ask(ValueError('v'))"
        )

    @pytest.mark.parametrize(
        ("name", "inline", "traced"),
        [
            ("name 'x'", "x = 1", "x = 2"),
            ("name 'x'", "x = 1", "pass"),
            ("name 'x'", "x = 1", "x = True"),
            ("name 'x'", "def x(a=1): pass", "def x(a=2): pass"),
            ("name 'x'", "class x: a = 1", "class x: a = 2"),
            ("printed", "print(1)", "print(2)"),
            ("logged", "log(1)", "log(1); log(1)"),
            ("asked", "ask(1)", "pass"),
            ("error", "raise KeyError(1)", "raise KeyError(2)"),
            ("error", "raise KeyError(1)", "raise  KeyError(1)"),
            ("error", "raise KeyError(1)", "raise KeyError(1) from None"),
            ("error", "1/0", "pass"),
        ],
    )
    def test_sees_a_difference(self, name, inline, traced):
        found = run_inline(inline).differences(run_inline(traced))

        assert 1 == len(found), found
        assert found[0].startswith(f"{name}\n")

    def test_says_what_differs(self, monkeypatch):
        monkeypatch.setattr(testing, "run_traced", lambda *a, **k: [run_inline("x = 2")])

        with pytest.raises(AssertionError, match=r"name 'x'\n    inline: 1\n    traced: 2"):
            same_as_inline("x = 1")

    def test_a_refusal_is_a_difference_unless_allowed(self):
        program = (
            "import re\nwith trace():\n    x = re.sub('a', lambda m: ask('b'), 'a')\nlog('end')"
        )

        with pytest.raises(AssertionError, match="traced is not inline"):
            same_as_inline(program)
        assert "cannot-suspend" == same_as_inline(program, may_refuse=True).refused.slug


class TestResidue:
    def test_nothing(self):
        Residue().check()

    def test_a_trace_function(self):
        def tracing(*_):
            return None

        before = sys.gettrace()
        with pytest.raises(AssertionError, match=r"sys.gettrace\(\): was"):
            try:
                with no_residue():
                    sys.settrace(tracing)
            finally:
                sys.settrace(before)

    def test_a_patched_builtin(self, monkeypatch):
        residue = Residue()
        monkeypatch.setattr("builtins.print", lambda *a: None)

        assert any("builtins.print" in line for line in residue.found())

    def test_an_error_inside_comes_second(self):
        with pytest.raises(KeyError), no_residue():
            raise KeyError

    def test_a_suspended_body(self):
        """A body that nobody ends is found, though its file is the user's."""
        from tracekit._runtime.bodies import FunctionBody

        ask = testing._Recorder(lambda key: key).ask_traced()
        kept = []

        def body():
            try:
                ask(1)
            finally:
                kept.append("unwound")

        residue = Residue()
        generator = FunctionBody(body).start(None)
        next(generator)
        before = residue.found()
        generator.close()
        del generator

        assert {"suspended"} == {line.partition(":")[0] for line in before}
        assert ["unwound"] == kept
        assert [] == residue.found()

    @needs_torch
    def test_a_hook(self):
        tiny = testing.tiny_models()["mlp"].make()
        residue = Residue(tiny)
        handle = tiny[2].register_forward_hook(lambda *_: None)
        during = residue.found()
        handle.remove()

        assert ["2._forward_hooks"] == [line.partition(":")[0] for line in during]
        residue.check()

    @needs_torch
    def test_a_mode(self):
        import torch

        residue = Residue()
        with torch.no_grad(), torch.device("meta"):
            during = residue.found()

        assert {"grad mode", "default device"} <= {line.partition(":")[0] for line in during}
        residue.check()


@needs_torch
class TestTinyModels:
    @pytest.mark.parametrize("name", ["mlp", "repeated", "shared", "nested", "gpt2", "llama"])
    def test_same_weights_each_time(self, name):
        import torch

        tiny = testing.tiny_models()[name]
        torch.manual_seed(1)
        one = tiny.make().state_dict()
        state = torch.random.get_rng_state()
        two = tiny.make().state_dict()

        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_each_runs(self):
        for tiny in testing.tiny_models().values():
            assert tiny.make()(*tiny.inputs()) is not None
