"""Where the batch axis of each value is: stated by the model, learned, or assumed.

A size that happens to equal the number of rows says nothing: a table of shape (3, 3) is no batch
of three. So the model's own word comes first (`batch_axis`). Else two fake runs with n and n + 1
rows show which axes moved, for the inputs and outputs of all modules at once. Where fake runs
fail, or a value is no module's input or output, axis 0 is assumed if its size is that of the
batch, and the site is noted in `assumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import BatchAxisError
from .fake import FakeRun
from .leaves import Leaf, leaves_with_paths, map_with_paths
from .values import describe

Note = Callable[[str, str, Any], None]
"""Takes path, port and value of a site that a fake run has come to."""

Joined = tuple[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""Module, call, arguments and keyword arguments of a run of several inputs."""

_Seen = dict[tuple[str, str], list[dict[Leaf, tuple[int, ...]]]]

Axes = tuple[tuple[int, int], ...]
"""Batch axes of one tensor: (axis, consecutive rows for each input). Empty: no batch axis."""

AxisRule = Callable[[Leaf, Tensor], Axes]
"""The batch axes of the tensors at one site."""

_MAX_VISITS: Final = 3


class _EnoughError(BaseException):
    """Ends a fake run that has shown enough visits. Never reaches a user."""


def state_no_rule(path: str, port: str, leaf: Leaf) -> Any:
    """Say nothing about any site: all is learned."""
    del path, port, leaf
    return NotImplemented


