"""The straight way: what nearly all traces are, in a few functions instead of some hundred.

A trace is plain when one block runs in step with one call of a module: no stored
edits, no invokes, no other run, no debugger, no modes of torch but those for gradients. For such a
trace `enter` does what otherwise `Tracer`, `BlockBody`, `InterleavingTracer`, `Run`, `Worker` and
`Interleaver` do one after the other, and `StraightRun.output` serves the reads.

It is a shorter way through the same objects, not another kind of run: whenever something else is
called (the block, the model, a method of theirs) they stand as they would on the long way. So
what is not plain after all (a loop over steps, a cache, an error, a value that does not come)
goes on with their methods from there.

The objects of a run that ended well are used again: to make them takes longer than a small model.
"""

# The functions here are long because calls are what they save: a trace has room for some thirty.

from __future__ import annotations

import sys
from contextvars import copy_context
from threading import get_ident
from types import FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from torch import Tensor, nn

from .._bytecode.facts import HAS_MONITORING
from .._interleave.host import WAIT
from .._interleave.interleaver import EndRun, Standing
from .._interleave.requests import Read
from .._interleave.worker import Worker
from .._protocol import UNBOUND, ask
from .._runtime import debuggers, frames, tracebacks
from .._runtime.bodies import BlockBody, Captured
from .._runtime.shared import STATES
from .._runtime.skip import arm
from .._runtime.tracer import BACKEND
from . import hooks
from .foresight import is_registered_before
from .held import RECENT, Held
from .modes import NO_CONTEXT, Modes
from .modes import any_autocast as _any_autocast
from .modes import is_grad_enabled as _is_grad_enabled
from .modes import is_inference as _is_inference
from .modes import len_dispatch as _len_dispatch
from .modes import len_function as _len_function
from .run import RESULT, Run, Spot

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from .._interleave.interleaver import Interleaver
    from .._runtime.sites import Compiled
    from .hooks import Hooked
    from .tracers import InterleavingTracer
    from .tree import Tree

_RUNS: Final = hooks.RUNS
_HOOKED: Final = hooks.HOOKED
_get_trace: Final = sys.gettrace
_get_profile: Final = sys.getprofile
_monitoring: Final[Any] = sys.monitoring if HAS_MONITORING else None  # type: ignore[attr-defined,unused-ignore]
_DEBUGGER_ID: Final = 0

REPLACES: Final = (
    "__enter__", "__exit__", "_begin", "_end", "_enter", "_generates", "_has_input",
    "_let_go", "_once", "_run", "_run_block", "_run_over", "capture", "compile", "execute", "keeps",
    "parse", "pull", "push", "value",
)  # fmt: skip
"""Methods of a tracer that the straight way does without."""

PLAIN: Final[set[object]] = set()
"""Overridden ones that make no difference to a plain trace."""

_LAST: Final = (RESULT, 0)
_ASK_CODE: Final = ask.__code__


class _Step:
    """One module on the way to one that is asked for, and what is put on it.

    Attributes:
        part: Its name in the module above; `None` for the root.
        module: The module.
        key: Its id.
        path: Its name in the tree.
        hooked: What is put on it; `None` if nothing is.
        stand_in: The same, as it stands in the module.
        forward: What its class had as forward.
        spot: For the run, used again.
    """

    __slots__ = ("forward", "hooked", "key", "module", "part", "path", "spot", "stand_in")

    def __init__(self, part: str | None, path: str, module: nn.Module) -> None:
        self.part = part
        self.path = path
        self.module = module
        self.key = id(module)
        self.hooked: Hooked | None = None
        self.stand_in: Any = None
        self.forward: Any = type(module).forward
        self.spot = Spot(path, late=False)


