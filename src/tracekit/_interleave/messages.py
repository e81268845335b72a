"""What is said when a block cannot get what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._protocol import Abort, AwaitName
from ..errors import NeverRanError, OutOfOrderError, TracekitError, WaitError
from . import flow
from .requests import Meet, NextStep, Read
from .site import spell, spell_recent
from .worker import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .interleaver import Interleaver
    from .requests import Request
    from .site import Site
    from .worker import Worker


def note_writes(error: BaseException, writes: list[tuple[Site, str]]) -> None:
    """Note in an error of the model what blocks had written before it."""
    try:
        for site, place in writes[-3:]:
            error.add_note(f"tracekit: `{site}` had been written by the block, at {place}")
    except Exception:  # noqa: BLE001 - an error that takes no notes is raised without
        return


def note_place(error: BaseException, site: Site) -> None:
    """Note in an error of a block where the model stood."""
    if isinstance(error, TracekitError | Abort):
        return
    try:
        error.add_note(f"tracekit: the model stood at `{site}`")
    except Exception:  # noqa: BLE001 - an error that takes no notes is raised without
        return


def note_others(error: BaseException, worker: Worker, workers: list[Worker]) -> None:
    """Note in an error of a block what earlier blocks have not done yet, where it may be why."""
    if isinstance(error, LookupError):
        found = [each for each in workers if 0 <= each.order < worker.order and each.pending]
        text = (
            "an earlier block, which may yet add to what it has made, waits at {0} for {1}: a "
            "block that asks for the same value first goes on after it"
        )
        told = [text.format(each.where(), _spell_request(each.pending)) for each in found[-1:]]
    elif isinstance(error, NameError) and worker.delay is not None:
        request = worker.delay.request
        if not isinstance(request, AwaitName) or f"'{request.name}'" not in str(error):
            return
        told = [
            f"the block at {place} could have bound `{request.name}`, and has ended without"
            for place in _places_of_stores(workers, worker, request.name)[:1]
        ]
    else:
        return
    try:
        for line in told:
            error.add_note(f"tracekit: {line}")
    except Exception:  # noqa: BLE001 - an error that takes no notes is raised without
        return


def _places_of_stores(workers: Iterable[Worker], reader: Worker, name: str) -> list[str]:
    """Say where earlier blocks bind a name, the latest first."""
    found = []
    for writer in flow.writers(workers, reader, name):
        if isinstance(writer.body, flow.NamedBody):
            filename, lineno = writer.body.place_of_store(name)
            found.append(f"{filename}:{lineno}")
    return found


def _spell_request(request: Request | None) -> str:
    if isinstance(request, Read):
        return f"`{spell(request.key[0], request.name)}`"
    if isinstance(request, AwaitName):
        return f"the name `{request.name}`"
    if isinstance(request, NextStep):
        return "a further step"
    return repr(request.barrier) if isinstance(request, Meet) else repr(request)


def _held_up(
    interleaver: Interleaver, worker: Worker, request: Read, asked: int
) -> tuple[str, str]:
    """Say what a block waited for while the model passed a site that it asked for after that."""
    delay = worker.delay
    if delay is None or delay.since == delay.until:
        return "", ""
    keys = [key for key, _ in interleaver.passed]
    since = max(delay.since - 1, 0)  # where the model stood then, it had not gone on from yet
    before, during, after = (
        request.key in keys[:since],
        request.key in keys[since : delay.until],
        request.key in keys[delay.until : asked],
    )
    # Nobody watched a module that is asked for only now: what the model did is not known.
    if after or not (during or (not before and asked == delay.until)):
        return "", ""
    waited = delay.request
    here = ""
    if delay.place is not None:
        filename, lineno = place_of(*delay.place)
        here = f"{filename}:{lineno}"
    if isinstance(waited, AwaitName):
        places = _places_of_stores(interleaver.workers, worker, waited.name)
        bound = f", which an earlier block binds at {places[0]}" if places else ""
        told = f"{here} waited for the name `{waited.name}`{bound}; the model went on meanwhile"
        instead = (
            "bind it before the model comes to what the later block asks for; of a list, "
            "`append` to it, and read an item when the model stands where it was appended"
        )
    elif isinstance(waited, Meet):
        told = f"{here} waited for {_spell_request(waited)}; the model went on meanwhile"
        instead = "let all blocks come to the barrier before the model comes to what is asked for"
    else:
        told = f"the loop at {here} could end only when no further step could come"
        instead = "say how many steps it has, `iter[:2]`, so that it ends with its last step"
    return told, instead


def foreign(worker: Worker, request: Read) -> BaseException:
    """A block asked for a value of a model that its run is not about."""
    return NeverRanError(
        f"`{spell(request.key[0], request.name)}` belongs to another run than the one "
        "that this block is in step with",
        where=worker.where(),
        why="a block is served by its own run, a forward or a backward pass; it cannot wait for "
        "another one",
        fix="read the value before this block begins, in the block of its own model",
    )


def too_late(interleaver: Interleaver, worker: Worker, request: Read) -> BaseException:
    """A block asked for a site that does not come any more."""
    path = request.key[0]
    name = spell(path, request.name)
    visited = interleaver.visited()
    asked = worker.asked if worker.pending is request else len(visited)
    recent = spell_recent(visited[:asked])
    recent = f"sites visited before it was asked for, oldest first: {recent}"
    seen, why, fix = interleaver.host.explain(request)
    seen = f"{recent}\n{seen}" if seen else recent
    count = interleaver.host.count(request.key)
    held_up, instead = _held_up(interleaver, worker, request, asked)
    if held_up and (count or not why):
        seen, fix = f"{seen}\n{held_up}", instead
    if count or not why:
        error: BaseException = OutOfOrderError(
            f"`{name}` was asked for, but the model is already past it"
            + (f" ({count} times)" if count > 1 else ""),
            where=worker.where(),
            seen=seen,
            why="a block runs once, in step with the model, "
            "and a site can be reached only before the model leaves it",
            fix=fix
            or "ask in the order in which the model runs, "
            "or read the value in an invoke of its own",
        )
    else:
        error = NeverRanError(
            f"`{name}` was asked for, but `{spell(path, '')}` did not run",
            where=worker.where(),
            seen=seen,
            why=why,
            fix=fix,
        )
    error.__cause__ = interleaver.model_error
    return error


def deadlock(worker: Worker, waiting: list[Worker], workers: list[Worker]) -> BaseException:
    """Blocks wait for one another, and the model is at its end."""
    request = worker.pending
    others = "\n".join(
        f"{other.where()} waits for {_spell_request(other.pending)}"
        for other in waiting
        if other is not worker
    )
    if isinstance(request, Meet):
        count = len(request.barrier.arrived)
        what = f"{request.barrier!r} was reached by {count} blocks only"
        fix = f"call it in {request.barrier.participants} blocks, or give the right number"
    else:
        name = request.name if isinstance(request, AwaitName) else ""
        places = _places_of_stores(workers, worker, name)
        bound = f" at {places[0]}" if places else ""
        what = f"the name `{name}`, which an earlier block binds{bound}, can never be bound"
        fix = "bind it before the earlier block waits for this one"
    return WaitError(
        what,
        where=worker.where(),
        seen=others,
        why="each block waits for another one, and the model is at its end",
        fix=fix,
    )
