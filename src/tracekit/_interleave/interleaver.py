"""Runs bodies in step with a forward pass.

The forward calls `visit` at each site and goes on with what comes back. While it stands there,
all bodies are served in written order, again and again until none can move. When the forward is
over, `finish` tells each body that still waits that its value will not come, and so brings all of
them to an end.

What a path is, how a site is reached, and what surrounds a running body (gradients on or off) is
the host's affair; see `host.py`.
"""

# This file is long because one loop serves all requests: what a body is told depends on where the
# model stands, on the steps and on the other bodies at once.

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._protocol import Abort, AwaitName, Raised
from ..errors import (
    InternalError,
    OutOfOrderError,
    StepsWarning,
    TracekitError,
)
from . import flow
from .host import WAIT, Host
from .messages import deadlock, foreign, note_others, note_place, note_writes, too_late
from .position import Clock
from .requests import Meet, NextStep, Read, Skip, Stop, Write
from .site import Site
from .worker import Delay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .position import Loop
    from .requests import Key, Request
    from .worker import Worker

NOTHING: Final = object()
"""What `visit` is given at a site that has no value of its own."""

_ABORTS_BEFORE_CLOSE = 100
_MOST_EDITS = 1 << 30


Recorder = Callable[["Key", int, Any], None]
"""Called with path and port, the visit, and the value with which the model goes on."""


class EndRun(BaseException):
    """Takes the model out of its forward when the run ends early. Never reaches a user.

    Not an `Exception`, so that a model's `except Exception` does not swallow it; a model that
    catches everything meets it again at the next site.
    """


_NO_HOST: Final = Host()


class Standing:
    """The site where the model stands now, and what the bodies made of its value.

    Attributes:
        key: Path and port.
        visit: How many times the model was here before.
        value: What stands there.
        shared: What the host keeps while several bodies see a part each; `None` if none did.
        skips: Which bodies let the module not run, with the outputs that they gave.
        open: Parts that were handed out and may be edited, if they can be copies.
    """

    __slots__ = ("key", "open", "shared", "skips", "value", "visit")

    def __init__(self, key: Key, visit: int, value: object) -> None:
        self.key = key
        self.visit = visit
        self.value = value
        self.shared: Any = None
        self.open: list[_Open] | None = None
        self.skips: list[tuple[Worker, object]] | None = None

    @property
    def site(self) -> Site:
        """The path, the port and the visit."""
        return Site(*self.key, self.visit)


class _Open(NamedTuple):
    """A part of the standing value that one body was given."""

    worker: Worker
    request: Read
    whole: object
    part: object
    edited: Callable[[], bool]


