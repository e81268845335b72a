"""Every `with` of the standard library, and of the large packages installed here.

Each one is found in bytecode, cut, made a generator and assembled. What must be refused is known
from the syntax tree: exactly those whose body has a statement of its own that leaves it. (Tests
may read source; the cutting sees bytecode only.) Of what is cut, every instruction must lie in
the body, and every instruction of the body must have been taken.

`python tests/slow/test_corpus.py` prints the counts that `docs/inside/capture.md` shows; given
files or folders, those of these.
"""

from __future__ import annotations

import ast
import dis
import importlib.util
import re
import sys
import sysconfig
import warnings
from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import CodeType

import pytest

from tracekit._bytecode.assemble import assemble
from tracekit._bytecode.cut import cut, decode, target_of
from tracekit._bytecode.facts import CACHE_UNITS
from tracekit._bytecode.generator import make_body_twin
from tracekit._bytecode.lift import Table, lift
from tracekit._bytecode.opcodes import JUMPS, LEAVES, NOP, UNCONDITIONAL_JUMPS
from tracekit._bytecode.program import Instr
from tracekit._bytecode.questions import Hooks
from tracekit.errors import LeavesBlockError

STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("torch", "transformers", "numpy")
BUCKETS = 16


def _none(*_):
    return None


def _maker(*_):
    return _none


def _itself(value):
    return value


def _hook(annotation):
    """A hook of this kind that never has anything suspend."""
    if "BaseException" in annotation:
        return _itself
    if annotation.startswith("frozenset"):
        return frozenset()
    return _maker if annotation.startswith(("Callable[[str]", "Callable[[int]")) else _none


HOOKS = Hooks(**{field.name: _hook(field.type) for field in fields(Hooks)})


def files(root: Path) -> list[Path]:
    return sorted(
        path for path in root.rglob("*.py") if root != STDLIB or "site-packages" not in path.parts
    )


def sources(paths):
    """Give path, syntax tree and code of each file that is a program."""
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text = path.read_bytes()
                yield path, ast.parse(text), compile(text, str(path), "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                continue


def codes_of(top: CodeType):
    waiting = [top]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]


# --- What the syntax tree says --------------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LOOPS = (ast.For, ast.While, ast.AsyncFor)


def leaving(nodes, *, in_loop=False, in_function=False):
    """Give the nodes that leave a body made of *nodes*."""
    for node in nodes:
        if isinstance(node, FUNCTIONS):
            # What is evaluated in place: decorators, defaults, bases, annotations.
            outside = list(getattr(node, "decorator_list", []))
            arguments = getattr(node, "args", None)
            if arguments is not None:
                outside += [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]
            outside += getattr(node, "bases", [])
            yield from leaving(outside, in_loop=in_loop)
            continue
        if isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await)):
            yield node
        elif isinstance(node, (ast.AsyncFor, ast.AsyncWith)):
            yield node
        elif isinstance(node, (ast.Break, ast.Continue)) and not in_loop:
            yield node
        if isinstance(node, COMPREHENSIONS):
            is_async = any(generator.is_async for generator in node.generators)
            if is_async and not isinstance(node, ast.GeneratorExp):
                yield node
            yield from leaving([node.generators[0].iter], in_loop=in_loop)
            if not isinstance(node, ast.GeneratorExp):
                yield from leaving(
                    [inner for inner in ast.walk(node) if isinstance(inner, ast.Await)]
                )
        elif isinstance(node, LOOPS):
            head = [node.test] if isinstance(node, ast.While) else [node.target, node.iter]
            yield from leaving([*head, *node.orelse], in_loop=in_loop)
            yield from leaving(node.body, in_loop=True)
        else:
            yield from leaving(ast.iter_child_nodes(node), in_loop=in_loop)


def position(node):
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


class Truth:
    """One item of one `with`: where its body is, and what leaves it."""

    def __init__(self, node: ast.With, index: int) -> None:
        later = node.items[index + 1 :]
        inner = [part for item in later for part in (item.context_expr, item.optional_vars) if part]
        target = node.items[index].optional_vars
        parts = [*([target] if target else []), *inner, *node.body]
        self.leaves = list(leaving(parts))
        first = parts[0]
        decorators = getattr(first, "decorator_list", [])
        self.begin = position(decorators[0] if decorators else first)[0::2]
        self.end = position(node.body[-1])[1::2]
        # The entered value is dropped, and `__exit__` of later items is called, at these places.
        items = node.items[index:]
        self.borrowed = {position(node), *(position(item.context_expr) for item in items)}
        self.node = node


