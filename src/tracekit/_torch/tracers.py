"""The tracers that run a body in step with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from torch import Tensor

from .._interleave.flow import Barrier
from .._interleave.requests import Meet, Read
from .._interleave.site import Site, spell
from .._interleave.worker import Worker
from .._protocol import UNBOUND, Abort, Raised, ask, suspending
from .._runtime.bodies import BlockBody, Body
from .._runtime.refusals import cannot_wait
from .._runtime.tracer import BACKEND, Backend, Tracer
from ..errors import CannotJoinError, InvokeError, NotRunningError
from . import calls as _calls  # noqa: F401 - fills the table of stand-ins
from . import straight
from .joining import split_rows
from .leaves import leaves_with_paths
from .modes import Modes
from .run import Run, edited_call
from .tree import Port
from .values import describe

if TYPE_CHECKING:
    from .base import Traceable

_CALLS: Final = frozenset({"__call__", "forward"})
_SHOWN_INVOKES: Final = 4


class InterleavingTracer(Tracer):
    """Runs a block in step with one call of a model.

    Equivalent to the call with the block's lines executed where the model has what they ask for.

    Args:
        fn: What is called: `None` for the module itself, the name of one of its methods, or a
            function.
        model: The wrapper whose values the block may ask for.
        *args: Given to the call.
        backend: What runs the captured body.
        max_rows: The most rows of inputs in one forward; more invokes run in several.
        keep: `"all"`: what the block binds is bound after it. `"saved"`: only what was saved.
        **kwargs: Given to the call.
    """

    result = Port("result", "result", doc="What the traced call returned; can be assigned.")
    straight: ClassVar[Any] = staticmethod(straight.enter)
    is_bare: ClassVar[bool] = True
    """It neither reads its input nor makes the call in a way of its own."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in straight.REPLACES:
            method = getattr(cls, name)
            if method is not getattr(InterleavingTracer, name) and method not in straight.PLAIN:
                cls.straight = None  # it does something of its own there
        cls.is_bare = (
            cls._ready is InterleavingTracer._ready
            and cls._explain is InterleavingTracer._explain
            and cls._call is InterleavingTracer._call
        )

    def __init__(
        self,
        fn: str | Callable[..., Any] | None,
        model: Traceable,
        *args: Any,
        backend: Backend | None = None,
        keep: str = "all",
        max_rows: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Not through super(): this is on the path of every trace.
        self.args = args
        self.kwargs = kwargs
        self.backend = BACKEND if backend is None else backend
        self._info = None
        self._body = None
        self._skip = None
        self._saved = None
        self._state = "new"
        self.fn = fn
        self.model: Traceable | None = model
        self.max_rows = max_rows
        self.keep = keep
        self._invokes: Sequence[Invoker] = ()
        self._started: Sequence[Invoker] = ()
        self._ended: Sequence[Invoker] = ()
        self._stopped = False
        self._read_at = ""
        self._main: Worker | None = None
        self._requests: dict[str, Any] | None = None
        self._current: Run | None = None
        self._visited: Sequence[tuple[tuple[str, str], int]] = ()
        if keep != "all":
            if keep != "saved":
                self._state = "ended"
                raise ValueError(f'keep is "all" or "saved", not {keep!r}')
            self.keep_only_saved()

    def _site_owner(self) -> tuple[object, str]:
        return self, ""

    @property
    def visited(self) -> list[Site]:
        """The sites that the run has come to, of the modules that were asked for, oldest first."""
        run = self._current
        passed = self._visited if run is None else run.interleaver.passed
        return [Site(path, port, visit) for (path, port), visit in passed]

    def stop(self) -> None:
        """End the run here; does not return.

        The model stops at the end of the visit where it stands. Other blocks that are suspended
        are unwound: their `finally` blocks run. What was bound stays bound.
        """
        run = self._current
        if run is None:
            raise NotRunningError(
                "`tracer.stop()` ends a run, and this tracer has none",
                why="the run of a block begins and ends with its `with`",
                fix="call it inside the block",
            )
        run.interleaver.stop()
        raise Abort

    def invoke(self, *args: Any, **kwargs: Any) -> Invoker:
        """Give an input its own block: `with tracer.invoke(x): ...`.

        All inputs are joined into one run; each block sees its own rows only.

        Args:
            *args: The input; none at all: the block sees the rows of all inputs.
            **kwargs: The same, by keyword.

        Raises:
            InvokeError: `invoke-refused`. The run has an input already, or has begun.
        """
        return Invoker(self, *args, **kwargs)

    def barrier(self, n_participants: int) -> Meeting:
        """Make a meeting point of several blocks: each calls it, and waits for the others.

        Args:
            n_participants: How many blocks meet.

        Returns:
            What each block calls; usable again for the next round.
        """
        return Meeting(n_participants)

    def execute(self, body: Body) -> object:
        """Run *body* in step with the model.

        Returns:
            What the body returned; `None` after `stop()`.
        """
        self._ready()
        model = self.model
        assert model is not None
        worker = self._main = Worker(body)
        if isinstance(body, BlockBody) and not self._has_input():
            # It may read what an invoke in it binds.
            worker.is_outer = True
            body.share(frozenset(), body.stores & body.loads)
        try:
            self._run(worker)
            while self._invokes and not self._stopped:
                self._run(None)
            return worker.value
        except BaseException as error:
            self._explain(error)
            raise
        finally:
            self._let_go()
            del model, worker

    def _ready(self) -> None:
        """The body is about to start; a subclass may read its input first."""

    def _explain(self, error: BaseException) -> None:
        """The run ends with *error*; a subclass may add what it knows."""

    def _let_go(self) -> None:
        """A finished tracer holds no model and no activation."""
        if self._ended or self._invokes:
            for invoke in (*self._ended, *self._invokes):
                invoke.close()
            self._invokes = self._ended = ()
        self._main = self._requests = None
        self.model = None
        self.fn = None
        self.args = ()
        self.kwargs = {}

    def _run(self, worker: Worker | None) -> None:
        model = self.model
        assert model is not None
        run = self._current = Run(model._tree, self, self._once())
        run.base = model._path
        run.without_grad = self._generates()
        if not self._has_input():
            run.refuse = self._refuse
            run.names_bound = self._bind_names
        try:
            run.execute(worker, self.value(), self._call)
        finally:
            self._run_over(run)
            del run

    def _run_over(self, run: Run) -> None:
        """Take over what is kept of a run."""
        self._current = None
        self._stopped = run.interleaver.stopped
        self._visited = [*self._visited, *run.interleaver.passed]
        if self._started:
            started, self._started = self._started, ()
            self._ended = [*self._ended, *started]
            for invoke in started:
                invoke.push_names(self.keeps())

    def _run_again(self, run: Run) -> None:
        """A further run begins, because the inputs did not fit into one."""

    def _bind_names(self, worker: Worker) -> object:
        """The body around the invokes goes on, after the run that it has begun by reading."""
        if self._invokes:
            return Raised(
                InvokeError(
                    "a name that an invoke binds is read in a trace that needs several runs",
                    where=worker.where(),
                    seen=f"{len(self._invokes)} invokes have not run",
                    why="the body goes on after the first run, and the others begin when it ends",
                    fix="read the name after the `with`, or leave `max_rows` out",
                )
            )
        self._read_at = worker.where()
        for invoke in self._started:
            invoke.push_names(None)
        return UNBOUND

    def _refuse(self, worker: Worker, request: Read) -> BaseException | None:
        """Say why a site may not be asked for between invokes."""
        if worker is not self._main or not (self._invokes or self._started):
            return None
        return InvokeError(
            f"`{spell(request.key[0], request.name)}` is asked for between invokes",
            why="with several inputs, a value belongs to the block of one of them",
            fix="ask inside `with tracer.invoke(...):`; `tracer.invoke()` without input sees the "
            "rows of all",
        )

    def _take(self, invoke: Invoker, body: Body) -> None:
        """Add an input to the run that has not begun."""
        run = self._current
        main = self._main
        problem = ""
        if run is None or main is None:
            problem = "outside of its tracer's block"
        elif self._has_input():
            problem = "in the block of a `trace` that has an input already"
        elif run.interleaver.current is not main:
            problem = "inside another invoke"
        elif run.began:
            problem = "after the run has begun"
        if problem:
            begun = f"it was begun by reading a name of an invoke: {self._read_at}"
            raise InvokeError(
                f"`tracer.invoke(...)` stands {problem}",
                seen=begun if self._read_at else "",
                why="inputs are joined into one run before it begins",
                fix="open all invokes directly in the block of `with model.trace() as tracer:`, "
                "one after the other",
            )
        assert main is not None
        self._invokes = [*self._invokes, invoke]
        if isinstance(main.body, BlockBody):
            main.body.await_names(body.stores)

    def call(self) -> Any:
        """Make the call without a block, with the stored edits only; give what it returns."""
        model = self.model
        assert model is not None
        self._begin()
        try:
            if model._tree.edits:
                return edited_call(model._tree, model._path, self._once(), self._call, self)
            function, args, kwargs = self._call()
            return function(*args, **kwargs)
        finally:
            self._end()

    def _has_input(self) -> bool:
        """Whether the trace brings an input: more than options, which hold for all invokes."""
        return bool(self.args) or any(
            isinstance(leaf, Tensor) for _, leaf in leaves_with_paths(self.kwargs)
        )

    def _generates(self) -> bool:
        """Whether the call is a `generate`, which runs without gradients."""
        return self.fn == "generate" or getattr(self.fn, "__name__", "") == "generate"

    def _once(self) -> str | None:
        """The path of the one module that the traced call calls once; `None` if not known."""
        model = self.model
        assert model is not None
        if self.fn is None or self.fn in _CALLS:
            return model._path
        return None

    def _call(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        model = self.model
        assert model is not None
        fn = self.fn
        function: Any
        if fn is None or fn == "__call__":
            function = model._module
        elif isinstance(fn, str):
            function = getattr(model._module, fn)
        else:
            function = getattr(fn, "__wrapped__", fn) if type(fn).__name__ == "_Method" else fn
        if self._invokes:
            args, kwargs = self._start_invokes(function)
        else:
            args, kwargs = model._prepare(function, self.args, self.kwargs)
        return function, args, kwargs

    def _start_invokes(
        self, function: Callable[..., Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Join the inputs of the next run, and start its blocks.

        Returns:
            Arguments and keyword arguments of the call.
        """
        model, run = self.model, self._current
        assert model is not None
        assert run is not None
        if not run.interleaver.workers:
            self._run_again(run)
        started = self._next_group(model)
        given = [invoke for invoke in started if invoke.has_input]
        rows: dict[int, slice | None] = {}
        args: tuple[Any, ...] = ()
        kwargs = self.kwargs
        if given:
            inputs = [(each.args, {**self.kwargs, **each.kwargs}) for each in given]
            try:
                joined = model._join(function, inputs)
            except CannotJoinError as error:
                error.where = error.where or _places(given)
                raise
            args, kwargs = joined.args, joined.kwargs
            if len(given) > 1:
                run.rules, run.total = model._batch_rules(), joined.total
                run.inputs = (model._module, function, args, kwargs)
                run.rules.learn(model._module, function, args, kwargs, joined.total)
                rows = {id(each): part for each, part in zip(given, joined.rows, strict=True)}
        for invoke in self._ended:
            # The blocks of earlier runs may have bound names that those of this one read.
            assert invoke.worker is not None
            invoke.worker.modes = None
            run.interleaver.add(invoke.worker)
        for invoke in started:
            worker = invoke.worker
            assert worker is not None
            worker.rows = rows.get(id(invoke))
            run.interleaver.add(worker)
        _share_names([*self._ended, *started, *self._invokes])
        for invoke in started:
            if run.interleaver.ended:
                break
            assert invoke.worker is not None
            run.interleaver.start(invoke.worker, invoke.value())
        return args, kwargs

    def _next_group(self, model: Traceable) -> Sequence[Invoker]:
        """Take the invokes that fit into one run."""
        waiting = self._invokes
        count = len(waiting)
        if self.max_rows is not None:
            sizes = [model._count_rows(each.args, each.kwargs) for each in waiting]
            groups = split_rows(sizes, self.max_rows)
            count = len(groups[0])
            if len(groups) > 1 and any(not each.has_input for each in waiting):
                raise InvokeError(
                    "an invoke without input stands in a trace that needs several runs",
                    seen=f"{sum(sizes)} rows, max_rows={self.max_rows}",
                    why="it sees the rows of all inputs, and they are not in one run",
                    fix="leave `max_rows` out",
                )
        self._started, self._invokes = waiting[:count], waiting[count:]
        return self._started


def _share_names(invokes: Sequence[Invoker]) -> None:
    """Tell each block that has not started which names it shares with the others.

    Args:
        invokes: All of a trace, in written order.
    """
    bodies: list[tuple[Invoker, BlockBody]] = []
    for invoke in invokes:
        body = invoke.worker.body if invoke.worker is not None else None
        if isinstance(body, BlockBody):
            bodies.append((invoke, body))
    earlier: set[str] = set()
    later = [frozenset[str]()]
    for _, body in reversed(bodies):
        later.append(later[-1] | body.loads)
    for (invoke, body), told in zip(bodies, reversed(later[:-1]), strict=True):
        assert invoke.worker is not None
        if not invoke.worker.started:
            body.share(frozenset(earlier), told)
        earlier |= body.stores


def _places(invokes: Sequence[Invoker]) -> str:
    """Say where the first invokes of a run stand, each line once."""
    lines: dict[str, None] = {}
    for invoke in invokes:
        if invoke.worker is not None:
            body = invoke.worker.body
            lines.setdefault(f"{body.filename}:{body.first_lineno}")
    shown = list(lines)[:_SHOWN_INVOKES]
    return ", ".join(shown) + (", ..." if len(lines) > len(shown) else "")


class Invoker(Tracer):
    """One input of a run with several, and the block that sees its rows."""

    takes_names = False  # its block waits for each name where it reads it

    def __init__(self, tracer: InterleavingTracer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tracer: InterleavingTracer | None = tracer
        self.worker: Worker | None = None
        self._captured: Body | None = None
        self._pushed = False

    def __repr__(self) -> str:
        shown = [describe(value) for value in self.args]
        shown += [f"{name}={describe(value)}" for name, value in self.kwargs.items()]
        if self._state != "new" and self.tracer is None:
            return "<Invoker, ended>"
        return f"<Invoker of {', '.join(shown) or 'all rows'}>"

    @property
    def has_input(self) -> bool:
        """It brings rows of its own."""
        return bool(self.args or self.kwargs)

    def execute(self, body: Body) -> None:
        """Keep *body* for the run, with its names and modes as they are here."""
        tracer = self.tracer
        assert tracer is not None
        tracer._take(self, body)
        self._captured = body
        worker = self.worker = Worker(body)
        worker.modes = Modes()
        if tracer._generates():
            worker.modes.grad = False
        if isinstance(body, BlockBody):
            body.bind_now()

    def _run_block(self, body: Any) -> None:
        # The block runs later, and its names are put back after that.
        self.backend(self, body)
        self._body = None

    def push_names(self, keeps: Any) -> None:
        """Bind what the block has bound, in the place of its `with`."""
        if self._captured is not None and not self._pushed:
            self._pushed = True
            self._captured.finish(keeps)

    def close(self) -> None:
        """Let go of everything."""
        body, self._captured = self._captured, None
        worker, self.worker = self.worker, None
        if worker is not None and worker.generator is not None:
            worker.generator.close()
            worker.generator = None
        if body is not None:
            forget = getattr(body, "forget", None)
            if forget is not None:
                forget()
        self.tracer = None
        self.args = ()
        self.kwargs = {}


class Meeting:
    """What `tracer.barrier(n)` gives: called in n blocks, it holds each until all are there."""

    __slots__ = ("_barrier",)

    def __init__(self, participants: int) -> None:
        self._barrier = Barrier(participants)

    def __repr__(self) -> str:
        return repr(self._barrier)

    def __call__(self) -> None:
        """Wait for the other blocks."""
        raise cannot_wait("a barrier", "call it in the block itself")


@suspending(Meeting.__call__)
def _meet(self: Meeting) -> Any:
    yield from ask(Meet(self._barrier))