class Interleaver:
    """Serves bodies in step with one run.

    Attributes:
        workers: The bodies, in written order.
        host: The surroundings.
        owners: Whose sites may be asked for.
        wanted: How many bodies wait at each path and port. A site that is not in it may be
            passed without a call of `visit`.
        watched: Modules whose calls must be announced with `entered`.
        openers: What is called when a watched module is called, before the bodies are served.
        recorders: What is shown the values of a site, when all bodies are done with them.
        standing: Where the model stands, while bodies are served.
        current: The body that runs at this moment.
        straight: There is one body that sees all, and neither steps nor recorders: whoever
            calls may answer plain reads by itself. Ends with the first thing beyond that.
        ended: The run is to end: a body failed, or stopped it.
        closing: No site but the one where the model stands can still come.
    """

    def __init__(self, host: Host, owners: Sequence[object] = ()) -> None:
        # No defaults in the class: on 3.11 an attribute that the class has too is looked up
        # the long way each time.
        self.standing: Standing | None = None
        self.current: Worker | None = None
        self.failure: BaseException | None = None
        self.model_error: BaseException | None = None
        self.ended = False
        self.stopped = False
        self.straight = False
        self.closing = False
        self.over = False
        self.host = host
        self.owners = owners
        self.workers: list[Worker] = []
        self.wanted: dict[Key, int] = {}
        self.watched: set[str] = set()
        self.openers: dict[str, list[Callable[[], None]]] = {}
        self.recorders: dict[Key, list[Recorder]] = {}
        self.clocks: dict[str, Clock] = {}
        self.passed: list[tuple[Key, int]] = []
        self.writes: list[tuple[Site, str]] = []
        self._unwound: list[BaseException] = []

    # Before the forward.

    def add(self, worker: Worker) -> None:
        """Take a body into the run; written order is the order of these calls."""
        worker.order = 0
        self.straight = False
        if self.workers:
            worker.order = sum(1 for each in self.workers if each.order >= 0)
        self.workers.append(worker)

    def add_edit(self, worker: Worker, instead: Worker | None) -> None:
        """Take a stored body into the run, before all others; its order is negative.

        Args:
            worker: The body.
            instead: The same body in the forward before, whose place it takes.
        """
        self.straight = False
        if instead in self.workers:
            # A new list: bodies may be being served.
            worker.order = instead.order
            self.workers = [worker if each is instead else each for each in self.workers]
            return
        count = sum(1 for each in self.workers if each.order < 0)
        worker.order = count - _MOST_EDITS
        self.workers = [*self.workers[:count], worker, *self.workers[count:]]

    def give_up(self, worker: Worker) -> None:
        """The forward is over in which a stored body waits for something: tell it so."""
        while not self.ended and isinstance(worker.pending, Read):
            self._run(worker, Raised(too_late(self, worker, worker.pending)))

    def start(self, worker: Worker, value: object = None) -> None:
        """Run a body up to its first request."""
        if not worker.started:
            worker.start(value)
        self._run(worker, None)

    # During the forward.

    def entered(self, path: str) -> None:
        """A watched module is being called: a step may end, and the next one begin.

        Raises:
            EndRun: The run is over early.
        """
        clock = self.clocks.get(path)
        if clock is not None:
            self._end_step(clock)
            clock.index += 1
        for opener in self.openers.get(path, ()):
            opener()
        self._serve()
        if self.ended:
            raise EndRun

    def visit(self, key: Key, visit: int, value: Any, *, ends_loops: bool = False) -> Any:
        """The model has come to a site: serve the bodies, and give the value to go on with.

        Args:
            key: Path and port.
            visit: How many times the model was here before.
            value: What stands there.
            ends_loops: What `loops_end` says of the module whose output this is.

        Returns:
            *value*, or what the bodies put in its place.

        Raises:
            EndRun: The run is over early: a body failed, or stopped it.
        """
        if self.ended:
            raise EndRun
        self.passed.append((key, visit))
        if ends_loops or key in self.wanted:
            outer = self.standing
            self.standing = standing = Standing(key, visit, value)
            try:
                self._serve()
                if ends_loops:
                    self._end_loops(key[0])
                if standing.skips or standing.shared is not None:
                    value = self.settled(standing)
                else:
                    value = standing.value
            finally:
                self.standing = outer
                # Who compares standings later must not keep their values alive.
                standing.value = standing.shared = standing.skips = None
            if key in self.recorders and self.failure is None:
                self.recorded(key, visit, value)
            if self.ended:
                raise EndRun
        elif key in self.recorders:
            self.recorded(key, visit, value)
        return value

    def record(self, path: str, port: str, recorder: Recorder) -> None:
        """Show *recorder* each value at a site from now on, when all bodies are done with it."""
        self.straight = False
        self.recorders.setdefault((path, port), []).append(recorder)

    def recorded(self, key: Key, visit: int, value: object) -> None:
        """The model goes on from a site with *value*."""
        for recorder in self.recorders[key]:
            recorder(key, visit, value)

    def settled(self, standing: Standing) -> Any:
        """Give the value with which the model goes on."""
        if standing.skips and not self.ended:
            return self.host.skipped(standing.skips, standing)
        return standing.value if standing.shared is None else self.host.joined(standing)

    def _serve(self) -> None:
        """Serve all bodies, in written order, until none can move."""
        moved = True
        while moved and not self.failure:
            moved = False
            workers = self.workers
            for worker in workers:
                request = worker.pending
                if request is None or worker is self.current:
                    continue
                kind = type(request)
                if kind is Read or kind is Write or kind is Skip:
                    answer = self._answer_site(worker, request)  # type: ignore[arg-type]
                else:
                    answer = self._answer(worker, request)
                if answer is not WAIT:
                    moved = True
                    self._run(worker, answer)
                    if self.failure:
                        return
            if len(workers) == 1 and workers is self.workers:
                # It has run until it waits for something else, and nobody else can bring it.
                return

    def _run(self, worker: Worker, answer: object) -> None:
        """Resume a body until it waits for something that is not there, or ends."""
        if worker.pending is not None:
            self._unpark(worker, worker.pending)
        outer = self.current
        self.current = worker
        before = self.host.enter(worker)
        try:
            self.talk(worker, answer)
            if self.standing is not None and self.standing.open is not None:
                try:
                    self.put_edited(worker, self.standing)
                except Exception as error:  # noqa: BLE001 - ends the run, as one in the body does
                    worker.error = worker.error or error
        finally:
            answer = None  # see `Worker.send`
            self.current = outer
            self.host.leave(worker, before)
        if worker.error is not None:
            self.failed(worker)

    def talk(self, worker: Worker, answer: object) -> None:
        """Answer a body that runs, again and again until it waits for something, or ends."""
        refusals = 0
        while True:
            request = worker.send(answer)
            if self.standing is not None and self.standing.shared is not None:
                refusal = self.host.edited(worker, self.standing)
                if refusal is not None and worker.error is None:
                    if isinstance(refusal, TracekitError) and not refusal.where:
                        when = "before" if request else "at the end of the block at"
                        refusal.where = f"{when} {worker.where()}"
                    if request is None:
                        worker.error = refusal
                    else:
                        answer = Raised(refusal)
                        continue
            if request is None:
                break
            if worker.aborted:
                refusals += 1
                if refusals > _ABORTS_BEFORE_CLOSE:
                    worker.close()
                    break
            answer = self.accept(worker, request)
            if answer is WAIT:
                worker.pending = request
                break
        # See `Worker.send`.
        answer = None

    def failed(self, worker: Worker) -> None:
        """A body has raised: the run is to end."""
        error, worker.error = worker.error, None
        self.ended = True
        if error is not None:
            if self.standing is not None:
                note_place(error, self.standing.site)
            note_others(error, worker, self.workers)
        if isinstance(error, Abort):
            return
        if worker.aborted:
            if error is not None:
                self._unwound.append(error)
        elif self.failure is None:
            self.failure = error

    # Requests.

    def accept(self, worker: Worker, request: Request) -> object:
        """Answer a new request, or note that it waits."""
        if worker.aborted:
            return Raised(Abort())
        kind = type(request)
        if kind is Read or kind is Write or kind is Skip:
            if self.standing is not None:
                answer = self._answer_site(worker, request)  # type: ignore[arg-type]
                if answer is not WAIT:
                    return answer
            refusal = self._refuse_site(worker, request)  # type: ignore[arg-type]
            if refusal is not None:
                if isinstance(refusal, TracekitError) and not refusal.where:
                    refusal.where = worker.where()
                return Raised(refusal)
            worker.asked = len(self.passed)
            key = request.key  # type: ignore[union-attr]
            self.wanted[key] = self.wanted.get(key, 0) + 1
            return WAIT
        worker.asked = len(self.passed)
        if kind is Stop:
            self.stop()
            worker.aborted = True
            return Raised(Abort())
        if kind is NextStep:
            return self._accept_step(worker, request.loop)  # type: ignore[union-attr]
        if kind is Meet:
            self.straight = False  # it has no site to be compared with
            request.barrier.arrive(worker)  # type: ignore[union-attr]
        elif kind is not AwaitName:
            return Raised(InternalError(f"a block yielded {request!r}, which is no request"))
        return self._answer(worker, request)

    def _unpark(self, worker: Worker, request: Request) -> None:
        worker.pending = None
        if isinstance(request, Read):
            left = self.wanted[request.key] - 1
            if left:
                self.wanted[request.key] = left
            else:
                del self.wanted[request.key]
        elif type(request) is not NextStep or request.loop.ended:
            worker.delay = Delay(request, worker.asking(), worker.asked, len(self.passed))

    def _answer(self, worker: Worker, request: Request) -> object:
        """Answer a pending request, if that can be done now."""
        if isinstance(request, Read):
            return self._answer_site(worker, request)
        if isinstance(request, NextStep):
            return self._answer_step(request.loop)
        if isinstance(request, AwaitName):
            if worker.is_outer:
                others = any(each.pending for each in self.workers if each is not worker)
                return WAIT if others or not self.over else self.host.outer_goes_on(worker)
            if flow.blocker(self.workers, worker, request.name) is not None:
                return WAIT
            return flow.value_of(self.workers, worker, request.name)
        if isinstance(request, Meet):
            return None if request.barrier.passes(worker) else WAIT
        return WAIT

    def _answer_site(self, worker: Worker, request: Read) -> object:
        standing = self.standing
        if request.owner not in self.owners:
            return self.host.elsewhere(request)
        if standing is None or standing.key != request.key:
            return WAIT
        loops = worker.loops
        if loops and loops[-1].clock is None and loops[-1].index != standing.visit:
            return WAIT
        return self.apply(worker, request, standing)

    def apply(self, worker: Worker, request: Read, standing: Standing) -> object:
        """Read or write where the model stands.

        Args:
            worker: The body that asks.
            request: What it asks for.
            standing: Where the model stands: the request's site.

        Returns:
            The value read, else `None`; or `Raised` if it is refused.
        """
        host = self.host
        kind = type(request)
        if kind is Skip:
            if standing.skips is None:
                standing.skips = []
            standing.skips.append((worker, request.value))  # type: ignore[attr-defined]
            return None
        view = request.view
        try:
            if standing.open is not None:
                self.put_edited(worker, standing)
            is_plain = worker.rows is None and standing.shared is None
            whole = standing.value if is_plain else host.part(worker, standing)
            if kind is Read:
                if view is None:
                    value = whole
                elif view.watch is None:
                    value = view.get(whole)
                else:
                    value = self._open_part(worker, request, standing, whole)
                host.handed_out(worker, standing, value)
                return value
            refusal = host.written(worker, standing)
            if refusal is not None:
                return Raised(refusal)
            new: object = request.value  # type: ignore[attr-defined]
            if view is not None:
                new = view.put(whole, new)
            if is_plain:
                standing.value = new
            else:
                host.put_part(worker, standing, new)
        except Exception as error:  # noqa: BLE001 - belongs to the line that asked
            return Raised(error)
        filename, lineno = worker.position()
        self.writes.append((standing.site, f"{filename}:{lineno}"))
        return None

    def _open_part(
        self, worker: Worker, request: Read, standing: Standing, whole: object
    ) -> object:
        """Give a part that may be a copy; the same object again while the value is the same."""
        view = request.view
        assert view is not None
        assert view.watch is not None
        opened = standing.open = standing.open or []
        for each in opened:
            if each.worker is worker and each.request is request and each.whole is whole:
                return each.part
        part = view.get(whole)
        opened.append(_Open(worker, request, whole, part, view.watch(part, whole)))
        return part

    def put_edited(self, worker: Worker, standing: Standing) -> None:
        """Put what *worker* has edited in the parts it was given into the standing value."""
        opened = standing.open or []
        for at, each in enumerate(opened):
            if each.worker is not worker or not each.edited():
                continue
            view = each.request.view
            assert view is not None
            assert view.watch is not None
            refusal = self.host.written(worker, standing)
            if refusal is not None:
                raise refusal
            is_plain = worker.rows is None and standing.shared is None
            whole = view.put(
                standing.value if is_plain else self.host.part(worker, standing), each.part
            )
            if is_plain:
                standing.value = whole
            else:
                self.host.put_part(worker, standing, whole)
            opened[at] = _Open(worker, each.request, whole, each.part, view.watch(each.part, whole))

    def answer_now(self, request: Read) -> object:
        """Answer the request of code that cannot suspend: the value if the model stands there.

        Returns:
            The answer; `WAIT` if the model does not stand there.
        """
        worker = self.current
        if worker is None:
            return WAIT
        if worker.aborted:
            return Raised(Abort())
        return self._answer_site(worker, request)

    def _refuse_site(self, worker: Worker, request: Read) -> BaseException | None:
        """Say why the site of a new request cannot come, if that is known already."""
        if request.owner not in self.owners:
            return foreign(worker, request)
        path, port = request.key
        loops = worker.loops
        loop = loops[-1] if loops else None
        if loop is not None and loop.clock is None and loop.index is not None:
            if self.host.count(request.key) > loop.index:
                return too_late(self, worker, request)
            loop.paths.add(path)
        if self.over or (self.closing and port != "result"):
            return too_late(self, worker, request)
        return self.host.reach(worker, request)

    # Steps.

    def clock(self, path: str) -> Clock:
        """Give the clock that counts the calls of a module, from now on."""
        self.straight = False
        clock = self.clocks.get(path)
        if clock is None:
            clock = self.clocks[path] = Clock(path)
            clock.index = self.host.calls(path) - 1
            self.watched.add(path)
        return clock

    def _accept_step(self, worker: Worker, loop: Loop) -> object:
        clock = loop.clock
        self.straight = False
        worker.stepped = True
        if loop.index is None and loop not in worker.loops:
            if worker.loops and clock is not None and not loop.single:
                loop.base = worker.loops[-1].marks.get(clock.path, 0)
            worker.loops.append(loop)
        loop.wanted = next(loop.steps, None)
        if loop.wanted is None:
            self._end_loop(worker, loop)
            return None
        if self.over:
            return self._outrun(worker, loop)
        if clock is not None and clock.index > loop.wanted + loop.base:
            wanted = loop.wanted
            self._end_loop(worker, loop)
            return Raised(
                OutOfOrderError(
                    f"step {wanted} is already past",
                    where=worker.where(),
                    seen=f"the run is in step {clock.index - loop.base}",
                    why="a block runs once, in step with the model; steps come in ascending order",
                    fix="start the loop before the block asks for values of later steps",
                )
            )
        return self._answer_step(loop)

    def _answer_step(self, loop: Loop) -> object:
        wanted = loop.wanted
        assert wanted is not None
        if loop.clock is not None:
            if loop.clock.index != wanted + loop.base:
                return WAIT
        elif (loop.paths or not loop.bounded) and loop.taken:
            # Each site counts its own visits: a further call of a module that the loop has
            # asked for tells that there is a further step.
            calls = self.host.calls
            if not any(calls(path) > wanted for path in loop.paths):
                self.watched |= loop.paths
                return WAIT
        loop.index = wanted
        loop.marks = self.host.calls_by_path()
        loop.taken += 1
        return wanted

    def loops_end(self, path: str) -> bool:
        """Whether a body waits for a step that cannot come once the call of a module is over."""
        return any(self._is_over(worker, path) for worker in self.workers)

    def _is_over(self, worker: Worker, path: str) -> bool:
        request = worker.pending
        if type(request) is not NextStep:
            return False
        if self.closing:
            return True
        clock = request.loop.clock
        if clock is None or not clock.path.startswith(f"{path}." if path else ""):
            return False
        # Calls inside a call of the module that an outer loop counts.
        return any(
            loop.clock is not None and loop.clock.path == path != clock.path
            for loop in worker.loops[: worker.loops.index(request.loop)]
        )

    def _end_loops(self, path: str) -> None:
        """End the loops over calls inside a module's call, which is about to end itself."""
        moved = True
        while moved and not self.ended:
            moved = False
            for worker in self.workers:
                if not self.ended and self._is_over(worker, path):
                    request = worker.pending
                    assert isinstance(request, NextStep)
                    moved = True
                    self._run(worker, self._outrun(worker, request.loop))
            if moved:
                self._serve()

    def leave_loop(self, loop: Loop) -> None:
        """The body has left a loop, by `break` or by an error."""
        for worker in self.workers:
            if loop in worker.loops:
                self._end_loop(worker, loop)

    def _end_loop(self, worker: Worker, loop: Loop) -> None:
        loop.ended = True
        if loop in worker.loops:
            worker.loops.remove(loop)

    def _outrun(self, worker: Worker, loop: Loop) -> object:
        """The steps are over; give what the loop is told."""
        if loop.bounded:
            filename, lineno = worker.position()
            warnings.warn_explicit(
                f"the loop asked for step {loop.wanted}, but the run had {loop.taken} of its "
                "steps; the code after the loop runs",
                StepsWarning,
                filename,
                lineno,
            )
        self._end_loop(worker, loop)
        return None

    def _end_step(self, clock: Clock) -> None:
        """The step of *clock* is over: what still waits for something in it will not get it."""
        if clock.index < 0:
            return
        for worker in self.workers:
            while not self.ended and (answer := self._answer_at_end(worker, clock)) is not WAIT:
                self._run(worker, answer)

    def _answer_at_end(self, worker: Worker, clock: Clock) -> object:
        """What a body that is in a step of *clock* is told at the step's end."""
        request = worker.pending
        loops = worker.loops
        depth = next((at for at, loop in enumerate(loops) if loop.clock is clock), None)
        if depth is None or loops[depth].index is None:
            return WAIT
        if isinstance(request, Read):
            return Raised(too_late(self, worker, request))
        if isinstance(request, NextStep) and request.loop in loops[depth + 1 :]:
            return self._outrun(worker, request.loop)
        return WAIT

    def visited(self) -> list[Site]:
        """List the sites that the model has come to, oldest first."""
        return [Site(path, port, visit) for (path, port), visit in self.passed]

    # The end.

    def stop(self) -> None:
        """End the run for all bodies, at the end of the visit where the model stands."""
        self.stopped = True
        self.ended = True

    def finish(
        self, error: BaseException | None = None, last: Standing | None = None
    ) -> BaseException | None:
        """The forward is over: bring all bodies to their ends.

        Args:
            error: What the forward raised.
            last: Where the run stands until its end: what the forward returned.

        Returns:
            What the run is to raise; `None` if it went well, or was stopped.
        """
        self.over = True
        self.closing = True
        if error is not None and not isinstance(error, EndRun):
            if not self.ended:
                self.model_error = error
                note_writes(error, self.writes)
            elif self.failure is None and not isinstance(error, Exception):
                # An interrupt while the run was being ended early: nothing else reports it.
                self.failure = error
        if last is not None:
            self.standing = last
            self.passed.append((last.key, last.visit))
        blocks_saw_it = False
        while not self.ended:
            if self._first_waiting() is None:
                break
            self._serve()
            worker = self._first_waiting()
            if worker is None or self.ended:
                break
            if self.model_error is not None and not worker.told:
                worker.told = blocks_saw_it = True
                self._run(worker, Raised(self.model_error))
            else:
                self._run_last(worker)
        if self.ended:
            self._unwind()
        problem = self.failure
        if problem is None and self.ended:
            problem = self._unwound[0] if self._unwound else None
        elif problem is None and not blocks_saw_it:
            problem = self.model_error
        elif problem is not None:
            for other in self._unwound:
                problem.add_note(f"While another block was unwound, it raised {other!r}")
        if isinstance(problem, TracekitError) and isinstance(error, KeyboardInterrupt):
            # Blocks missed their values because the user interrupted the model.
            problem = error
        self.failure = self.model_error = self.standing = None
        self._unwound = []
        error = None  # see `Worker.send`
        return problem

    def conclude(self, error: BaseException | None = None, last: Standing | None = None) -> None:
        """As `finish`, and raise what it gives.

        Args:
            error: As for `finish`.
            last: As for `finish`.

        Raises:
            BaseException: What the run is to raise, in the context that it has had.
        """
        problem = self.finish(error, last)
        error = None
        if problem is not None:
            context = problem.__context__
            try:
                raise problem
            finally:
                # Raised here, it has got what the caller handles for its context.
                problem.__context__ = context
                # This frame is in the error's traceback.
                problem = context = None

    def _first_waiting(self) -> Worker | None:
        outer = None
        for worker in self.workers:
            if worker.pending is not None:
                if not worker.is_outer:
                    return worker
                outer = outer or worker
        return outer

    def _run_last(self, worker: Worker) -> None:
        """Tell a body that what it waits for will not come."""
        # A name waits for an earlier block and a barrier for any: sites and steps go first,
        # since their bodies may set the others free.
        waiting = [w for w in self.workers if w.pending is not None]
        worker = next((w for w in waiting if isinstance(w.pending, Read | NextStep)), worker)
        request = worker.pending
        if isinstance(request, NextStep):
            self._run(worker, self._outrun(worker, request.loop))
        elif isinstance(request, Read):
            self._run(worker, Raised(too_late(self, worker, request)))
        else:
            self._run(worker, Raised(deadlock(worker, waiting, self.workers)))

    def close(self) -> None:
        """Let go of the host, the bodies and the values; `passed` and `writes` stay."""
        self.host = _NO_HOST
        self.owners = ()
        self.workers = []
        self.standing = self.current = None
        self.wanted.clear()
        self.recorders.clear()
        self.openers.clear()

    def _unwind(self) -> None:
        """Unwind what is suspended; `finally` blocks run, and requests in them raise."""
        for worker in self.workers:
            if worker.pending is not None:
                worker.aborted = True
                self._run(worker, Raised(Abort()))
