"""Edits that stay: a block that is kept, and replayed in every later forward.

What is kept is the block's bytecode and what it closes over: closure cells are shared, as a
nested function's are; other local names have the values that they had where the edit stands;
globals are looked up when the edit runs. The frame is not kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from .._interleave.requests import Read
from .._interleave.site import spell
from .._interleave.worker import Worker
from .._protocol import UNBOUND, Abort, ask, suspending
from .._runtime import frames, memory
from .._runtime.bodies import BlockBody, Body, FunctionBody
from .._runtime.tracer import Backend, Tracer
from .._torch import hooks
from .._torch.modes import Modes
from .._torch.run import edited_call
from .._torch.tree import Node, Port, Tree
from ..errors import InvokeError, NotRunningError
from .steps import StepLoop, Steps, _go_on, go_on

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._runtime.sites import Compiled
    from .._torch.run import Run


class _There:
    """Stands for a node of the edited model among the values that an edit closes over."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class _Kept(Body):
    """A body that can be started any number of times, in any run."""

    def begin(self, tree: Tree) -> Generator[Any, Any, Any]:
        """Give a fresh generator, for a run of *tree*."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        message = (
            "a stored edit cannot be pickled: it is code. Pickle the module, or call "
            "`clear_edits()` first and make the edit again after loading"
        )
        raise TypeError(message)


class _KeptBlock(_Kept):
    """The body of a `with`, without its frame.

    Args:
        body: As captured, with its frame.
        tree: The edited model.
    """

    def __init__(self, body: BlockBody, tree: Tree) -> None:
        frame, block = body.frame, body.block
        assert frame is not None
        self.name = body.name
        self.filename = body.filename
        self.first_lineno = body.first_lineno
        self._block: Compiled = block
        self._globals = frame.f_globals
        self._closure = frames.cells(frame, block.frees) if block.frees else None
        self._cells: tuple[CellType, ...] = ()
        if block.cells:
            self._cells = frames.cells(frame, block.cells)
        loads = block.loads
        if block.is_optimized:
            wanted = tuple(name for name in block.arguments if name in loads)
            found = dict(zip(wanted, frames.pull(frame, wanted), strict=True))
        else:
            namespace = frame.f_locals
            found = {name: namespace[name] for name in loads if name in namespace}
        trees = (tree, *tree.origins)
        self._values = {
            name: _There(value._path) if isinstance(value, Node) and value._tree in trees else value
            for name, value in found.items()
        }

    def begin(self, tree: Tree) -> Generator[Any, Any, Any]:
        block = self._block
        code = block.twin.code
        values = {
            name: _node(tree, value.path) if type(value) is _There else value
            for name, value in self._values.items()
        }
        if block.is_optimized:
            function = FunctionType(code, self._globals, code.co_name, None, self._closure)
            generator = function(*(values.get(name, UNBOUND) for name in block.arguments))
        elif self._closure is None:
            generator = eval(code, self._globals, values)  # noqa: S307 - the user's own block
        else:
            generator = memory.eval_code_with_closure(code, self._globals, values, self._closure)
        if block.cells:
            frames.fill_cells(generator.gi_frame, block.cells, self._cells)
        generator.send(None)
        generator.send(None)
        result: Generator[Any, Any, Any] = generator
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> _KeptBlock:
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        # What was copied with the model is the copy's; all else is shared, as code is.
        copy._values = {name: memo.get(id(v), v) for name, v in self._values.items()}
        return copy


class _KeptFunction(_Kept):
    """A function given to `edit().run`: called with the tracer and the edited model."""

    def __init__(self, body: FunctionBody, tracer: EditingTracer, path: str) -> None:
        self.name = body.name
        self.filename = body.filename
        self.first_lineno = body.first_lineno
        body._arguments = (*body._arguments, tracer)
        self._body = body
        self._path = path

    def begin(self, tree: Tree) -> Generator[Any, Any, Any]:
        return self._body.start(_node(tree, self._path))

    def __deepcopy__(self, memo: dict[int, Any]) -> _KeptFunction:
        return self


def _node(tree: Tree, path: str) -> Node:
    module = tree.find_module(path)
    assert module is not None
    return tree.node(path, module)


class _Started(Body):
    """One start of a stored edit: what a worker runs."""

    def __init__(self, kept: _Kept, tree: Tree) -> None:
        self._kept = kept
        self._tree = tree
        self.name = kept.name
        self.filename = kept.filename
        self.first_lineno = kept.first_lineno

    def start(self, value: object) -> Generator[Any, Any, Any]:
        del value  # a stored edit has no `as` target of its own
        return self._kept.begin(self._tree)


class Edit:
    """One stored edit of a model; `model.edits` lists them.

    Attributes:
        path: The module it was made on: it is replayed in each forward of that module.
        filename: The file of its block.
        lineno: The line of its `with`, or of its function.
    """

    __slots__ = ("_kept", "_tree", "filename", "lineno", "path")

    def __init__(self, tree: Tree, path: str, kept: _Kept) -> None:
        self._tree: Callable[[], Tree | None] = weakref.ref(tree)
        self._kept = kept
        self.path = path
        self.filename = kept.filename
        self.lineno = kept.first_lineno

    def remove(self) -> None:
        """Take the edit off the model that it was listed for. Harmless if it is gone already."""
        tree = self._tree()
        if tree is not None and self in tree.edits:
            tree.edits.remove(self)

    def on(self, tree: Tree) -> Edit:
        """Give the same edit for another tree."""
        return Edit(tree, self.path, self._kept)

    def attach(self, run: Run) -> None:
        """See to it that the edit is replayed in each forward of its module in *run*."""
        path, base = self.path, run.base
        if base and path != base and not path.startswith(f"{base}."):
            return
        replay = _Replay(self._kept, run)
        if path == run.once:
            replay.start()
            return
        problem = run.watch(path)
        if problem is not None:
            raise problem
        path = run.paths[path].path
        run.interleaver.watched.add(path)
        run.interleaver.openers.setdefault(path, []).append(replay.start)

    def __deepcopy__(self, memo: dict[int, Any]) -> Edit:
        from copy import deepcopy

        tree = self._tree()
        assert tree is not None
        copy: Tree = memo.get(id(tree), tree)
        return Edit(copy, self.path, deepcopy(self._kept, memo))

    def __repr__(self) -> str:
        return f"<edit of {spell(self.path, '')}, {self.filename}:{self.lineno}>"


class _Replay:
    """A stored edit in one run: a fresh body for each forward, or one for all if it has steps."""

    __slots__ = ("_kept", "_run", "_worker")

    def __init__(self, kept: _Kept, run: Run) -> None:
        self._kept = kept
        self._run = run
        self._worker: Worker | None = None

    def start(self) -> None:
        interleaver, before = self._run.interleaver, self._worker
        if before is not None:
            if before.stepped:
                return
            interleaver.give_up(before)
            if interleaver.ended:
                return
        worker = self._worker = Worker(_Started(self._kept, self._run.tree))
        # It stands in the place of a line of the forward: the model's modes are its own.
        worker.modes = Modes()
        interleaver.add_edit(worker, before)
        interleaver.start(worker)


class _ResultOfTheRun(Port):
    """`tracer.result` of a stored edit: that of the run in which it is replayed."""

    __slots__ = ()

    def request(self, node: Any) -> Any:
        owner, path = node._site_owner()
        return Read(owner, path, self.port)

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the call of this run has returned."""
        return (yield from ask(self.request(obj)))


