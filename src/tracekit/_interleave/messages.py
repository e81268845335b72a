"""What is said when a block cannot get what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._protocol import Abort, AwaitName
from ..errors import NeverRanError, OutOfOrderError, TracekitError, WaitError
from .requests import Meet
from .site import spell, spell_recent

if TYPE_CHECKING:
    from .interleaver import Interleaver
    from .requests import Read
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


def deadlock(worker: Worker, waiting: list[Worker]) -> BaseException:
    """Blocks wait for one another, and the model is at its end."""
    request = worker.pending
    others = "\n".join(
        f"{other.where()} waits for {other.pending!r}" for other in waiting if other != worker
    )
    if isinstance(request, Meet):
        count = len(request.barrier.arrived)
        what = f"{request.barrier!r} was reached by {count} blocks only"
        fix = f"call it in {request.barrier.participants} blocks, or give the right number"
    else:
        name = request.name if isinstance(request, AwaitName) else ""
        what = f"the name `{name}`, which an earlier block binds, can never be bound"
        fix = "bind it before the earlier block waits for this one"
    return WaitError(
        what,
        where=worker.where(),
        seen=others,
        why="each block waits for another one, and the model is at its end",
        fix=fix,
    )