class Way:
    """How a module was hooked in a run before, so that it can be done again at once.

    Args:
        run: Has just hooked it.
        path: Of the module.
        here: Of the module at whose output the model stood at that time; `None` if the model
            had not been called.

    Attributes:
        once: What the run called.
        here: As given.
        is_known: Whether it can be done again.
    """

    __slots__ = ("_above", "_last", "_steps", "here", "is_known", "once")

    def __init__(self, run: Run, path: str, here: str | None) -> None:
        self.once = run.once
        self.here = here
        self.is_known = run.eager is None
        self._above = path.rpartition(".")[0]
        spares = run.tree.spares
        steps: list[_Step] = []
        for name, module in run.tree.chain(path):
            step = _Step(name.rpartition(".")[2] if steps else None, name, module)
            if name in run.paths:
                stand_in = step.stand_in = spares.get(name)
                hooked: Hooked | None = None if stand_in is None else stand_in.args[0]
                if hooked is None or hooked.module is not module or hooked not in run.spots:
                    self.is_known = False
                step.hooked = hooked
            if not isinstance(module._modules, dict):
                self.is_known = False
            steps.append(step)
        self._last = last = steps[-1]
        self._steps = tuple(steps)
        if last.hooked is not None and (
            getattr(last.hooked.original, "__func__", None) is not last.forward
        ):
            self.is_known = False  # its class makes another forward each time
        if here is not None:
            standing = run.tree.find_module(here)
            if any(each is standing for each in last.module.modules()):
                self.is_known = False  # another time the model may stand inside it

    def hook(self, run: StraightRun) -> bool:
        """Hook the modules for *run*, as `Run.watch` does.

        Args:
            run: Asks for the module, where the model stands as it did.

        Returns:
            Whether all is as it was; if not, some of them may be hooked.
        """
        last = self._last
        parent = run.parents.get(self._above)
        if parent is not None:
            child = parent._modules.get(last.part or "")
            return child is last.module and self._put(run, last)
        module: Any = run.tree.root
        for step in self._steps:
            if step.part is not None:
                parent = module
                module = module._modules.get(step.part)
            if module is not step.module:
                return False
            if step.hooked is None:
                if step.part is not None and "forward" in module.__dict__:
                    return False
            elif step.path not in run.paths and (
                # A module above, while the model runs, may be running itself.
                (self.here is not None and step is not last) or not self._put(run, step)
            ):
                return False
        if parent is not None:
            run.parents[self._above] = parent
        return True

    def _put(self, run: StraightRun, step: _Step) -> bool:
        module, hooked = step.module, step.hooked
        attributes = module.__dict__
        if (
            hooked is None
            or type(module).forward is not step.forward
            or attributes.get("_compiled_call_impl") is not None
        ):
            return False
        with hooks.LOCK:
            if hooked.runs or "forward" in attributes:
                return False
            _HOOKED[step.key] = hooked
            hooked.runs.append(run)
            hooked.installed = attributes["forward"] = step.stand_in
        spot = step.spot
        spot.visits = spot.begun = spot.done = spot.skipped = 0
        spot.late = self.here is not None
        spot.owed = spot.forward = None
        run.spots[hooked] = run.paths[step.path] = spot
        return True