class BatchRules:
    """The batching rule of one model.

    Args:
        stated: `(path, port, leaf) -> (axis, rows_per_input)`, `None` for a value without batch
            axis, or `NotImplemented` to have it learned. The model's `batch_axis` method.
    """

    def __init__(self, stated: Callable[[str, str, Leaf], Any] = state_no_rule) -> None:
        self.stated = stated
        self.assumed: set[tuple[str, str]] = set()
        """Sites (path, port) whose batch axis was assumed."""
        self.failure: BaseException | None = None
        """Why the sites of the last kind of input could not all be learned."""
        self._moved: dict[tuple[str, str], list[dict[Leaf, tuple[int, ...]]]] = {}
        self._known: dict[Hashable, BaseException | None] = {}
        self._mixing: tuple[str, ...] = ()
        self._doubtful: tuple[str, ...] = ()
        self._running: list[str] = []

    def learn(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        total: int,
    ) -> bool:
        """Learn the batch axes of all sites from two fake runs, once per kind of input.

        Args:
            module: Whose submodules' inputs and outputs are watched.
            call: What is called: the module or one of its methods.
            args: Joined inputs of *total* rows.
            kwargs: Joined keyword inputs.
            total: Rows of the batch, in inputs.

        Returns:
            Whether it is known now; if not, `failure` says why and axes are assumed.
        """
        kind = (getattr(call, "__name__", type(call).__name__), _kind(args, kwargs))
        if kind in self._known:
            self.failure = self._known[kind]
            return self.failure is None
        # Small batches may be special (one row is squeezed): never compare with one.
        rows = max(total, 2)
        seen: list[_Seen] = [{}, {}]
        self.failure = None
        for each, count in zip(seen, (rows, rows + 1), strict=True):
            self._running = []
            try:
                self._observe(module, call, args, kwargs, total, count, seen=each)
            except Exception as error:  # noqa: BLE001 - a model that cannot be scanned is no mistake
                self.failure = error.with_traceback(None)
                self._doubt(module, self._running)
        # What came before a failure is known all the same.
        self._compare(seen[0], seen[1], rows)
        self._known[kind] = self.failure
        self._mixing = tuple(
            f"{path}." for path, part in module.named_modules() if _mixes_rows(path, part)
        )
        return self.failure is None

    def _doubt(self, module: nn.Module, running: list[str]) -> None:
        """Assume nothing about what is inside modules that do what values tell them.

        Such a module may sort rows, or leave some out: a mixture of experts under any name. The
        model as a whole does not count: it may well look at a value without that.
        """
        inner = running[-1] if running else ""
        if inner:
            kind = type(module.get_submodule(inner))
            paths = [path for path, part in module.named_modules() if type(part) is kind]
            self._doubtful = (*self._doubtful, *(f"{path}." for path in paths if path))

    def learn_inside(
        self,
        name: Hashable,
        joined: Joined,
        total: int,
        watch: Callable[[Note], AbstractContextManager[None]],
    ) -> None:
        """Learn the batch axes of values inside a forward, once per kind of input.

        Args:
            name: What is watched; with the kind of input it tells whether it is known already.
            joined: Module, call, arguments and keyword arguments of the run.
            total: Rows of the batch, in inputs.
            watch: Makes a context in which the values are noted.
        """
        module, call, args, kwargs = joined
        kind = (name, _kind(args, kwargs))
        if kind in self._known:
            return
        self._known[kind] = None
        rows = max(total, 2)
        one: _Seen = {}
        two: _Seen = {}
        try:
            self._observe(module, call, args, kwargs, total, rows, watch, seen=one)
            self._observe(module, call, args, kwargs, total, rows + 1, watch, seen=two)
        except Exception as error:  # noqa: BLE001 - a model that cannot be scanned is no mistake
            self.failure = error.with_traceback(None)
            return
        self._compare(one, two, rows)

    def _compare(self, one: _Seen, two: _Seen, rows: int) -> None:
        """Keep which axes differ between two runs, the second with one row more."""
        for key, visits in one.items():
            more = two.get(key, [])
            found = [
                _moved(before, after, rows) for before, after in zip(visits, more, strict=False)
            ]
            if found:
                self._moved[key] = found

    def site(self, path: str, port: str, visit: int, total: int) -> AxisRule:
        """Give the rule of one site in a run of *total* rows.

        Args:
            path: The module's name.
            port: `"input"`, `"output"`, `"result"`, ...
            visit: From 0.
            total: Rows of the batch, in inputs.

        Returns:
            A function of leaf and tensor; it raises `BatchAxisError` if the tensor's size does
            not divide into the inputs.
        """

        def rule(leaf: Leaf, tensor: Tensor) -> Axes:
            return self._axes((path, port), visit, leaf, tensor, total)

        return rule

    def _axes(
        self, key: tuple[str, str], visit: int, leaf: Leaf, tensor: Tensor, total: int
    ) -> Axes:
        stated = self.stated(*key, leaf)
        if stated is None:
            return ()
        if stated is not NotImplemented:
            axis, per_input = stated
            if tensor.dim() <= axis or tensor.size(axis) != total * per_input:
                raise BatchAxisError(
                    f"`batch_axis` says axis {axis} of `{_spell(key)}`, {per_input} rows for each "
                    "input, and that is not what came",
                    seen=f"{describe(tensor)}, {total} inputs",
                    fix="correct the model's `batch_axis` method",
                )
            return ((axis, per_input),)
        if key[0].startswith(self._mixing):
            raise BatchAxisError(
                f"`{_spell(key)}` has no rows of its own for each invoke",
                seen=describe(tensor),
                why="inside a mixture of experts the tokens of all inputs are sorted by expert",
                fix="ask for the input or output of the experts as a whole, or run the inputs one "
                "by one",
            )
        visits = self._moved.get(key)
        if visits is not None:
            moved = visits[min(visit, len(visits) - 1)].get(leaf)
            if moved is not None:
                return tuple((axis, _per_input(key, tensor, axis, total)) for axis in moved)
        size = tensor.size(0) if tensor.dim() else 0
        if self.failure is not None and (
            key[0].startswith(self._doubtful) or (total > 1 and size > total and size % total == 0)
        ):
            raise BatchAxisError(
                f"which rows of `{_spell(key)}` belong to which invoke is not known",
                seen=f"{describe(tensor)}, {total} inputs; learning it from shapes failed: "
                f"{type(self.failure).__name__}: {self.failure.args[0] if self.failure.args else ''}",
                why="the model does what the values of tensors tell it, so that the rows of an "
                "input may be sorted, left out, or several for each",
                fix="state it in the model's `batch_axis`, read it in `with tracer.invoke():`, "
                "which sees all rows, or run the inputs one by one",
            )
        self.assumed.add(key)
        return ((0, 1),) if size == total and tensor.dim() else ()

    def _observe(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        total: int,
        rows: int,
        watch: Callable[[Note], AbstractContextManager[None]] | None = None,
        *,
        seen: _Seen,
    ) -> None:
        """Run on shapes with *rows* rows; put the shapes at each site into *seen*, by visit."""

        def note(path: str, port: str, value: Any) -> None:
            visits = seen.setdefault((path, port), [])
            if len(visits) < _MAX_VISITS:
                visits.append(
                    {
                        leaf: tuple(tensor.shape)
                        for leaf, tensor in leaves_with_paths(value)
                        if isinstance(tensor, Tensor)
                    }
                )
            elif not path and port == "input":
                raise _EnoughError

        handles: list[Any] = []
        # An interrupt may keep a handle from us: its hook then does nothing any more.
        over: list[bool] = []

        def remove() -> None:
            for before, after in handles:
                before.remove()
                after.remove()

        inside = nullcontext() if watch is None else watch(note)
        with FakeRun(module) as fake, torch.no_grad(), inside:
            given_args, given_kwargs = fake.inputs(args, kwargs)
            given_args, given_kwargs = self._resize(given_args, given_kwargs, total, rows)
            try:
                for path, part in module.named_modules(remove_duplicate=False):
                    handles.append(_watch(part, path, note, self._running, over))
                note("", "result", call(*given_args, **given_kwargs))
            except _EnoughError:
                pass
            finally:
                over.append(True)
                try:
                    remove()
                except BaseException:
                    remove()  # what an interrupt has left undone
                    raise

    def _resize(self, args: Any, kwargs: Any, total: int, rows: int) -> Any:
        """Give the inputs another number of rows."""

        def resize(leaf: Leaf, tensor: Any) -> Any:
            stated = self.input_axis(leaf, tensor) if isinstance(tensor, Tensor) else None
            if stated is None or tensor.size(stated[0]) != total * stated[1]:
                return tensor
            axis, per_input = stated
            wanted = torch.arange(rows * per_input, device=tensor.device)
            return tensor.index_select(axis, wanted % tensor.size(axis))

        return (
            map_with_paths(args, resize, (0,)),
            map_with_paths(kwargs, resize, (1,)),
        )

    def input_axis(self, leaf: Leaf, tensor: Tensor) -> tuple[int, int] | None:
        """Give the batch axis of a tensor among the inputs of the run, for `batch.join`.

        Args:
            leaf: `(0, i)` for the i-th positional, `(1, name)` for a keyword input.
            tensor: The input.

        Returns:
            The axis and the rows for each input; `None` for one that all inputs share.
        """
        stated: tuple[int, int] | None = self.stated("", "input", leaf)
        if stated is NotImplemented:
            return (0, 1) if tensor.dim() else None
        return stated