class EditingTracer(Tracer):
    """Keeps a block, to be replayed in every later forward; what `model.edit()` gives.

    As `tracer` in the block it means the run in which the edit is replayed.

    Args:
        model: The node that is edited.
        inplace: Edit the model itself, not a copy of the wrapper.
        backend: What runs the captured body.
    """

    result = _ResultOfTheRun("result", "result", doc="What the run's call returned.")

    def __init__(
        self, model: Node, *, inplace: bool = False, backend: Backend | None = None
    ) -> None:
        super().__init__(backend=backend)
        self.inplace = inplace
        self._edited: Node | None = model if inplace else edited_copy(model)

    def _site_owner(self) -> tuple[object, str]:
        return self._running().interleaver.owners[1], ""

    @staticmethod
    def _running() -> Run:
        run = hooks.current_run()
        if run is None:
            raise NotRunningError(
                "the tracer of an edit means the run in which the edit is replayed",
                why="none is going on",
                fix="use it in the edit's block only",
            )
        return run

    # Capture: the frame stores the `as` target itself, the rest of the block is kept.

    def value(self) -> Any:
        return self if self.inplace else (self, self._edited)

    def capture(self, frame: Any = None) -> Tracer.Info:
        info = super().capture(frame)
        info.is_direct = False
        return info

    def execute(self, body: Body) -> object:
        """Keep *body*.

        Returns:
            The edited model.
        """
        edited = self._edited
        assert edited is not None
        self._edited = None
        kept: _Kept
        if isinstance(body, BlockBody):
            kept = _KeptBlock(body, edited._tree)
        else:
            assert isinstance(body, FunctionBody)
            kept = _KeptFunction(body, self, edited._path)
        edited._tree.edits.append(Edit(edited._tree, edited._path, kept))
        return edited

    # In the block, when it is replayed.

    @property
    def iter(self) -> Steps:
        """The steps of the run: an edit that loops over them is started once in a run."""
        return Steps(self)

    def all(self) -> StepLoop:
        """All steps; the same as `iter[:]`."""
        return self.iter[:]

    def next(self, steps: int = 1) -> Self:
        """Make what is asked for from here on a matter of a later step."""
        go_on(self, steps)
        return self

    def _step_path(self, run: Run) -> str | None:
        return run.base if run.once is None else None

    def stop(self) -> None:
        """End the run in which the edit is replayed; does not return."""
        self._running().interleaver.stop()
        raise Abort

    def invoke(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: an edit has no inputs of its own.

        Raises:
            InvokeError: `invoke-refused`.
        """
        raise InvokeError(
            "an edit cannot open invokes",
            why="it is replayed in runs whose inputs are given by their traces",
            fix="open invokes in a trace of the edited model",
        )


@suspending(EditingTracer.next)
def _editing_next(self: EditingTracer, steps: int = 1) -> Any:
    return (yield from _go_on(self, steps))


class Editable:
    """The part of a wrapper that keeps edits."""

    _tree: Tree
    _path: str
    _module: nn.Module

    def edit(self, *, inplace: bool = False, backend: Backend | None = None) -> EditingTracer:
        """Keep a block that every later forward replays: `with model.edit() as (tracer, edited):`.

        Equivalent to writing the block's lines into each later trace, before its own, once for
        each forward of this module, so for each step of a generation. A block that loops over
        steps itself is started once in a run. The names that it binds are its own each time.

        A trace of this node or of one above it replays the edit, and so does a plain call of the
        wrapper. `with model.edit(inplace=True) as tracer:` edits this wrapper; else the edit is
        on `edited`, a second wrapper of the same module, which has this one's edits as well.
        `edit().run(fn)` keeps `fn(tracer, edited)` and gives the edited model.

        Args:
            inplace: Edit this wrapper.
            backend: What is given the captured block.
        """
        assert isinstance(self, Node)
        return EditingTracer(self, inplace=inplace, backend=backend)

    @property
    def edits(self) -> list[Edit]:
        """The stored edits of this node and those below it, oldest first."""
        return list(self._own_edits())

    def clear_edits(self) -> None:
        """Remove the stored edits of this node and those below it."""
        for edit in list(self._own_edits()):
            edit.remove()

    def _own_edits(self) -> Iterator[Edit]:
        path = self._path
        for edit in self._tree.edits:
            if not path or edit.path == path or edit.path.startswith(f"{path}."):
                yield edit

    def as_module(self) -> nn.Module:
        """Give an ordinary module whose forward has the edits, for code that takes modules.

        It is of the same class as the wrapped module and shares its parameters, buffers and
        children, so its `state_dict` is the same and training it trains them. Its calls
        (`forward`, and all methods that call it, such as `generate`) replay the edits, also those
        made later.

        Returns:
            The module. A deep copy of it has copies of the parameters, and the same edits.
        """
        assert isinstance(self, Node)
        return _as_module(self)


def edited_copy(node: Node) -> Any:
    """Make a second wrapper of the same module, with copies of the edits.

    Args:
        node: Any node.

    Returns:
        The node at the same path of the new wrapper.
    """
    old = node._tree
    tree = Tree(old.root, old.node_class)
    tree.aliases = {path: dict(names) for path, names in old.aliases.items()}
    tree.wrappers = old.wrappers
    tree.origins = (old, *old.origins)
    tree.validates = old.validates
    tree.edits = [edit.on(tree) for edit in old.edits]
    root = node.root
    copy = type(root).__new__(type(root))
    # As unpickling does: a subclass may make more of its state there.
    copy.__setstate__({**root.__getstate__(), "_tree": tree})
    if not node._path:
        return copy
    below = tree.node(node._path, node._module)
    # The tree holds its nodes weakly.
    object.__setattr__(below, "_top", copy)
    return below


class _EditedForward:
    """The forward of a module that `as_module` gave."""

    def __init__(self, tree: Tree, path: str, original: Any) -> None:
        self._tree = tree
        self._path = path
        self._original = original

    def runs_apart(self, tree: Tree) -> bool:
        """Tell whether a call of it opens a run of another tree than *tree*."""
        return bool(self._tree.edits) and tree is not self._tree

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self._tree.find_module(self._path)
        if not self._tree.edits or hooks.runs_module(module) or hooks.runs_tree(self._tree):
            original = self._original
            if original is None:
                return type(module).forward(module, *args, **kwargs)
            return original(*args, **kwargs)
        # By way of the module's own `forward`, which the run may have replaced by then.
        call = (partial(_call_forward, module), args, kwargs)
        return edited_call(self._tree, self._path, self._path, lambda: call)

    def __reduce__(self) -> Any:
        message = (
            "a module with stored edits cannot be pickled: they are code. Save its `state_dict()`"
        )
        raise TypeError(message)

    def __deepcopy__(self, memo: dict[int, Any]) -> _EditedForward:
        from copy import deepcopy

        return _EditedForward(deepcopy(self._tree, memo), self._path, self._original)


def adopt(tree: Tree) -> None:
    """Take over the edits of a module that `as_module` gave: a wrapper of it has them."""
    forward = vars(tree.root).get("forward")
    if isinstance(forward, _EditedForward) and not forward._path:
        tree.origins = (forward._tree, *forward._tree.origins)
        tree.edits = forward._tree.edits


def _call_forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module.forward(*args, **kwargs)


def _as_module(node: Node) -> nn.Module:
    module, old = node._module, node._tree
    made: nn.Module = type(module).__new__(type(module))
    vars(made).update(vars(module))
    for name, value in vars(module).items():
        if name.startswith("_") and name.endswith(("_hooks", "_hooks_with_kwargs")):
            # Its own to add to: those of the module do not run with it twice.
            vars(made)[name] = value.copy()
    tree = Tree(made if not node._path else old.root, old.node_class)
    if node._path:
        tree = Tree(_Above(old.root, node._path, made), old.node_class)
    tree.aliases, tree.wrappers = old.aliases, old.wrappers
    tree.origins = (old, *old.origins)
    tree.edits = old.edits  # the same list: edits made later count as well
    vars(made)["forward"] = _EditedForward(tree, node._path, vars(module).get("forward"))
    return made


class _Above(nn.Module):
    """The modules above one that `as_module` was asked for: a path leads through them to it."""

    def __init__(self, root: nn.Module, path: str, made: nn.Module) -> None:
        super().__init__()
        name, _, rest = path.partition(".")
        self._modules = dict(root._modules)
        below = root._modules[name]
        assert below is not None
        self._modules[name] = _Above(below, rest, made) if rest else made
