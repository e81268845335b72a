"""Names and numbers of a function's operations, the same on every Python."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tracekit._bytecode.listing import Listing, list_operations


def listing_of(source: str, name: str = "f") -> Listing:
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(source), "<generated>", "exec"), names)
    function: Any = names
    for part in name.split("."):
        function = function[part] if isinstance(function, dict) else getattr(function, part)
    return list_operations(function.__code__)


def labels(source: str, kind: str, name: str = "f") -> list[str]:
    return list(listing_of(source, name).of_kind(kind))


CALLS = [
    ("f(x)", ["f_0"]),
    ("torch.nn.functional.softmax(x)", ["torch_nn_functional_softmax_0"]),
    ("self.act(x)", ["self_act_0"]),
    ("self.h[i](x)", ["self_h_0"]),
    ("self.h[i].mlp(x)", ["self_h_mlp_0"]),
    ("x.view(1).transpose(1, 2)", ["x_view_0", "transpose_0"]),
    ("x.view(1)[0].abs()", ["x_view_0", "abs_0"]),
    ("f(f(f(x)))", ["f_0", "f_1", "f_2"]),
    ("f(x)(y)", ["f_0", "call_0"]),
    ("(f if x else g)(y)", ["call_0"]),
    ("(f if x else f)(y)", ["f_0"]),
    ("(a.q.proj if x else a.k.proj)(y)", ["proj_0"]),
    ("(a if x else y).q.act(y)", ["q_act_0"]),
    ("(lambda: hidden())()", ["call_0"]),
    ("f(*x, **y)", ["f_0"]),
    ("f(x, k=y)", ["f_0"]),
    ("a.f(x, k=y)", ["a_f_0"]),
    ("a.f(*x)", ["a_f_0"]),
    ("super().forward(x)", ["forward_0"]),
    ("super(A, self).forward(x)", ["forward_0"]),
    ("[f(q) for q in g()]", ["f_0", "g_0"]),
    ("{f(q): g(q) for q in x if h(q)}", ["f_0", "g_0", "h_0"]),
    ("sum(f(q) for q in x)", ["f_0", "sum_0"]),
    ("[[f(q) for q in f(r)] for r in f(x)]", ["f_0", "f_1", "f_2"]),
    (
        "(a\n     .view(a.view(1),\n   a.view(2)).view(3))",
        ["a_view_0", "a_view_1", "a_view_2", "view_0"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), CALLS, ids=[text for text, _ in CALLS])
def test_call_names(text: str, expected: list[str]) -> None:
    assert labels(f"def f(self, x, y, a, i):\n    return {text}", "call") == expected


OPERATORS = [
    ("x + y * x - y", ["mul_0", "add_0", "sub_0"]),
    ("x @ y @ x", ["matmul_0", "matmul_1"]),
    ("-x ** ~y", ["invert_0", "neg_0", "pow_0"]),
    ("+x // y % x / y", ["pos_0", "floordiv_0", "mod_0", "truediv_0"]),
    ("x << y >> x & y | x ^ y", ["lshift_0", "rshift_0", "and_0", "or_0", "xor_0"]),
    ("x < y <= x", ["lt_0", "le_0"]),
    ("x < y < x < y", ["lt_0", "lt_1", "lt_2"]),
    ("(x == y) != (x > y) >= y", ["eq_0", "gt_0", "ne_0", "ge_0"]),
    ("x in y or x not in y", ["contains_0", "contains_1"]),
    ("x[0][1:2][..., None]", ["getitem_0", "getitem_1", "getitem_2"]),
    ("not x is None and y", []),
]


@pytest.mark.parametrize(("text", "expected"), OPERATORS, ids=[text for text, _ in OPERATORS])
def test_operator_names(text: str, expected: list[str]) -> None:
    found = labels(f"def f(x, y):\n    return {text}", "operator")
    assert sorted(found) == sorted(expected)


ASSIGNMENTS = [
    ("a = x", ["a_0"]),
    ("a = b = x", ["a_0", "b_0"]),
    ("a: int = x", ["a_0"]),
    ("a, (b, *c) = x", ["a_0", "b_0", "c_0"]),
    ("a, b = b, a", ["a_0", "b_0"]),
    ("self.last = x", ["self_last_0"]),
    ("self.__own = x", ["self___own_0"]),
    ("d['k'] = x", ["d_0"]),
    ("self.cache[0][1:2] = x", ["self_cache_0"]),
    ("f()[0] = x", ["item_0"]),
    ("f().last = x", ["last_0"]),
    ("x += 1; self.n += 1; d[0] += 1; d[0:1] += 1", ["x_0", "self_n_0", "d_0", "d_1"]),
    ("print(a := x)", ["a_0"]),
    ("for a in x: pass", ["a_0"]),
    ("for i, (a, b) in x: pass", ["i_0", "a_0", "b_0"]),
    ("with x as a, y as (b, c): pass", ["a_0", "b_0", "c_0"]),
    ("r = [a for a in x]", ["r_0", "a_0"]),
    ("r = [a for a in x for b in a]; a = 1", ["r_0", "a_0", "b_0", "a_1"]),
    ("import os\ndef g(): pass\nclass K: pass", []),
    ("try: a = x\nexcept E as e: pass", ["a_0"]),
    ("try: pass\nexcept E as errs: pass", []),
    ("global G; G = x", ["G_0"]),
    ("@deco\ndef g(): pass", []),
    ("a = lambda: 0", ["a_0"]),
    ("[b := q for q in x]", ["b_0", "q_0"]),
]


@pytest.mark.parametrize(("text", "expected"), ASSIGNMENTS, ids=[text for text, _ in ASSIGNMENTS])
def test_assignment_names(text: str, expected: list[str]) -> None:
    body = textwrap.indent(text, "        ")
    source = f"class C:\n    def f(self, x, y, d):\n{body}\n        return x"
    assert sorted(labels(source, "assign", "C.f")) == sorted(expected)


def test_numbers_follow_the_position_where_an_operation_ends() -> None:
    source = """
        def f(x, y):
            x = x + (y + y)
            while x + y:
                x = g(x) + 1
            return x + 2
    """
    found = listing_of(source).of_kind("operator")
    assert [(label, op.location[:2]) for label, op in found.items() if op.location] == [
        ("add_0", (3, 3)),
        ("add_1", (3, 3)),
        ("add_2", (4, 4)),
        ("add_3", (5, 5)),
        ("add_4", (6, 6)),
    ]
    first, second = found["add_0"].location, found["add_1"].location
    assert first is not None
    assert second is not None
    assert first[3] < second[3]


def test_copies_of_one_position_are_one_operation() -> None:
    source = """
        def f(x):
            while g(x) < 3:
                try:
                    x = g(x)
                    if x:
                        return x
                finally:
                    x += h(x)
            return None
    """
    listing = listing_of(source)
    assert list(listing.of_kind("call")) == ["g_0", "g_1", "h_0"]
    assert len(listing.of_kind("call")["g_0"].spots) == 2
    assert len(listing.of_kind("call")["h_0"].spots) > 2
    assert list(listing.of_kind("operator")) == ["lt_0", "add_0"]


def test_ends_of_with_blocks_decorators_and_assertions_are_no_calls() -> None:
    source = """
        def f(x):
            with x:
                assert x, "message"
            @deco(1)
            @other
            def inner():
                return hidden()
            class K(Base, key=meta()):
                value = hidden()
            return inner
    """
    assert labels(source, "call") == ["deco_0", "meta_0"]


def test_what_stands_behind_a_return_in_a_try_is_found() -> None:
    source = """
        def f(x):
            try:
                return g(x)
            except ValueError:
                pass
            return h(x) + 1
    """
    assert labels(source, "call") == ["g_0", "h_0"]
    assert labels(source, "operator") == ["add_0"]


def test_two_functions_of_one_name_in_a_class() -> None:
    source = """
        class _C:
            def f(self):
                return self.__a(self._C__b(), self._f__c, self.__d__())
    """
    assert labels(source, "call", "_C.f") == ["self___b_0", "self___d___0", "self___a_0"]


GPT2_LIKE = """
def forward(self, hidden_states, mask=None, **kwargs):
    q, k, v = self.c_attn(hidden_states).split(self.split_size, dim=2)
    shape = (*q.shape[:-1], -1, self.head_dim)
    q = q.view(shape).transpose(1, 2)
    k = k.view(shape).transpose(1, 2)
    interface = eager
    if self.config.kind != "eager":
        interface = ALL[self.config.kind]
    attn_output, attn_weights = interface(
        self,
        q,
        k.transpose(-1, -2) if mask is None else mask,
        dropout=self.dropout.p if self.training else 0.0,
        **kwargs,
    )
    weights = [w / w.sum() for w in attn_weights if w is not None]
    attn_output = attn_output.reshape(*attn_output.shape[:-2], -1).contiguous()
    attn_output += self.bias
    return self.resid_dropout(attn_output), (weights, attn_weights[0] @ v)
