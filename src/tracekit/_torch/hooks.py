"""The only file that puts anything on a module, and that takes it away.

A module that a run asks for gets, for as long as the run lasts, a `forward` of its own in its
`__dict__`. torch looks `self.forward` up at each call, so a module that is called next is served
although torch has chosen its path without hooks; a direct call of `child.forward(x)` is served as
well; and since no hook stands in `_forward_hooks`, torch's fused paths stay what they are.

    the user's pre-hooks -> [input, skip] forward [output] -> the user's hooks -> the caller

Where the user has forward hooks, the output must be served after them: then one forward hook of
ours is put behind them, and before those by which transformers records hidden states.

What is put on a module is noted in `HOOKED` first and removed when no run needs it any more.
Whatever a run leaves behind, because an interrupt fell between two of our lines, is removed by
`sweep` at the next entry or exit of any tracer.

Things that don't work:

- `register_forward_hook` alone. It switches fused kernels off, misses `child.forward(x)`, and is
  not seen by a call that is under way. It costs a few times as much.
- A hook on every module. One that nobody asked for must cost nothing.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from functools import partial
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch.nn.modules import module as torch_module

from .._interleave.interleaver import NOTHING, EndRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from torch import nn

    from .run import Run
    from .tree import Tree

_CAPTURE_MODULE: Final = "transformers.utils.output_capturing"
_MISSING: Final = object()
# Held for a few lines each time; an interrupt inside one of them lets it go again.
LOCK = threading.RLock()
HOOKED: dict[int, Hooked] = {}
RUNS: dict[int, Run] = {}
"""The innermost run of each thread."""


def _codes_that_call_forward() -> frozenset[CodeType]:
    """Find the code objects of torch that call `forward` and then the forward hooks."""
    call: Any = torch.nn.Module._call_impl
    slow: Any = torch.nn.Module._slow_forward
    inner = [const for const in call.__code__.co_consts if isinstance(const, CodeType)]
    return frozenset([call.__code__, slow.__code__, *inner])


CALLERS: Final = _codes_that_call_forward()
_global_forward_hooks: Final = torch_module._global_forward_hooks


class Hooked:
    """A module that carries our forward; shared by all runs that ask for it.

    Attributes:
        module: The module.
        own: Its instance's own `forward`, from before; `_MISSING` if it had none.
        original: What is called in the end.
        installed: What stands in the module's `__dict__`.
        handle: Removes our forward hook, where the user's hooks made one necessary.
        order: The keys of `_forward_hooks` as they were before ours was added.
        runs: The runs that ask for it.
    """

    __slots__ = ("handle", "installed", "module", "order", "original", "own", "runs")

    def __init__(self, module: nn.Module, run: Run) -> None:
        self.module = module
        self.own: Any = module.__dict__.get("forward", _MISSING)
        self.original: Callable[..., Any] = module.forward
        self.installed: partial[Any] | None = None
        self.handle: Any = None
        self.order: list[int] | None = None
        self.runs: list[Run] = [run]

    def __deepcopy__(self, memo: dict[int, Any]) -> Hooked:
        """A copy of a module that is made while it is traced must not call the original."""
        from copy import deepcopy

        copy = Hooked.__new__(Hooked)
        memo[id(self)] = copy
        copy.module = deepcopy(self.module, memo)
        copy.own = self.own
        if self.own is _MISSING:
            copy.original = MethodType(type(copy.module).forward, copy.module)
        else:
            copy.original = deepcopy(self.own, memo)
        copy.installed = _stand_in(copy)
        copy.handle, copy.order, copy.runs = None, [], []
        return copy

    def put(self, stand_in: partial[Any]) -> None:
        """Put our forward on the module."""
        self.installed = self.module.__dict__["forward"] = stand_in

    def remove(self) -> None:
        """Take everything of ours off the module; harmless when it is gone already."""
        attributes = self.module.__dict__
        if self.installed is not None and attributes.get("forward") is self.installed:
            if self.own is _MISSING:
                del attributes["forward"]
            else:
                attributes["forward"] = self.own
        # The bound method holds this object, which holds the method.
        self.installed = None
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
            _restore_order(self.module._forward_hooks, self.order or [])

    def follow_hooks(self) -> None:
        """See to it that the output is served after the user's forward hooks."""
        hooks = self.module._forward_hooks
        if self.handle is None:
            self.order = list(hooks)
            self.handle = self.module.register_forward_hook(_OutputHook(self))
        _put_behind(hooks, self.handle.id)