class StraightRun(Run):
    """A run of one block, most of whose reads are answered without the interleaver.

    Attributes:
        worker: The block being run.
        body: The block.
        at_site: Where the model stands, used again for each site.
        parents: Modules that hold some that are asked for, by path: as they were a moment ago.
    """

    worker: Worker
    body: BlockBody
    at_site: Standing
    parents: dict[str, nn.Module]
    held: Held

    def output(self, spot: Spot, visit: int, value: Any) -> Any:
        interleaver = self.interleaver
        worker = self.worker
        request: Any = worker.pending
        key = spot.output_key
        if (
            not interleaver.straight
            or request is None
            or request.key != key
            or interleaver.standing is not None
            or interleaver.ended
        ):
            return super().output(spot, visit, value)
        spot.done = visit + 1
        if spot.path == self.once:
            interleaver.closing = True
        at = (key, visit)
        interleaver.passed.append(at)
        standing = interleaver.standing = self.at_site
        standing.key, standing.visit, standing.value = key, visit, value
        try:
            if type(request) is Read and request.view is None:
                answer = value
                if type(value) is Tensor:
                    # As `handed_out`.
                    generator: Any = worker.generator
                    asking = generator.gi_yieldfrom
                    if type(asking) is GeneratorType and asking.gi_code is _ASK_CODE:
                        # The request stands in the block itself, as nearly all do.
                        place: Any = (generator.gi_code, generator.gi_frame.f_lasti)
                    else:
                        place = worker.asking()
                    try:
                        version = value._version
                    except RuntimeError:
                        pass  # an inference tensor has no version counter
                    else:
                        self.held.entries.append((ref(value), version, at, place))
                    self.tree.shapes[spot.path] = (value.dtype, value.shape, value.device)
                else:
                    self.handed_out(worker, standing, value)
            else:
                answer = interleaver.apply(worker, request, standing)
            worker.pending = None
            del interleaver.wanted[key]
            self.drive(interleaver, worker, standing, answer)
            answer = None
            if standing.shared is not None or standing.skips is not None:
                value = interleaver.settled(standing)
            else:
                value = standing.value
        finally:
            interleaver.standing = None
            standing.value = standing.shared = standing.skips = standing.open = None
        if not interleaver.straight and key in interleaver.recorders and not interleaver.failure:
            interleaver.recorded(key, visit, value)
        if interleaver.ended:
            raise EndRun
        return value

    def drive(
        self, interleaver: Interleaver, worker: Worker, standing: Standing | None, answer: object
    ) -> None:
        """Resume the block until it waits for something that is not there, or ends.

        Args:
            interleaver: Of this run.
            worker: Its one block, whose request is no longer pending.
            standing: Where the model stands; `None` before it is called.
            answer: Of the request.
        """
        modes: Modes = worker.modes
        before = modes
        entries = self.held.entries
        interleaver.current = worker
        if standing is not None:
            self.forwarding = False
            if len(entries) > 1:  # the last one has just been read
                for known, version, _, _ in entries[-RECENT:]:
                    tensor = known()
                    if tensor is not None and tensor._version != version:
                        self.held.model_ran()
                        break
            if (
                modes is self.modes
                and _is_grad_enabled() is modes.grad
                and _is_inference() is modes.inference
                and not (_any_autocast() or _len_function() or _len_dispatch())
            ):
                before = modes.enter_context()
            else:
                before = modes.enter()
        generator: Any = worker.generator
        try:
            while True:
                try:
                    request = generator.send(answer)
                except StopIteration as end:
                    worker.value = end.value
                    worker.generator = None
                    break
                except BaseException as error:  # noqa: BLE001 - handed on by the interleaver
                    worker.ended_by(error)
                    break
                if (
                    type(request) is Read
                    and interleaver.straight
                    and self._expects(interleaver, worker, standing, request)
                ):
                    break
                answer = interleaver.accept(worker, request)
                if answer is WAIT:
                    worker.pending = request
                    if interleaver.straight:
                        self._learn(standing, request)
                    break
                if not interleaver.straight:
                    interleaver.talk(worker, answer)
                    break
            if standing is not None and standing.open is not None:
                try:
                    interleaver.put_edited(worker, standing)
                except Exception as error:  # noqa: BLE001 - ends the run, as one in the body does
                    worker.error = worker.error or error
        finally:
            answer = None  # see `Worker.send`
            interleaver.current = None
            self.forwarding = standing is not None
            if (
                modes is self.modes
                and (before is modes or before.twin is modes)
                and _is_grad_enabled() is modes.grad
                and _is_inference() is modes.inference
                and not (_any_autocast() or _len_function() or _len_dispatch())
            ):
                worker.modes = modes.leave_context(before)
            else:
                worker.modes = modes.leave(before)
            for known, version, _, _ in entries[-RECENT:]:
                tensor = known()
                if tensor is not None and tensor._version != version:
                    self.look_for_edits(worker)
                    break
            tensor = None
        if worker.error is not None:
            interleaver.failed(worker)

    def _expects(
        self, interleaver: Interleaver, worker: Worker, standing: Standing | None, request: Read
    ) -> bool:
        """Take a new request that is known from runs before; as `Interleaver.accept` does."""
        key = request.key
        path = key[0]
        tree = self.tree
        if request.owner is not tree or interleaver.closing or path in tree.places:
            return False
        if standing is None:
            ways = tree.ways
            way: Way | None = ways.get(path)
            if way is None:
                return False
        else:
            ways = tree.late_ways
            way = ways.get(path)
            if way is None or (way.here, "output") != standing.key:
                return False
        if way.once != self.once or not (path in self.paths or way.hook(self)):
            del ways[path]
            return False
        worker.asked = len(interleaver.passed)
        interleaver.wanted[key] = 1
        worker.pending = request
        return True

    def _learn(self, standing: Standing | None, request: Any) -> None:
        """Note how the module of a request that waits was hooked."""
        tree = self.tree
        if type(request) is not Read or request.owner is not tree:
            return
        path = request.key[0]
        if path not in self.paths or path in tree.places:
            return
        here = None
        if standing is not None:
            here, port = standing.key
            # What is registered before may be over, which is looked at each time.
            if port != "output" or path == here or is_registered_before(tree.root, path, here):
                return
        way = Way(self, path, here)
        if way.is_known:
            (tree.ways if here is None else tree.late_ways)[path] = way

    def put_by(self, block: Compiled) -> None:
        """Keep these objects for another run of the same block."""
        interleaver, worker, held = self.interleaver, self.worker, self.held
        self.tree = _NOTHING
        self.frame = None
        self.began = False
        self.modes.context, self.modes.other = NO_CONTEXT, None
        held.entries.clear()
        self.parents.clear()
        interleaver.owners = ()
        interleaver.passed = []
        if interleaver.writes:
            interleaver.writes = []
        interleaver.over = interleaver.closing = interleaver.straight = False
        worker.modes = worker.value = None
        worker.started = False
        worker.asked = 0
        block.spares.append(self)

    def let_go(self) -> None:
        """These objects are not needed any more: no cycle is to keep the block."""
        self.interleaver.close()


