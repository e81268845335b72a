"""One traced call: the bodies, the model, and what connects them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from .._interleave.host import Host
from .._interleave.interleaver import EndRun, Interleaver, Standing
from .._interleave.messages import too_late
from .._interleave.site import spell
from .._protocol import UNBOUND
from ..errors import NeverRanError, TracekitError, UnsupportedModuleError
from . import hooks
from .batch import Shared, join_parts
from .foresight import is_past
from .held import Held
from .modes import Modes
from .regions import eagerly, is_compiled, refuse_write
from .values import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import FrameType

    from .._interleave.requests import Key, Read
    from .._interleave.worker import Worker
    from .axes import BatchRules, Joined
    from .hooks import Hooked
    from .tree import Tree

RESULT: Final[Key] = ("", "result")
_CLOSED: Final = (torch.jit.ScriptModule, nn.DataParallel)
_UNIMPLEMENTED: Final = nn.Module.forward
_NEVER_CALLED: Final = (
    "its forward was never called: its weights may be used directly, a fused kernel may stand in "
    "for it, or the branch was not taken"
)
_FORWARD_CODE: Final = hooks._forward.__code__


class Spot:
    """What one run knows about one module that it has hooked.

    Attributes:
        path: The module's name.
        visits: How many calls have begun since it was hooked.
        begun: How many inputs have been passed.
        done: How many outputs have been passed.
        skipped: How many calls were skipped.
        owed: The visit whose output is served by the forward hook, if that is to come.
        late: It was hooked when the model was running already.
        forward: What is called in the module's place, for this run alone; `None`: its own forward.
    """

    __slots__ = (
        "begun",
        "done",
        "forward",
        "input_key",
        "late",
        "output_key",
        "owed",
        "path",
        "skip_key",
        "skipped",
        "visits",
    )

    def __init__(self, path: str, late: bool) -> None:
        self.path = path
        self.input_key: Key = (path, "input")
        self.skip_key: Key = (path, "skip")
        self.output_key: Key = (path, "output")
        self.visits = 0
        self.begun = 0
        self.done = 0
        self.skipped = 0
        self.owed: int | None = None
        self.late = late
        self.forward: Callable[..., Any] | None = None


class Run(Host):
    """One traced call of a model.

    Args:
        tree: The model whose sites may be asked for.
        owner: The tracer, which owns the run's own sites such as `result`.
        once: The traced call is one call of the module at this path, and nothing else; `None`
            if it may call the module any number of times.

    Attributes:
        rules: Where the batch axes of all sites are, when several bodies see their own rows.
        inputs: Then, what is called and with what.
        total: Rows of the batch, in inputs.
        base: The path of the module that was traced; stored edits at or below it take part.
        without_grad: The call runs without gradients (`generate`), so its bodies start without.
        eager: Keeps compiled modules from running compiled, once one of them is asked for.
        refuse: Says why a body may not ask for a site, beyond what the run itself knows.
        names_bound: Binds what the bodies of invokes have bound, for the body around them.
    """

    def __init__(self, tree: Tree, owner: object, once: str | None) -> None:
        # No defaults in the class; see `Interleaver`.
        self.rules: BatchRules | None = None
        self.inputs: Joined | None = None
        self.total = 0
        self.base = ""
        self.without_grad = False
        self.grad = False
        self.eager: AbstractContextManager[Any] | None = None
        self.refuse: Callable[[Worker, Read], BaseException | None] | None = None
        self.names_bound: Callable[[Worker], object] | None = None
        self.forwarding = False
        self.began = False
        self.outer: Run | None = None
        self.frame: FrameType | None = None
        self.modes: Modes
        self.returning: Spot | None = None
        self.held: Held | None = None
        self.tree = tree
        self.once = once
        self.interleaver = Interleaver(self, (tree, owner, *tree.origins))
        self.spots: dict[Hooked, Spot] = {}
        self.paths: dict[str, Spot] = {}

    def execute(
        self,
        worker: Worker | None,
        value: object,
        call: Callable[[], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]],
    ) -> Any:
        """Run the bodies in step with a call.

        Args:
            worker: The body of the `with` itself; started first, before the model is called.
                `None` if it has run already.
            value: What its `as` target gets.
            call: Gives the function, arguments and keyword arguments of the traced call, once
                the body has reached its first request.

        Returns:
            What the traced call returned.
        """
        interleaver = self.interleaver
        result: Any = None
        error: BaseException | None = None
        last: Standing | None = None
        self.frame = sys._getframe()
        hooks.begin(self)
        try:
            self.modes = Modes()
            self.grad = self.modes.grad and not self.without_grad
            for edit in self.tree.edits:
                edit.attach(self)
            if worker is not None:
                interleaver.add(worker)
                interleaver.start(worker, value)
            if not interleaver.ended:
                try:
                    function, args, kwargs = call()
                    if interleaver.ended:
                        raise EndRun
                    self.began = self.forwarding = True
                    result = function(*args, **kwargs)
                    last = self.returned(result)
                except BaseException as raised:  # noqa: BLE001 - the bodies see it first
                    error = raised
                finally:
                    self.forwarding = False
            self.conclude(error, last)
            return result if last is None else last.value
        finally:
            error = None
            self.close()

    def returned(self, result: Any) -> Standing:
        """The traced call is over: serve its output, if that was asked for on the way.

        Args:
            result: What it returned.

        Returns:
            Where the run stands until its end.
        """
        if self.once is not None and self.once not in self.paths:
            self.interleaver.closing = True
            if self.interleaver.loops_end(self.once):
                self._watch_return(self.once)
        if self.returning is not None:
            result = self.output(self.returning, 0, result)
        return Standing(RESULT, 0, result)

    def conclude(self, error: BaseException | None, last: Standing | None) -> None:
        """Bring all bodies to their ends, and give the warnings.

        Args:
            error: What the traced call raised.
            last: Where the run stands, if the call returned.

        Raises:
            BaseException: What the run is to raise.
        """
        if self.held is not None:
            self.held.run_ended()
        try:
            self.interleaver.conclude(error, last)
        finally:
            error = None  # this frame is in its traceback
        if self.held is not None:
            self.held.complain()

    def close(self) -> None:
        """Give everything back: modes, modules, values. Harmless the second time."""
        interleaver = self.interleaver
        for body in interleaver.workers:
            # A mode that a block leaves set is set after the `with` too, as inline.
            if body.order >= 0 and body.modes is not None and body.modes is not self.modes:
                if self.without_grad and not body.modes.grad:
                    # It was turned off for the block, not by it.
                    body.modes.grad = self.modes.grad
                body.modes.set(Modes())
        self.frame = None
        eager, self.eager = self.eager, None
        if eager is not None:
            eager.__exit__(None, None, None)
        hooks.end(self)
        self.spots.clear()
        self.paths.clear()
        self.inputs = None
        interleaver.close()

    # Rows.

    def part(self, worker: Worker, standing: Standing) -> object:
        return self._shared(standing).read(worker.order, worker.rows)

    def put_part(self, worker: Worker, standing: Standing, new: object) -> None:
        self._shared(standing).write(worker.order, worker.rows, new)

    def edited(self, worker: Worker, standing: Standing) -> BaseException | None:
        shared: Shared = standing.shared
        try:
            shared.check(worker.order)
        except TracekitError as refusal:
            return refusal.with_traceback(None)
        return None

    def joined(self, standing: Standing) -> object:
        return standing.shared.join()

    def skipped(self, parts: list[tuple[Worker, object]], standing: Standing) -> object:
        with_rows: list[tuple[Any, object]] = [
            (worker.rows, value) for worker, value in parts if worker.rows is not None
        ]
        if not with_rows or parts[-1][0].rows is None:
            return parts[-1][1]
        path, _, visit = standing.site
        assert self.rules is not None
        rule = self.rules.site(path, "output", visit, self.total)
        return join_parts(with_rows, self.total, rule)

    def _shared(self, standing: Standing) -> Shared:
        if standing.shared is None:
            assert self.rules is not None
            path, port, visit = standing.site
            rule = self.rules.site(path, port, visit, self.total)
            standing.shared = Shared(standing.value, rule, self.total)
        shared: Shared = standing.shared
        return shared

    # What `_forward` calls.

    def output(self, spot: Spot, visit: int, value: Any) -> Any:
        """A module is about to give *value* to its caller."""
        spot.done = visit + 1
        interleaver = self.interleaver
        if spot.path == self.once:
            interleaver.closing = True
            ends_loops = interleaver.loops_end(spot.path)
        else:
            ends_loops = spot.path in interleaver.clocks and interleaver.loops_end(spot.path)
        if ends_loops:
            return interleaver.visit(spot.output_key, visit, value, ends_loops=True)
        if spot.output_key in interleaver.wanted:
            return interleaver.visit(spot.output_key, visit, value)
        if interleaver.ended:
            raise EndRun
        interleaver.passed.append((spot.output_key, visit))
        if spot.output_key in interleaver.recorders:
            interleaver.recorded(spot.output_key, visit, value)
        return value

    # Host.

    def written(self, worker: Worker, standing: Standing) -> BaseException | None:
        if not self.grad:
            return None
        path, port = standing.key
        return refuse_write(spell(path, port), worker.where(), self.frame)

    def outer_goes_on(self, worker: Worker) -> object:
        return UNBOUND if self.names_bound is None else self.names_bound(worker)

    def enter(self, worker: Worker) -> tuple[bool, Modes]:
        if worker.is_apart:
            worker.body.resume()
        before = self.forwarding
        self.forwarding = False
        if self.held is not None:
            self.held.model_ran()
        modes = worker.modes
        if modes is None and self.without_grad:
            modes = worker.modes = Modes()
            modes.grad = False
        if modes is None:
            # It starts under the modes of the `with` line, which are set now.
            worker.modes = self.modes
            return before, self.modes
        return before, modes.enter()

    def leave(self, worker: Worker, before: tuple[bool, Modes]) -> None:
        if worker.is_apart:
            worker.body.suspend()
        self.forwarding, model = before
        worker.modes = worker.modes.leave(model)
        if self.held is not None:
            self.look_for_edits(worker)

    def look_for_edits(self, worker: Worker) -> None:
        """See what the body that has just run has edited in place."""
        standing = self.interleaver.standing
        if self.held is not None and self.held.block_ran(standing) and standing is not None:
            refusal = self.written(worker, standing)
            if refusal is not None and self.interleaver.failure is None:
                # The edit has been made in place: all that can be done is not to go on with it.
                self.interleaver.failure = refusal
                self.interleaver.ended = True

    def handed_out(self, worker: Worker, standing: Standing, value: object) -> None:
        if type(value) in LEAVES:
            return
        if self.held is None:
            self.held = Held()
        self.held.add(worker, standing, value)
        if type(value) is Tensor and standing.key[1] == "output" and worker.rows is None:
            self.tree.shapes[standing.key[0]] = (value.dtype, value.shape, value.device)

    def calls(self, path: str) -> int:
        spot = self.paths.get(path)
        return 0 if spot is None else spot.visits

    def calls_by_path(self) -> dict[str, int]:
        return {path: spot.visits for path, spot in self.paths.items()}

    def count(self, key: Key) -> int:
        spot = self.paths.get(key[0])
        if spot is None:
            return 0
        return spot.done if key[1] == "output" else spot.begun

    def reach(self, worker: Worker, request: Read) -> BaseException | None:
        path, port = request.key
        if self.refuse is not None and (refusal := self.refuse(worker, request)) is not None:
            return refusal
        place = self.tree.places.get(path)
        if place is not None:
            return place._reach(self)
        if port == "result":
            return None
        if self.began and self._is_past(path):
            return too_late(self.interleaver, worker, request)
        if path in self.paths:
            return None
        return self.watch(path)

    def _is_past(self, path: str) -> bool:
        """Whether the model, where it stands, surely will not call this module any more."""
        standing, top = self.interleaver.standing, self.once
        if standing is None or top is None or standing.key == RESULT:
            return False
        here, port = standing.key
        if top:
            if not (path.startswith(f"{top}.") and here.startswith(f"{top}.")):
                return False
            path, here = path[len(top) + 1 :], here[len(top) + 1 :]
        module = self.tree.find_module(top)
        return module is not None and is_past(module, path, here, entering=port != "output")

    def watch(self, path: str) -> BaseException | None:
        """Hook a module and those above it.

        Args:
            path: The module's name.

        Returns:
            Why that is of no use, or `None`.
        """
        late = self.began
        chain = self.tree.chain(path)
        target = chain[-1][1]
        if type(target).forward is _UNIMPLEMENTED and "forward" not in target.__dict__:
            return NeverRanError(
                f"`{spell(path, '')}` never runs: {type(target).__name__} is a container",
                why="a container has no forward; its children are called one by one",
                fix=f"ask for one of its children, for example `{spell(path, '')}[0]`",
            )
        if late and path == self.once:
            self._watch_return(path)
            return None
        for name, module in chain[:-1]:
            if isinstance(module, _CLOSED):
                return UnsupportedModuleError(
                    f"`{spell(path, '')}` is inside `{spell(name, '')}`, a "
                    f"{type(module).__name__}, and cannot be served",
                    why="it does not call its children from Python in the thread of the run",
                    fix=f"ask for `{spell(name, 'output')}`, or trace the plain module",
                )
            if module is not self.tree.root and hooks.runs_apart(module, self.tree):
                return UnsupportedModuleError(
                    f"`{spell(path, '')}` is inside `{spell(name, '')}`, which has stored edits of "
                    "its own, and cannot be served",
                    why="a module that `as_module()` gave is run with its edits in a run of its own",
                    fix=f"ask for `{spell(name, 'output')}`; or put the plain module there, and make "
                    "the edits on the whole model",
                )
        running: list[nn.Module] | None = None if late else []
        for name, module in chain:
            if name in self.paths or (name == self.once and module is not target):
                continue
            if type(module).forward is _UNIMPLEMENTED and "forward" not in module.__dict__:
                continue
            if running is None and not _calls_nothing(module):
                running = self._running_unhooked()
            if running and module in running:
                if module is target:
                    return NeverRanError(
                        f"`{spell(path, '')}` is running already, and nothing was asked of it "
                        "or of a module inside it before it started",
                        why="tracekit touches a module when it is asked for; a call that has "
                        "begun before that cannot be served",
                        fix="ask for it, or for its input, before the values inside it",
                    )
                continue
            self._hook(name, module, late)
        return None

    def watch_all(self, path: str, module: nn.Module) -> None:
        """Hook a module and all below it that can be served, before the model is called.

        Args:
            path: The module's name.
            module: The module.
        """
        if path not in self.paths and (
            type(module).forward is not _UNIMPLEMENTED or "forward" in module.__dict__
        ):
            self._hook(path, module, late=False)
        if not isinstance(module, _CLOSED):
            for name, child in module._modules.items():
                if child is not None:
                    self.watch_all(f"{path}.{name}" if path else name, child)

    def _hook(self, name: str, module: nn.Module, late: bool) -> None:
        if self.eager is None and is_compiled(module):
            self.eager = eagerly(module, name)
            self.eager.__enter__()
        hooked = hooks.install(module, name, self)
        # One module may stand in the tree under two names; calls of it are its visits.
        spot = self.spots.get(hooked)
        if spot is None:
            spot = self.spots[hooked] = Spot(name, late)
        self.paths[name] = spot

    def _watch_return(self, path: str) -> None:
        """Serve the output of the traced call itself, which is running, when it returns."""
        spot = self.returning = self.paths[path] = Spot(path, late=True)
        spot.visits = spot.begun = 1

    def _running_unhooked(self) -> list[nn.Module]:
        """List the modules that this run is calling at this moment without our forward."""
        found: list[nn.Module] = []
        inner: FrameType | None = None
        frame: FrameType | None = sys._getframe()
        last = self.frame
        while frame is not None and frame is not last:
            if (
                frame.f_code in hooks.CALLERS
                and inner is not None
                and inner.f_code is not _FORWARD_CODE
            ):
                module = frame.f_locals.get("self")
                if isinstance(module, nn.Module) and inner.f_code not in hooks.CALLERS:
                    found.append(module)
            inner, frame = frame, frame.f_back
        return found

    def explain(self, request: Read) -> tuple[str, str, str]:
        path = request.key[0]
        spot = self.paths.get(path)
        if spot is None:
            return ("", "", "")
        for other, other_spot in self.paths.items():
            if (
                other_spot.skipped
                and other != path
                and path.startswith(f"{other}." if other else "")
            ):
                return (
                    f"`{spell(other, '')}` was skipped",
                    "a skipped module does not run, nor what is inside it",
                    f"do not ask for values inside `{spell(other, '')}`",
                )
        if spot.skipped and request.key[1] == "skip":
            return ("it was skipped already", "", "")
        if spot.late:
            return (
                ""
                if spot.visits
                else "it was not called after that: it had run before, or does not run at all",
                "",
                "",
            )
        place = self.tree.places.get(path)
        if place is not None:
            return place._explain(self)
        parents = [
            other
            for other in self.paths
            if path.startswith(f"{other}." if other else "") and other != path
        ]
        parent = max(parents, key=len, default=None)
        if parent is not None and not self.paths[parent].visits:
            return (
                f"`{spell(parent, '')}`, which contains it, was not called either",
                "the forward pass does not call this module",
                "ask for a module that the forward calls",
            )
        return (
            "",
            _NEVER_CALLED,
            "ask for the module around it",
        )


def _calls_nothing(module: nn.Module) -> bool:
    """Whether the model cannot stand inside *module*: one of torch's own, without children."""
    return (
        not module._modules
        and type(module).__module__.startswith("torch.nn.modules.")
        and "forward" not in module.__dict__
    )


def edited_call(
    tree: Tree,
    base: str,
    once: str | None,
    call: Callable[[], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]],
    owner: object = None,
) -> Any:
    """Make a call with the stored edits, and without a block.

    Args:
        tree: The model.
        base: The path of the module whose edits, and those below it, take part.
        once: As for `Run`.
        call: As for `Run.execute`.
        owner: As for `Run`.

    Returns:
        What the call returned.
    """
    run = Run(tree, owner, once)
    run.base = base
    return run.execute(None, None, call)