def _put_behind(hooks: Any, ours: int) -> None:
    """Move our hook behind the user's, and transformers' recording hooks behind ours."""
    recording = [
        key for key, hook in hooks.items() if getattr(hook, "__module__", "") == _CAPTURE_MODULE
    ]
    if next(reversed(hooks)) != ours or recording:
        hooks.move_to_end(ours)
        for key in recording:
            hooks.move_to_end(key)


def _restore_order(hooks: Any, order: list[int]) -> None:
    """Put the hooks that were there before back in their places; newer ones stay last."""
    if list(hooks) == order:
        return
    newer = [key for key in hooks if key not in order]
    for key in [*order, *newer]:
        if key in hooks:
            hooks.move_to_end(key)


class _OutputHook:
    """The forward hook of a module that also has hooks of the user's."""

    __slots__ = ("hooked",)

    def __init__(self, hooked: Hooked) -> None:
        self.hooked = hooked

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        run = RUNS.get(threading.get_ident())
        if run is None or not run.forwarding:
            return None
        spot = run.spots.get(self.hooked)
        if spot is None or spot.owed is None:
            return None
        visit, spot.owed = spot.owed, None
        served = run.output(spot, visit, output)
        # torch takes `None` for "unchanged"; a module's output may well be None, but then
        # the hook has been given the same.
        return None if served is output else served

    def __deepcopy__(self, memo: dict[int, Any]) -> _OutputHook:
        # In a copy of the module it would be in nobody's list: it does nothing there.
        return _OutputHook(Hooked.__deepcopy__(self.hooked, memo))


def _forward(hooked: Hooked, /, *args: Any, **kwargs: Any) -> Any:
    """Stand in for a module's forward while a run asks for the module.

    Equivalent to the module's own forward, except that the run of this thread is told of the
    inputs before and of the output after.
    """
    run = RUNS.get(threading.get_ident())
    if run is None or not run.forwarding or (spot := run.spots.get(hooked)) is None:
        return hooked.original(*args, **kwargs)
    # torch has just looked whether there are hooks to run after us; ones that are added by
    # another thread, or by the forward itself, may come too late.
    has_hooks = hooked.module._forward_hooks or _global_forward_hooks
    interleaver = run.interleaver
    if interleaver.ended:
        raise EndRun
    visit = spot.visits
    spot.visits = visit + 1
    wanted = interleaver.wanted
    if spot.path in interleaver.watched:
        interleaver.entered(spot.path)
    if spot.input_key in wanted:
        args, kwargs = interleaver.visit(spot.input_key, visit, (args, kwargs))
    else:
        interleaver.passed.append((spot.input_key, visit))
        if spot.input_key in interleaver.recorders:
            interleaver.recorded(spot.input_key, visit, (args, kwargs))
    spot.begun = visit + 1
    output: Any = NOTHING
    if spot.skip_key in wanted:
        output = interleaver.visit(spot.skip_key, visit, NOTHING)
    if output is NOTHING:
        output = (spot.forward or hooked.original)(*args, **kwargs)
    else:
        spot.skipped += 1
    if (
        has_hooks
        and (hooked.module._forward_hooks or _global_forward_hooks)
        and sys._getframe(1).f_code in CALLERS
    ):
        hooked.follow_hooks()
        spot.owed = visit
        return output
    return run.output(spot, visit, output)


def is_installed(forward: object) -> bool:
    """Tell whether what stands in a module's `__dict__` as its forward was put there here."""
    return type(forward) is partial and forward.func is _forward


def _stand_in(hooked: Hooked) -> partial[Any]:
    """Make the `forward` that is put on a module.

    Its signature is the original's: `generate` of transformers decides by the names of the
    forward's parameters which inputs to make.
    """
    made = partial(_forward, hooked)
    made.__wrapped__ = hooked.original  # type: ignore[attr-defined]
    return made


