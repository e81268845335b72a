"""Code in which operations report: what reports, and that nothing else changes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from tracekit._bytecode.listing import list_operations
from tracekit._bytecode.taps import Instead, Tap, make_tapped, renew_taps

HERE = Path(__file__).parent


class Recorder(Tap):
    """Notes everything, and changes what it is told to."""

    def __init__(self, **changes: Any) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.changes = changes

    def call(self, callee, args, kwargs):
        self.seen.append(("call", args, kwargs))
        if "skip" in self.changes:
            return lambda: self.changes["skip"], (), {}
        return self.changes.get("callee", callee), *self.changes.get("args", (args, kwargs))

    def operands(self, values):
        self.seen.append(("operands", values))
        if "skip" in self.changes:
            return Instead(self.changes["skip"])
        return self.changes.get("operands", values)

    def result(self, value):
        self.seen.append(("result", value))
        return self.changes.get("result", value)

    def assigned(self, value):
        self.seen.append(("assigned", value))
        return self.changes.get("assigned", value)


def define(source: str, name: str = "f", **names: Any) -> Any:
    exec(compile(textwrap.dedent(source), "<generated>", "exec"), names)
    return names[name]


def with_taps(function: FunctionType, **taps: Tap) -> FunctionType:
    found = {op.label: op for op in list_operations(function.__code__).operations}
    code = make_tapped(function.__code__, {found[name]: tap for name, tap in taps.items()})
    made = FunctionType(
        code,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def g(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *kwargs.items())


class Thing:
    def g(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return g(*args, **kwargs)


SHAPES = [
    ("g()", (), {}),
    ("g(1, x)", (1, 5), {}),
    ("g(1, k=x)", (1,), {"k": 5}),
    ("g(k=1, m=x)", (), {"k": 1, "m": 5}),
    ("g(*[1, x])", (1, 5), {}),
    ("g(*(1, x), x)", (1, 5, 5), {}),
    ("g(1, **{'k': x})", (1,), {"k": 5}),
    ("g(*iter([1]), k=2, **{'m': x})", (1,), {"k": 2, "m": 5}),
]


@pytest.mark.parametrize("owner", ["", "thing."])
@pytest.mark.parametrize(("text", "args", "kwargs"), SHAPES, ids=[s[0] for s in SHAPES])
def test_calls_of_all_shapes(owner: str, text: str, args: Any, kwargs: Any) -> None:
    function = define(f"def f(x):\n    return [0, {owner}{text}]", g=g, thing=Thing())
    label = f"{owner}g_0".replace(".", "_")
    tap = Recorder()
    assert with_taps(function, **{label: tap})(5) == function(5)
    assert tap.seen == [("call", args, kwargs), ("result", g(*args, **kwargs))]
    for change, expected in [
        ({"result": 7}, 7),
        ({"skip": 8}, 8),
        ({"args": ((9,), {"n": 1})}, (9, ("n", 1))),
        ({"callee": lambda *args, **kwargs: len(args)}, len(args)),
    ]:
        assert with_taps(function, **{label: Recorder(**change)})(5) == [0, expected]


OPERATORS = [
    ("x + y", "add_0", (6, 3)),
    ("x @ y", "matmul_0", None),
    ("x ** y", "pow_0", (6, 3)),
    ("-x", "neg_0", (6,)),
    ("~x", "invert_0", (6,)),
    ("+x", "pos_0", (6,)),
    ("x < y", "lt_0", (6, 3)),
    ("x in z", "contains_0", (6, [1, 6, 3])),
    ("z[y - 1]", "getitem_0", ([1, 6, 3], 2)),
    ("z[1:x]", "getitem_0", ([1, 6, 3], slice(1, 6))),
    ("z[1:x:2]", "getitem_0", ([1, 6, 3], slice(1, 6, 2))),
]


@pytest.mark.parametrize(("text", "label", "operands"), OPERATORS, ids=[o[0] for o in OPERATORS])
def test_operators(text: str, label: str, operands: Any) -> None:
    function = define(f"def f(x, y, z):\n    return [0, {text}]")
    arguments: Any = (6, 3, [1, 6, 3])
    skipped = with_taps(function, **{label: Recorder(skip=7)})
    assert skipped(*arguments) == [0, 7]
    if operands is None:
        return
    tap = Recorder()
    expected = function(*arguments)
    assert with_taps(function, **{label: tap})(*arguments) == expected
    assert tap.seen == [("operands", operands), ("result", expected[1])]
    assert with_taps(function, **{label: Recorder(result=8)})(*arguments) == [0, 8]
    changed = with_taps(function, **{label: Recorder(operands=operands)})
    assert changed(*arguments) == expected


def test_operands_are_changed_in_their_order() -> None:
    function = define("def f(x, y):\n    return x - y")
    assert with_taps(function, sub_0=Recorder(operands=(10, 3)))(0, 0) == 7


def test_a_comparison_that_decides_a_branch() -> None:
    function = define(
        """
        def f(x):
            if 0 < x < 9:
                return "inside"
            return "outside"
        """
    )
    tap = Recorder()
    assert with_taps(function, lt_0=tap)(5) == "inside"
    assert tap.seen == [("operands", (0, 5)), ("result", True)]
    assert with_taps(function, lt_0=Recorder(result=[]))(5) == "outside"
    assert with_taps(function, lt_1=Recorder(result=[0]))(50) == "inside"


ASSIGNMENTS = [
    ("a = x", "a_0", "a", 5),
    ("a = b = x", "b_0", "b", 5),
    ("a, b = x, 1", "a_0", "a", 5),
    ("a, *b = 1, x, x", "b_0", "b", [5, 5]),
    ("s.a = x", "s_a_0", "s.a", 5),
    ("d['k'] = x", "d_0", "d['k']", 5),
    ("l[0:2] = [x]", "l_0", "l[0:2]", [5]),
    ("x += 1", "x_0", "x", 6),
    ("d['n'] += x", "d_0", "d['n']", 6),
    ("print(end='', file=(a := s))", "a_0", "a", None),
    ("for a in [x]: pass", "a_0", "a", 5),
    ("global G; G = x", "G_0", "G", 5),
]


@pytest.mark.parametrize(
    ("text", "label", "target", "value"), ASSIGNMENTS, ids=[a[0] for a in ASSIGNMENTS]
)
def test_assignments(text: str, label: str, target: str, value: Any) -> None:
    source = f"def f(x, s, d, l):\n    {text}\n    return {target}"
    function = define(source)

    def call(function: Callable[..., Any]) -> Any:
        space = type("Space", (), {"write": lambda self, text: None})()
        return function(5, space, {"n": 1}, [1, 2, 3])

    tap = Recorder()
    result = call(function)
    assert call(with_taps(function, **{label: tap})) == result or value is None
    if value is not None:
        assert tap.seen == [("assigned", value)]
    new = [9] if target == "l[0:2]" else "new"
    if target == "l[0:2]":
        assert call(with_taps(function, **{label: Recorder(assigned=new)})) == [9, 3]
    elif value is not None:
        assert call(with_taps(function, **{label: Recorder(assigned=new)})) == new


def test_comprehensions_report_in_the_function_they_stand_in() -> None:
    source = """
        def f(xs):
            return [x + 1 for x in xs if h(x)], sum(x * 2 for x in xs), {k: v for k, v in zip(xs, xs)}
    """
    function = define(source, h=bool)
    taps = {name: Recorder() for name in ("h_0", "add_0", "mul_0", "v_0", "x_0")}
    assert with_taps(function, **taps)([0, 1, 2]) == function([0, 1, 2])
    results = {
        name: [item[1] for item in tap.seen if item[0] == "result"] for name, tap in taps.items()
    }
    assert results["h_0"] == [False, True, True]
    assert results["add_0"] == [2, 3]
    assert results["mul_0"] == [0, 2, 4]
    assert taps["v_0"].seen == [("assigned", 0), ("assigned", 1), ("assigned", 2)]
    assert len(taps["x_0"].seen) == 3


def test_all_copies_of_an_operation_report() -> None:
    source = """
        def f(x):
            try:
                while h(x):
                    x -= 1
                    if x == 7:
                        return "early"
            finally:
                done(x)
            return x
    """
    function = define(source, h=bool, done=lambda x: None)
    for start, tests, result in ((3, 4, 0), (8, 1, "early")):
        test, last = Recorder(), Recorder()
        assert with_taps(function, h_0=test, done_0=last)(start) == result
        assert len(test.seen) == 2 * tests
        assert len(last.seen) == 2


def test_the_callee_sees_the_frame_of_the_function() -> None:
    source = """
        def f(x):
            local = x
            return sys._getframe(0).f_code.co_name, caller(), locals()["local"], eval("local")
    """

    def caller() -> str:
        return sys._getframe(1).f_code.co_name

    function = define(source, sys=sys, caller=caller)
    names = ("sys__getframe_0", "caller_0", "locals_0", "eval_0")
    assert with_taps(function, **{name: Recorder() for name in names})(5) == ("f", "f", 5, 5)


def test_errors_keep_their_positions() -> None:
    source = """
        def f(x):
            try:
                return (g(1) + x
                        .missing)
            finally:
                h(k=x) @ x
    """
    function = define(source, g=lambda x: x, h=lambda k: k)
    taps = {name: Recorder() for name in ("g_0", "add_0", "h_0", "matmul_0")}

    def positions(function: Callable[..., Any]) -> Any:
        with pytest.raises(TypeError) as caught:
            function(1)
        chain = [caught.value, caught.value.__context__]
        return [
            [
                (frame.name, frame.lineno, frame.end_lineno, frame.colno, frame.end_colno)
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.name == "f"
            ]
            for error in chain
            if error is not None
        ]

    assert positions(with_taps(function, **taps)) == positions(function)


@pytest.mark.parametrize("text", ["g(*5)", "g(**5)", "g(*x, **{1: 2})", "x()", "g.missing()"])
def test_errors_of_calls_are_the_same(text: str) -> None:
    function = define(f"def f(x):\n    return {text}", g=g)
    [label] = [op.label for op in list_operations(function.__code__).operations]
    messages = []
    for tried in (function, with_taps(function, **{label: Recorder()})):
        with pytest.raises((TypeError, AttributeError)) as caught:
            tried([1])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_super_closures_and_private_names() -> None:
    source = """
        def make():
            class A:
                def __own(self, x): return x + 1
                def run(self, x, *, k=2): return x * k
            class B(A):
                def __own(self, x): return x + 2
                def run(self, x, *, k=3):
                    return super().run(self.__own(x), k=k) + len([__class__ for _ in x if self])
            return B
    """
    cls = define(source.replace(" in x if self", " in (x,) if self"), "make")()
    function = cls.run
    taps = {name: Recorder() for name in ("run_0", "self___own_0", "len_0", "add_0")}
    assert with_taps(function, **taps)(cls(), 5) == function(cls(), 5)
    assert taps["run_0"].seen == [("call", (7,), {"k": 3}), ("result", 21)]


def test_what_a_tap_raises_comes_out_of_the_operation() -> None:
    class Refusing(Tap):
        def result(self, value):
            raise KeyError(value)

    function = define(
        """
        def f(x):
            try:
                return x + 1
            except KeyError as error:
                return error.args
        """
    )
    assert with_taps(function, add_0=Refusing())(1) == (2,)


def test_what_is_not_tapped_stays_as_it_is() -> None:
    function = define("def f(x):\n    y = h(x) + 1\n    return y * 2", h=int)
    code = function.__code__
    assert make_tapped(code, {}) is code
    [add] = [op for op in list_operations(code).operations if op.name == "add"]
    tapped = make_tapped(code, {add: Tap()})
    at = next(i for i, (one, other) in enumerate(zip(code.co_code, tapped.co_code)) if one != other)
    common = 0
    while code.co_code[~common] == tapped.co_code[~common]:
        common += 1
    # Everything before the operands' tuple and behind the addition is byte for byte the same.
    assert at + common >= len(code.co_code) - 2


def test_tapped_code_can_be_made_to_report_to_others() -> None:
    source = """
        def f(x, *y):
            a = [h(v, k=1) + v for v in y]
            return sum(h(*a)) + len(y)
    """
    function = define(source, h=lambda *x, k=0: x if len(x) > 1 else x[0])
    operations = list_operations(function.__code__).operations
    names = {Recorder(): op.label for op in operations}
    first = make_tapped(
        function.__code__, {op: tap for op, tap in zip(operations, names, strict=True)}
    )
    others: dict[Tap, Recorder] = {}
    second = renew_taps(first, lambda tap: others.setdefault(tap, Recorder()))
    assert FunctionType(second, function.__globals__)(1, 2, 3) == function(1, 2, 3) == 12
    assert not any(tap.seen for tap in names)
    assert FunctionType(first, function.__globals__)(1, 2, 3) == 12
    assert {names[tap]: tap.seen for tap in names} == {
        names[tap]: other.seen for tap, other in others.items()
    }


STRESSED = (
    "textwrap,fractions,shlex,"
    "test.test_grammar,test.test_listcomps,test.test_extcall,test.test_patma,test.test_with,"
    "test.test_named_expressions,test.test_augassign,test.test_super,test.test_unpack_ex"
)
TESTS = STRESSED.replace(
    "textwrap,fractions,shlex", "test.test_textwrap,test.test_fractions,test.test_shlex"
)


def test_cpythons_own_tests_pass_with_every_operation_tapped() -> None:
    pytest.importorskip("test.test_textwrap", reason="this Python was installed without its tests")
    done = subprocess.run(
        [sys.executable, str(HERE.parent / "tapped_child.py"), STRESSED, TESTS],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(HERE.parents[1] / "src")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tests, _, reports, _ = done.stdout.split()[-4:]
    assert int(tests) > 600
    assert int(reports) > 100_000
