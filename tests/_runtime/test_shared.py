"""Names that several blocks share: loads wait, stores are told, other names pay nothing."""

from __future__ import annotations

import dis

import pytest

from tracekit._protocol import UNBOUND, AwaitName, Raised
from tracekit._runtime.tracer import Tracer

h = "global from before"


class Sharing(Tracer):
    """Runs a block whose `pending` names somebody else binds, and keeps what it asked for."""

    def __init__(self, pending=(), told=(), answers=()) -> None:
        super().__init__()
        self.pending, self.told = frozenset(pending), frozenset(told)
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.own: dict[str, object] = {}

    def execute(self, body):
        body.share(self.pending, self.told)
        generator = body.start(self)
        answer = None
        while True:
            try:
                request = generator.send(answer)
            except StopIteration:
                break
            assert type(request) is AwaitName
            self.asked.append(request.name)
            answer = self.answers.get(request.name, UNBOUND)
        self.own = {name: body.lookup(generator, name) for name in self.told}


def test_a_load_waits_once_and_gets_the_value() -> None:
    """Asked once; the later loads are the block's own."""
    h = "stale"
    with Sharing(pending={"h"}, answers={"h": [1, 2]}) as tracer:
        seen = [h, h, [h for _ in range(1)]]

    assert ["h"] == tracer.asked
    assert [[1, 2], [1, 2], [[1, 2]]] == seen


def test_without_an_answer_the_name_is_what_it_was() -> None:
    """`UNBOUND` means that nobody bound it: the caller's value stands."""
    h = "before"
    with Sharing(pending={"h"}) as tracer:
        seen = h

    assert ["h"] == tracer.asked
    assert "before" == seen == h


def test_a_name_bound_first_is_the_blocks_own() -> None:
    """A store before the first load: nothing to wait for."""
    with Sharing(pending={"h"}) as tracer:
        h = 1
        seen = h

    assert [] == tracer.asked
    assert (1, 1) == (seen, h)


def test_stores_are_told_with_their_values() -> None:
    """The last value; `UNBOUND` after `del`."""
    with Sharing(told={"a", "b", "c"}) as tracer:
        a = 1
        a = a + 1
        b = 3
        del b

    assert {"a": 2, "b": UNBOUND, "c": UNBOUND} == tracer.own
    assert 2 == a


def test_a_comprehension_waits_before_it_runs() -> None:
    """On 3.11 it is a function, which cannot know what it shares."""
    h = None
    with Sharing(pending={"h"}, answers={"h": 5}) as tracer:
        seen = [h + i for i in range(2)]

    assert ["h"] == tracer.asked
    assert [5, 6] == seen


def test_an_error_is_raised_at_the_load() -> None:
    """A wait that can never end is refused at the line that waits."""
    with Sharing(pending={"h"}, answers={"h": Raised(LookupError("never"))}):
        try:
            seen = h
        except LookupError as error:
            seen = str(error)

    assert "never" == seen


def test_module_level() -> None:
    """In a namespace the names are loads and stores by name."""
    namespace = {"Sharing": Sharing, "h": "stale"}
    exec(
        "with Sharing(pending={'h'}, told={'g'}, answers={'h': 7}) as tracer:\n"
        "    g = [h + i for i in range(2)]\n"
        "    k = h\n",
        namespace,
    )
    tracer = namespace["tracer"]

    assert ["h"] == tracer.asked
    assert ([7, 8], 7, 7) == (namespace["g"], namespace["k"], namespace["h"])
    assert {"g": [7, 8]} == tracer.own


def test_a_block_that_shares_nothing_has_no_checks_of_names() -> None:
    """Its code is the same as if there were no other blocks."""

    class Looking(Tracer):
        def execute(self, body):
            body.share(frozenset({"other"}), frozenset({"another"}))
            code = body.block.twin.code
            self.names = {
                getattr(instruction.argval, "__qualname__", "")
                for instruction in dis.get_instructions(code)
                if instruction.opname == "LOAD_CONST"
            }
            return super().execute(body)

    with Looking() as tracer:
        x = 1
        y = x

    assert 1 == y
    assert not any("shared" in name for name in tracer.names)


@pytest.mark.parametrize("times", [1, 3])
def test_may_store_knows_where_the_block_stands(times) -> None:
    """Until the last store is behind it, the block may store; then it may not."""
    seen = []

    class Watching(Tracer):
        def execute(self, body):
            body.share(frozenset({"gate"}), frozenset({"h"}))
            generator = body.start(self)
            answer = None
            while True:
                try:
                    generator.send(answer)
                except StopIteration:
                    break
                seen.append(body.may_store(generator, "h"))
                answer = UNBOUND
            seen.append(body.may_store(generator, "h"))

    gate = 0
    with Watching():
        gate
        for _ in range(times):
            h = 1

    assert [True, False] == seen
    assert 1 == h


def test_a_closure_waits_where_it_is_made_and_gets_the_variable() -> None:
    """It may be called at once; where it reads the name, the variable's value of then stands."""
    h = "before"
    with Sharing(pending={"h"}, answers={"h": 5}):
        read = lambda: h  # noqa: E731
        first = read()
        h += 1
        second = read()

    assert [5, 6, 6] == [first, second, h]
