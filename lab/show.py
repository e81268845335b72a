"""Show a block before and after: `python lab/show.py FILE LINE` for the `with` on that line.

For those who work on the engine; not shipped, and nothing of it is guaranteed.
"""

from __future__ import annotations

import dis
import sys
from pathlib import Path
from types import CodeType

from tracekit._bytecode.cut import cut, line_at
from tracekit._bytecode.generator import make_body_twin
from tracekit._runtime.explain import explain
from tracekit._runtime.guards import HOOKS


def codes_of(code: CodeType):
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from codes_of(const)


def main(path: str, lineno: int) -> None:
    top = compile(Path(path).read_text(encoding="utf-8"), path, "exec", dont_inherit=True)
    for code in codes_of(top):
        for instruction in dis.get_instructions(code):
            if instruction.opname != "BEFORE_WITH" or line_at(code, instruction.offset) != lineno:
                continue
            print(explain(code, instruction.offset))
            body = cut(code, instruction.offset)
            print("\ncut out:")
            for instr in body.program.instrs:
                print("  ", instr)
            print("\nas a generator:")
            dis.dis(make_body_twin(body, HOOKS).code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