_NOTHING: Final[Any] = None


def _fresh(tree: Tree, code: CodeType, block: Compiled) -> StraightRun:
    run = StraightRun(tree, None, None)
    run.body = BlockBody(Captured(None, code, -1, -1, is_direct=True), block)
    # What is kept with a block must not keep its code.
    run.body.info = _NOTHING
    run.worker = Worker(run.body)
    run.modes = Modes()
    run.held = Held()
    run.at_site = Standing(RESULT, 0, None)
    run.parents = {}
    run.interleaver.workers.append(run.worker)
    return run


def enter(tracer: InterleavingTracer, frame: FrameType, block: Compiled) -> bool:
    """Run the block of a plain trace, as `Tracer.__enter__` does.

    Args:
        tracer: Has been made for one call.
        frame: Executes the `with`; its code is the original.
        block: What the `with` enters.

    Returns:
        Whether it has been done; if not, nothing has.
    """
    args, model = tracer.args, tracer.model
    if (
        not args
        or model is None
        or tracer.fn is not None
        or tracer._body is not None
        or tracer._saved is not None
        or tracer.backend is not BACKEND
        or _RUNS
        or _HOOKED
        or STATES
        or tracebacks.PENDING
        or debuggers.STARTED
        or _get_trace() is not None
        or _get_profile() is not None
        or frame.f_trace is not None
        or (HAS_MONITORING and _monitoring.get_tool(_DEBUGGER_ID) is not None)
        or _any_autocast()
        or _len_function()
        or _len_dispatch()
    ):
        return False
    tree = model._called[0]
    if tree.edits:
        return False
    try:
        run: StraightRun = block.spares.pop()
    except IndexError:
        run = _fresh(tree, frame.f_code, block)
    interleaver, worker, body = run.interleaver, run.worker, run.body
    tracer._state = "entered"
    try:
        if not tracer.is_bare:
            tracer._ready()
        offset = frame.f_lasti
        code = frame.f_code
        tracer._place = (code, offset)
        tracer._skip = arm(frame, block.first_offset, offset)
        # The body.
        tracer._body = body
        body.frame = frame
        # The run.
        tracer._main, tracer._current = worker, run
        run.tree = tree
        run.once = run.base = model._path
        interleaver.owners = (tree, tracer, *tree.origins)
        modes = worker.modes = run.modes
        modes.grad = run.grad = _is_grad_enabled()
        modes.inference = _is_inference()
        modes.context = copy_context()
        run.frame = sys._getframe()
        _RUNS[get_ident()] = run
        # The block, up to its first request.
        code = block.twin.code
        if block.is_optimized:
            values = body._before = [UNBOUND] * len(block.arguments)
            if block.read:
                for at, value in zip(block.read_at, frames.pull(frame, block.read), strict=True):
                    values[at] = value
            closure = frames.cells(frame, block.frees) if block.frees else None
            generator = FunctionType(code, frame.f_globals, code.co_name, None, closure)(*values)
            # In no name of this frame's: a frame that has ended holds those it was resumed from.
            if block.cells:
                frames.share_cells(frame, generator.gi_frame, block.cells)
            if block.pushed:
                body._own_frame = generator.gi_frame
            generator.send(None)
            generator.send(tracer)
        else:
            generator = body.start(tracer)
        worker.generator = generator
        del generator
        worker.started = interleaver.straight = True
        run.drive(interleaver, worker, None, None)
        # The model.
        error: BaseException | None = None
        last: Standing | None = None
        is_over = False
        if not interleaver.ended:
            try:
                called: Any = model._called[1]
                kwargs = tracer.kwargs
                if not tracer.is_bare:
                    called, args, kwargs = tracer._call()
                elif kwargs or not model.prepares_plainly:
                    args, kwargs = model._prepare(called, args, kwargs)
                else:
                    device = model._first_device()
                    for value in args:
                        if type(value) is not Tensor or value.device != device:
                            args, kwargs = model._prepare(called, args, kwargs)
                            break
                run.began = run.forwarding = True
                result = called(*args, **kwargs)
                if worker.generator is None and interleaver.straight and not interleaver.ended:
                    is_over = True
                else:
                    last = run.returned(result)
            except BaseException as raised:  # noqa: BLE001 - the block sees it first
                error = raised
            finally:
                run.forwarding = False
        if is_over and worker.modes is modes and run.eager is None and run.held.is_quiet():
            interleaver.closing = interleaver.over = True
            interleaver.passed.append(_LAST)
            hooks.end(run)
            run.spots.clear()
            run.paths.clear()
            tracer._visited = interleaver.passed
            tracer._current = tracer._main = tracer.model = None
            tracer.args = ()
            tracer.kwargs = {}
        else:
            if is_over:
                is_over = False
                last = run.returned(result)
            run.conclude(error, last)
            error = last = None
            run.close()
            tracer._run_over(run)
            tracer._let_go()
        # The names.
        # Given up before the exchange: an interrupt after it must not put the old values back.
        ended, body._own_frame = body._own_frame, None
        if not block.is_optimized:
            body.finish()
            tracer._note_bound(body.bound)
            body._namespace_before = None
            body.bound = ()
        elif ended is not None:
            places = block.exchanged
            if places is None:
                places = block.exchanged = frames.places_of(
                    frame.f_code, code, block.pushed, block.read
                )
            bound = frames.exchange(frame, ended, places)
            ended = None
            tracer._note_bound(bound)
            del bound
        else:
            tracer._note_bound(())
        if debuggers.STARTED or _get_trace() is not None:
            debuggers.end(None, frame)
        tracer._body = None
        body.frame = body._before = None
        if is_over:
            if block.spares:
                # Another thread, or a finalizer, has run the block meanwhile.
                run.close()
            else:
                run.put_by(block)
    except BaseException as error:
        ended = None
        block.spares.clear()  # this run may be there already
        if tracer.model is not None:
            tracer._explain(error)
        _give_up(tracer, run)
        raise
    return True


def _give_up(tracer: InterleavingTracer, run: StraightRun) -> None:
    """Give everything back after an error; harmless where that is done already."""
    body = run.body
    try:
        run.close()
    finally:
        try:
            if tracer._current is not None:
                tracer._run_over(run)
        finally:
            tracer._let_go()
            try:
                body.finish()
            finally:
                if body.frame is not None and (debuggers.STARTED or _get_trace() is not None):
                    debuggers.end(None, body.frame)
                tracer._end()