def _mixes_rows(path: str, part: nn.Module) -> bool:
    """Tell whether rows are not consecutive inside a module: a mixture of experts."""
    return path.rpartition(".")[2] == "experts" or type(part).__name__.endswith("Experts")


def _watch(
    part: nn.Module,
    path: str,
    note: Callable[[str, str, Any], None],
    running: list[str],
    over: list[bool],
) -> Any:
    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if not over:
            running.append(path)
            note(path, "input", (args, kwargs))

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        if not over:
            running.pop()
            note(path, "output", output)

    return (
        part.register_forward_pre_hook(before, with_kwargs=True),
        part.register_forward_hook(after),
    )


def _kind(args: Any, kwargs: Any) -> Hashable:
    """Tell apart inputs for which sites may differ: structure, dtypes, numbers of axes."""
    found: list[Hashable] = []
    for leaf, item in leaves_with_paths((args, kwargs)):
        if isinstance(item, Tensor):
            found.append((leaf, item.dtype, item.dim()))
        elif isinstance(item, (bool, int, str, type(None))):
            found.append((leaf, item))
        else:
            found.append((leaf, type(item)))
    return tuple(found)


def _moved(
    before: dict[Leaf, tuple[int, ...]], after: dict[Leaf, tuple[int, ...]], rows: int
) -> dict[Leaf, tuple[int, ...]]:
    """Find the axes whose size is proportional to the number of rows, leaf by leaf."""
    found: dict[Leaf, tuple[int, ...]] = {}
    for leaf, shape in before.items():
        other = after.get(leaf)
        if other is None or len(other) != len(shape):
            continue
        found[leaf] = tuple(
            axis
            for axis, (size, more) in enumerate(zip(shape, other, strict=True))
            if more != size and size % rows == 0 and more * rows == size * (rows + 1)
        )
    return found


def _per_input(key: tuple[str, str], tensor: Tensor, axis: int, total: int) -> int:
    per_input, rest = divmod(tensor.size(axis), total)
    if rest:
        raise BatchAxisError(
            f"the rows of `{_spell(key)}` do not divide into the {total} inputs of this run",
            seen=f"{describe(tensor)}; axis {axis} is the batch axis",
            why="each invoke has its own consecutive rows of a value",
            fix="run the inputs one by one, or read it in `with tracer.invoke():`, which sees "
            "all rows",
        )
    return per_input


def _spell(key: tuple[str, str]) -> str:
    return f"{key[0]}.{key[1]}" if key[0] else key[1]