def install(module: nn.Module, path: str, run: Run) -> Hooked:
    """Put our forward on *module*, or join the runs for which it is there already.

    Args:
        module: The module.
        path: Its name in the run's tree, which keeps what is put on it for later runs.
        run: Asks for it.
    """
    key = id(module)
    with LOCK:
        hooked = HOOKED.get(key)
        if hooked is not None:
            if run not in hooked.runs:
                hooked.runs.append(run)
            return hooked
        spares: dict[str, partial[Any]] = run.tree.spares
        stand_in = spares.get(path)
        if stand_in is not None and "forward" not in module.__dict__:
            hooked = cast("Hooked", stand_in.args[0])
            if (
                hooked.module is module
                and not hooked.runs
                and getattr(hooked.original, "__func__", None) is type(module).forward
            ):
                HOOKED[key] = hooked
                hooked.runs.append(run)
                hooked.put(stand_in)
                return hooked
        hooked = HOOKED[key] = Hooked(module, run)
        stand_in = _stand_in(hooked)
        if hooked.own is _MISSING:
            spares[path] = stand_in
        hooked.put(stand_in)
    return hooked


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """Give the forward that a call of *module* runs, ours aside."""
    hooked = HOOKED.get(id(module))
    if hooked is not None and module.__dict__.get("forward") is hooked.installed:
        return hooked.original
    forward: Callable[..., Any] = module.forward
    return forward


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let calls of *module* run *forward*, for a fake run in between."""
    attributes = module.__dict__
    before = attributes.get("forward", _MISSING)
    attributes["forward"] = forward
    try:
        yield
    finally:
        if before is _MISSING:
            del attributes["forward"]
        else:
            attributes["forward"] = before


def current_run() -> Run | None:
    """Give the innermost run of this thread."""
    return RUNS.get(threading.get_ident())


def runs_tree(tree: Tree) -> bool:
    """Tell whether this thread is inside a run of a model."""
    run = RUNS.get(threading.get_ident())
    while run is not None:
        if run.tree is tree:
            return True
        run = run.outer
    return False


def runs_apart(module: nn.Module, tree: Tree) -> bool:
    """Tell whether a call of *module* opens a run of another tree, for the edits that it has."""
    apart = getattr(forward_of(module), "runs_apart", None)
    return apart is not None and bool(apart(tree))


def runs_module(module: nn.Module) -> bool:
    """Tell whether this thread is inside a run of a model that is this module."""
    run = RUNS.get(threading.get_ident())
    while run is not None:
        if run.tree.root is module:
            return True
        run = run.outer
    return False


def begin(run: Run) -> None:
    """Make *run* the innermost one of this thread."""
    if HOOKED or RUNS:
        sweep()
    thread = threading.get_ident()
    run.outer = RUNS.get(thread)
    RUNS[thread] = run


def end(run: Run) -> None:
    """Take off all that *run* has put on modules, and make the outer run the innermost."""
    with LOCK:
        for hooked in run.spots:
            runs = hooked.runs
            if run in runs:
                runs.remove(run)
            if not runs:
                hooked.remove()
                HOOKED.pop(id(hooked.module), None)
    thread = threading.get_ident()
    if RUNS.get(thread) is run:
        if run.outer is None:
            del RUNS[thread]
        else:
            RUNS[thread] = run.outer
    run.outer = None
    if HOOKED or RUNS:
        sweep()


def sweep() -> None:
    """Take off what runs have left behind that are over.

    A run of this thread is over when the frame that executes it is no longer on the stack; one of
    another when that thread is. The stack of a thread that runs is not looked at: it changes under
    our eyes. What such a thread has left it takes off itself, when it traces again.
    """
    with LOCK:
        # In this order: a thread may begin, and begin a run, in between.
        runs = list(RUNS.items())
        threads = set(sys._current_frames())
        here = threading.get_ident()
        frames = _frames_of(sys._getframe())
        alive: set[int] = set()
        for thread, run in runs:
            innermost: Run | None = run
            while innermost is not None and (
                id(innermost.frame) not in frames if thread == here else thread not in threads
            ):
                innermost.frame = None
                innermost = innermost.outer
            if innermost is not run and RUNS.get(thread) is run:
                if innermost is None:
                    RUNS.pop(thread, None)
                else:
                    RUNS[thread] = innermost
            while innermost is not None:
                alive.add(id(innermost))
                innermost = innermost.outer
        for key, hooked in list(HOOKED.items()):
            hooked.runs = [run for run in hooked.runs if id(run) in alive]
            if not hooked.runs:
                hooked.remove()
                HOOKED.pop(key, None)


def _frames_of(frame: FrameType | None) -> set[int]:
    found = set()
    while frame is not None:
        found.add(id(frame))
        frame = frame.f_back
    return found
