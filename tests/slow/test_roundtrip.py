"""The standard library, its tests included, through lift and assemble: nothing changes.

Every code object is taken round twice, since a mistake in the first round may hide a handler from
the second. Compared are instructions (EXTENDED_ARG and caches aside), jump targets, lines and
columns of each, `co_lines()`, the exception table, and what the code object says of itself. And
some modules are run from the result.
"""

from __future__ import annotations

import dis
import importlib.abc
import importlib.util
import sysconfig
import types
import warnings
from pathlib import Path
from types import CodeType

import pytest

from tracekit._bytecode.assemble import assemble
from tracekit._bytecode.lift import entries_of, lift

STDLIB = Path(sysconfig.get_path("stdlib"))
BUCKETS = 16


def files(bucket: int) -> list[Path]:
    found = sorted(path for path in STDLIB.rglob("*.py") if "site-packages" not in path.parts)
    assert len(found) > 1000
    return found[bucket::BUCKETS]


def codes_of(path: Path):
    """Give all code objects of a file; of files that are no programs (test data), none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return
    waiting = [code]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]


def halves(instruction: dis.Instruction):
    """Give (name, argument): none of an EXTENDED_ARG, two of a pair such as LOAD_FAST_LOAD_FAST.

    `lift` splits pairs, as their arguments hold local numbers up to 15 only.
    """
    name, arg = instruction.opname, instruction.arg
    if name == "EXTENDED_ARG":
        return []
    if name in {"LOAD_FAST_LOAD_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"}:
        words = name.split("_")
        return [("_".join(words[:2]), arg >> 4), ("_".join(words[2:]), arg & 15)]
    return [(name, arg)]


def picture(code: CodeType):
    """Everything that a run, a traceback, a debugger or a tool can see of a code object.

    Offsets are replaced by the number of the instruction, as EXTENDED_ARGs may come and go.
    """
    instructions = list(dis.get_instructions(code))
    positions = list(code.co_positions())
    lines: dict[int, int | None] = {}
    for start, stop, line in code.co_lines():
        lines.update(dict.fromkeys(range(start, stop, 2), line))
    number: dict[int, int] = {}
    count = 0
    for instruction in instructions:
        number[instruction.offset] = count
        count += len(halves(instruction))
    number[len(code.co_code)] = count
    table = [
        (number[e.start_offset], number[e.stop_offset], number[e.target_offset], e.depth, e.lasti)
        for e in entries_of(code)
    ]
    jumps = {*dis.hasjrel, *dis.hasjabs}
    listing = [
        (
            name,
            number[i.argval] if i.opcode in jumps else arg,
            positions[i.offset // 2],
            lines[i.offset],
        )
        for i in instructions
        for name, arg in halves(i)
    ]
    fields = (
        "co_argcount co_posonlyargcount co_kwonlyargcount co_nlocals co_stacksize co_flags "
        "co_consts co_names co_varnames co_cellvars co_freevars co_filename co_name co_qualname "
        "co_firstlineno"
    )
    return listing, table, [getattr(code, name) for name in fields.split()]


def merged(table):
    """Join entries that touch and say the same."""
    out: list[tuple[int, ...]] = []
    for start, stop, *rest in table:
        if out and out[-1][1] == start and list(out[-1][2:]) == rest:
            out[-1] = (out[-1][0], stop, *rest)
        else:
            out.append((start, stop, *rest))
    return out


def difference(before: CodeType, after: CodeType) -> str | None:
    listing, table, fields = picture(before)
    listing2, table2, fields2 = picture(after)
    for index, (one, two) in enumerate(zip(listing, listing2, strict=False)):
        if one != two:
            return f"instruction {index}: {one} became {two}"
    if len(listing) != len(listing2):
        return f"{len(listing)} instructions became {len(listing2)}"
    if merged(table) != merged(table2):
        return f"table {merged(table)} became {merged(table2)}"
    if fields != fields2:
        return f"{fields} became {fields2}"
    return None


@pytest.mark.parametrize("bucket", range(BUCKETS))
def test_nothing_changes(bucket):
    count = 0
    found = []
    for path in files(bucket):
        for code in codes_of(path):
            count += 1
            once, _ = assemble(lift(code))
            twice, offsets = assemble(lift(once))
            for step, result in (("once", once), ("twice", twice)):
                if (what := difference(code, result)) is not None:
                    found.append(f"{path}:{code.co_firstlineno} {code.co_qualname} {step}: {what}")
            for new, old in offsets.items():
                # The old offset is that of the instruction with its prefixes.
                while once.co_code[old] == dis.EXTENDED_ARG:
                    old += 2
                if twice.co_code[new] != once.co_code[old]:
                    found.append(f"{path} {code.co_qualname}: offset {old} is not at {new}")
    print(f"{count} code objects")

    assert count > 500
    assert [] == found


def rebuilt(code: CodeType) -> CodeType:
    """Take a code object and all inside it through lift and assemble."""
    consts = tuple(rebuilt(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return assemble(lift(code.replace(co_consts=consts)))[0]


def load(name: str, *, round_trip: bool) -> types.ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert isinstance(spec.loader, importlib.abc.InspectLoader)
    code = spec.loader.get_code(name)
    assert code is not None
    module = types.ModuleType(name)
    module.__file__, module.__package__ = spec.origin, spec.parent
    module.__spec__ = spec
    exec(rebuilt(code) if round_trip else code, vars(module))
    return module


def use_textwrap(m):
    return (
        m.fill("the quick brown fox " * 9, 30),
        m.dedent("  a\n   b\n"),
        m.shorten("a b c d e", 8),
    )


def use_difflib(m):
    return list(m.unified_diff("one two three".split(), "one three four".split()))


def use_pydecimal(m):
    return str(m.Decimal(2).sqrt()), str(m.Decimal("1.10") / 3), repr(m.Decimal("NaN"))


def use_ast(m):
    tree = compile("def f(a, *b, c=1): return [x async for x in a if b] or -c", "", "exec", 1024)
    return m.unparse(tree), m.dump(tree)


def use_argparse(m):
    parser = m.ArgumentParser(prog="p")
    parser.add_argument("--x", type=int, default=3)
    parser.add_argument("rest", nargs="*")
    return vars(parser.parse_args(["--x", "4", "a", "b"])), parser.format_usage()


def use_csv(m):
    return m.Sniffer().sniff("a;b;c\n1;2;3\n").delimiter


def use_heapq(m):
    return list(m.merge([1, 4], [2, 3], reverse=False)), m.nsmallest(2, [3, 1, 2])


def use_fractions(m):
    return str(m.Fraction("3/7") + 1), m.Fraction(1.5).limit_denominator()


def use_string(m):
    return m.Template("$a ${b}").safe_substitute(a=1), m.Formatter().format("{0:>4}{x!r}", 1, x="y")


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("textwrap", use_textwrap),
        ("difflib", use_difflib),
        ("_pydecimal", use_pydecimal),
        ("ast", use_ast),
        ("argparse", use_argparse),
        ("csv", use_csv),
        ("heapq", use_heapq),
        ("fractions", use_fractions),
        ("string", use_string),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_modules_run(name, use):
    before = use(load(name, round_trip=False))
    after = use(load(name, round_trip=True))

    assert repr(before) == repr(after)