def truths(tree: ast.Module) -> dict[tuple, list[Truth]]:
    """By the position of the instruction that enters: one for each item."""
    found: dict[tuple, list[Truth]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            for index, item in enumerate(node.items):
                truth = Truth(node, index)
                found.setdefault(position(node), []).append(truth)
                found.setdefault(position(item.context_expr), []).append(truth)
    return found


# --- Comparing ------------------------------------------------------------------------------


def place(code, offset):
    return next(islice(code.co_positions(), offset // 2, None))


def units(code):
    offset = 0
    while offset < len(code.co_code):
        unit = decode(code.co_code, offset)
        yield unit
        offset = unit.stop_offset


def reached(code):
    """Where a run can come to: the compiler leaves handlers of statements that cannot raise."""
    table = Table(code)
    seen, waiting = set(), [0]
    while waiting:
        offset = waiting.pop()
        if offset in seen:
            continue
        seen.add(offset)
        unit = decode(code.co_code, offset)
        entry = table.covering(offset)
        if entry is not None:
            waiting.append(entry.target_offset)
        if unit.op in JUMPS:
            waiting.append(target_of(unit))
        if unit.op not in LEAVES and unit.op not in UNCONDITIONAL_JUMPS:
            waiting.append(unit.stop_offset)
    return seen


def entries(code):
    """Offset and position of each instruction that enters a `with`."""
    return [
        (instruction.offset, tuple(instruction.positions))
        for instruction in dis.get_instructions(code)
        if instruction.opname == "BEFORE_WITH"
    ]


def is_compiled(code, node) -> bool:
    """Whether anything of this statement has been left by the compiler."""
    return position(node) in set(code.co_positions())


def is_the_end(truth: Truth) -> bool:
    """Whether the body leaves only where it would end anyway, by its one leaving statement."""
    return len(truth.leaves) == 1 and isinstance(truth.leaves[0], (ast.Continue, ast.Return))


def judge(code, offset, truth: Truth, copies: int) -> str:
    """Cut one `with`, and compare with the syntax tree. Returns the row it is counted in."""
    seen = [node for node in truth.leaves if is_compiled(code, node)]
    try:
        body = cut(code, offset)
    except LeavesBlockError as refusal:
        assert truth.leaves, "refused, and nothing leaves it"
        words = re.findall("`([a-z]+)`", str(refusal).partition(" on line ")[0])
        kinds = {type(node).__name__.lower() for node in truth.leaves}
        kinds |= {"await" for kind in kinds if "async" in kind or "comp" in kind}
        kinds |= {"yield" for kind in kinds if kind == "yieldfrom"}
        assert kinds & set(words), f"called {words}, and it is {kinds}"
        return f"refused: {' or '.join(words)}"
    taken = {instr.offset for instr in body.program.instrs if type(instr) is Instr}
    for at in taken - {-1}:
        where = place(code, at)
        if where[0] is None:
            continue
        assert (
            truth.begin <= where[0::2] and where[1::2] <= truth.end
        ) or where in truth.borrowed, f"took the instruction at {where}"
    if copies == 1:
        reachable = reached(code)
        for unit in units(code):
            if unit.start_offset not in reachable:
                continue
            where = place(code, unit.stop_offset - 2 - 2 * CACHE_UNITS[unit.op])
            if None in where or unit.start_offset in taken or unit.op in SILENT:
                continue
            inside = truth.begin <= where[0::2] and where[1::2] <= truth.end
            assert not inside, f"left {dis.opname[unit.op]} at {where}"
    twin = make_body_twin(body, HOOKS)
    again, _ = assemble(lift(twin.code))
    assert twin.code.co_code == again.co_code
    if not truth.leaves:
        return "cut"
    if not seen:
        return "cut: what leaves is never reached"
    assert is_the_end(truth), f"{[ast.dump(node) for node in truth.leaves]} was not refused"
    return "cut: leaves only where it ends"


# Not taken although they stand at a place in the body: what leads to the exit.
SILENT = frozenset({NOP}) | UNCONDITIONAL_JUMPS


def examine(paths, counts: Counter, problems: list[str]) -> None:
    for path, tree, top in sources(paths):
        known = truths(tree)
        for code in codes_of(top):
            found = entries(code)
            places = Counter(where for _, where in found)
            passed: Counter = Counter()
            for offset, where in found:
                choices = known[where]
                index = passed[where] % len(choices)
                passed[where] += 1
                copies = places[where] // len(choices)
                try:
                    counts[judge(code, offset, choices[index], copies)] += 1
                except Exception as problem:
                    problems.append(f"{path}:{where[0]} {type(problem).__name__} {problem}")


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_standard_library(bucket):
    """Exactly what leaves its block is refused, and all else is cut whole."""
    found = files(STDLIB)
    assert len(found) > 1000
    counts, problems = Counter(), []
    examine(found[bucket::BUCKETS], counts, problems)

    assert [] == problems
    assert counts["cut"] > 50


@pytest.mark.parametrize("package", PACKAGES)
def test_installed_package(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    counts, problems = Counter(), []
    examine(files(Path(spec.submodule_search_locations[0])), counts, problems)

    assert [] == problems
    assert counts["cut"] > 50


def main() -> None:
    roots = [("standard library", STDLIB)]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            roots.append((package, Path(spec.submodule_search_locations[0])))
    if sys.argv[1:]:
        roots = [(argument, Path(argument)) for argument in sys.argv[1:]]
    for name, root in roots:
        counts, problems = Counter(), []
        examine(files(root) if root.is_dir() else [root], counts, problems)
        print(f"{sys.version.split()[0]} {name}: {counts.total()}")
        for row, count in sorted(counts.items()):
            print(f"  {row:<36}{count:>8}")
        for problem in problems[:12]:
            print("  ", problem)
        print(f"  {len(problems)} problems")


if __name__ == "__main__":
    main()