"""
GOLDEN = """\
assign k_0 3
assign q_0 3
assign v_0 3
call self_c_attn_0 3
call split_0 3
assign shape_0 4
operator getitem_0 4
assign q_1 5
call q_view_0 5
call transpose_0 5
assign k_1 6
call k_view_0 6
call transpose_1 6
assign interface_0 7
operator ne_0 8
assign interface_1 9
operator getitem_1 9
assign attn_output_0 10
assign attn_weights_0 10
call k_transpose_0 13
call interface_0 10
assign w_0 17
assign weights_0 17
call w_sum_0 17
operator truediv_0 17
assign attn_output_1 18
operator getitem_2 18
call attn_output_reshape_0 18
call contiguous_0 18
assign attn_output_2 19
operator add_0 19
call self_resid_dropout_0 20
operator getitem_3 20
operator matmul_0 20"""


def test_the_listing_of_an_attention_is_the_same_on_every_python() -> None:
    listing = listing_of(GPT2_LIKE, "forward")
    assert listing.by_position
    lines = [f"{op.kind} {op.label} {op.lineno}" for op in listing.operations]
    assert "\n".join(lines) == GOLDEN


def test_without_columns_operations_are_numbered_in_order_of_bytecode() -> None:
    program = f"""
from tracekit._bytecode.listing import list_operations
names = {{}}
exec(compile({GPT2_LIKE!r}, "<generated>", "exec"), names)
listing = list_operations(names["forward"].__code__)
print(listing.by_position, *listing.of_kind("call"), *listing.of_kind("assign"))
"""
    done = subprocess.run(
        [sys.executable, "-X", "no_debug_ranges", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    by_position, *names = done.stdout.split()
    assert by_position == "False"
    expected = [f"{op.label}" for op in listing_of(GPT2_LIKE, "forward").operations]
    kinds = [op.kind for op in listing_of(GPT2_LIKE, "forward").operations]
    calls_and_assigns = [
        label for label, kind in zip(expected, kinds, strict=True) if kind != "operator"
    ]
    assert sorted(names) == sorted(calls_and_assigns)
