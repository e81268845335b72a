"""Record the values of many modules at once: `cache = tracer.cache()`.

A cache is filled while the model runs, when all blocks are done with a value; it keeps copies, so
what happens to the model's tensors later does not reach it. What it hands out is in `recorded.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._interleave.site import spell
from .._runtime.saving import save as mark_saved
from .._torch.batch import rows_of
from .._torch.leaves import map_with_paths
from .._torch.rename import bind_aliases
from .._torch.tree import Node, Tree
from .._torch.values import map_tensors
from ..errors import NotRunningError, OutOfOrderError, UnknownNameError
from .recorded import Aliases, CacheDict, Entry

if TYPE_CHECKING:
    from .._interleave.requests import Key
    from .._interleave.worker import Worker
    from .._torch.run import Run


class Pending:
    """Copies from a GPU that may still be under way."""

    def __init__(self) -> None:
        self._events: dict[Any, Any] = {}

    def note(self, tensor: Tensor) -> None:
        """A copy of *tensor* was queued on its device's current stream."""
        stream = torch.cuda.current_stream(tensor.device)
        event = self._events.get(stream.cuda_stream)
        if event is None:
            event = self._events[stream.cuda_stream] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)

    def wait(self) -> None:
        """Wait until all copies that were queued so far have arrived."""
        for event in self._events.values():
            event.synchronize()


class Cache:
    """Records modules while a model runs, into `data`.

    Equivalent to a forward hook on each module that keeps a clone of what it sees, except that
    what blocks have changed is recorded as they left it, and that other modules cost nothing.

    Args:
        modules: Nodes, modules, paths or patterns such as `"*.mlp"`; `None` for all.
        device: Where the copies go; `None`: they stay where the values are.
        dtype: Of the copies of floating-point tensors; `None`: as the values have it.
        detach: Copies are not part of the graph.
        include_output: Record outputs.
        include_inputs: Record arguments.
        non_blocking: Copies from a GPU go to pinned memory while the model runs on; a read waits
            for them.
        rename: Further names, as for a model, for reading the cache.
        alias: The same the other way round: name to path.
    """

    def __init__(
        self,
        modules: Iterable[Any] | Node | nn.Module | str | None = None,
        device: str | torch.device | None = "cpu",
        dtype: torch.dtype | None = None,
        detach: bool = True,
        include_output: bool = True,
        include_inputs: bool = False,
        *,
        non_blocking: bool = False,
        rename: dict[Any, str | list[str]] | None = None,
        alias: dict[str, str] | None = None,
    ) -> None:
        self.modules = modules
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.detach = detach
        self.ports = [
            port
            for port, wanted in (("input", include_inputs), ("output", include_output))
            if wanted
        ]
        if not self.ports:
            raise ValueError("a cache without outputs and inputs records nothing")
        self.rename = rename or {}
        self.alias = alias or {}
        self.data = CacheDict()
        self.rows: slice | None = None
        self._pending = Pending() if non_blocking and torch.cuda.is_available() else None
        self._open: dict[str, list[Entry]] = {}

    def __repr__(self) -> str:
        return f"<Cache of {' and '.join(f'{port}s' for port in self.ports)}>\n{self.data!r}"

    # Which modules.

    def attach(self, run: Run, model: Node, worker: Worker | None) -> None:
        """Record from now on.

        Args:
            run: What is going on.
            model: The node that was traced.
            worker: The block that wants it: only its rows are recorded.

        Raises:
            UnknownNameError: `unknown-name`. There is no such module.
            NeverRanError: `never-ran`. A module that was named is a container, or is running.
        """
        tree = model._tree
        self.data._aliases = self._names(tree)
        paths = self._paths(model)
        recorder = _Recorder(self, run, None if worker is None else worker.rows)
        if self.modules is None and not run.began:
            run.watch_all(model._path, model._module)
        for path in paths:
            if path not in run.paths:
                problem = run.watch(path)
                if problem is not None:
                    if self.modules is not None:
                        raise problem
                    continue
            # Shared modules are recorded under the name by which the run knows them.
            for port in self.ports:
                run.interleaver.record(run.paths[path].path, port, recorder)

    def _paths(self, model: Node) -> list[str]:
        tree, wanted = model._tree, self.modules
        if wanted is None:
            base = model._path
            return [
                f"{base}.{name}" if base and name else base or name
                for name, _ in model._module.named_modules()
            ]
        if isinstance(wanted, str | Node | nn.Module):
            wanted = [wanted]
        paths: dict[str, None] = {}
        for each in wanted:
            paths.update(dict.fromkeys(self._resolve(tree, model, each)))
        return list(paths)

    @staticmethod
    def _resolve(tree: Tree, model: Node, wanted: Any) -> list[str]:
        root = model.root
        if isinstance(wanted, Node):
            if wanted._tree.root is not tree.root:
                raise UnknownNameError(
                    f"`{spell(wanted._path, '')}` belongs to another model than the one traced"
                )
            return [wanted._path]
        if isinstance(wanted, nn.Module):
            path = tree.path_of(wanted, "?")
            if tree.find_module(path) is not wanted:
                raise UnknownNameError(f"this {type(wanted).__name__} is no part of the model")
            return [path]
        if not isinstance(wanted, str):
            raise TypeError(f"a node, a module or a path is cached, not {wanted!r}")
        if "*" in wanted or "?" in wanted:
            found = [node._path for node in root.find(wanted)]
            if not found:
                raise UnknownNameError(f"no module's path matches {wanted!r}")
            return found
        path = wanted.removeprefix("model.") if "model" not in root._module._modules else wanted
        node = root.get("" if path == "model" else path)
        if not isinstance(node, Node):
            raise UnknownNameError(f"{wanted!r} is no module")
        return [node._path]

    def _names(self, tree: Tree) -> Aliases:
        names: Aliases = {path: dict(below) for path, below in tree.aliases.items()}
        if self.rename or self.alias:
            scratch = Tree(tree.root, tree.node_class)
            scratch.aliases = names
            if self.rename:
                bind_aliases(scratch, self.rename)
            for name, real in self.alias.items():
                bind_aliases(scratch, {real: name})
        return names

    # Copies.

    def copy(self, tensor: Tensor) -> Tensor:
        """Make a copy that shares no memory, converted as asked for."""
        if self.detach:
            tensor = tensor.detach()
        dtype = tensor.dtype
        if self.dtype is not None and (tensor.is_floating_point() or tensor.is_complex()):
            dtype = self.dtype
        device = self.device
        if device is None or tensor.device == device or tensor.is_meta:
            return tensor.to(dtype=dtype, copy=True)
        if dtype.itemsize < tensor.dtype.itemsize:
            # Converted where it is: less has to travel.
            tensor = tensor.to(dtype)
        if self._pending is not None and self.detach and tensor.is_cuda and device.type == "cpu":
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            pinned.copy_(tensor, non_blocking=True)
            self._pending.note(tensor)
            return pinned.to(dtype) if dtype != pinned.dtype else pinned
        return tensor.to(device=device, dtype=dtype, copy=True)

    def take(self, run: Run, rows: slice | None, key: Key, visit: int, value: Any) -> None:
        """Record what stands at a site."""
        path, port = key
        if rows is None:
            kept = map_tensors(value, self.copy)
        else:
            assert run.rules is not None
            rule = run.rules.site(path, port, visit, run.total)
            kept = map_with_paths(
                value,
                lambda leaf, item: (
                    self.copy(rows_of(item, rows, rule(leaf, item)))
                    if isinstance(item, Tensor)
                    else item
                ),
            )
        if port == "input":
            entry = Entry(inputs=kept)
            self.data._add(path, entry)
            if "output" in self.ports:
                self._open.setdefault(path, []).append(entry)
        else:
            waiting = self._open.get(path)
            if waiting:
                entry = waiting.pop()
                entry._output = kept
            else:
                entry = Entry(output=kept)
                self.data._add(path, entry)
        if self._pending is not None:
            entry._pending = self._pending


class _Recorder:
    """One cache in one run."""

    __slots__ = ("_cache", "_rows", "_run")

    def __init__(self, cache: Cache, run: Run, rows: slice | None) -> None:
        self._cache = cache
        self._run = run
        self._rows = rows

    def __call__(self, key: Key, visit: int, value: Any) -> None:
        self._cache.take(self._run, self._rows, key, visit, value)


class CachingTracer:
    """The part of a tracer that makes caches."""

    model: Any
    _current: Run | None
    _caches: list[Cache]

    def cache(
        self,
        modules: Iterable[Any] | Node | nn.Module | str | None = None,
        device: str | torch.device | None = "cpu",
        dtype: torch.dtype | None = None,
        detach: bool = True,
        include_output: bool = True,
        include_inputs: bool = False,
        *,
        non_blocking: bool = False,
        rename: dict[Any, str | list[str]] | None = None,
        alias: dict[str, str] | None = None,
    ) -> CacheDict:
        """Record the values of many modules from here on, after all edits.

        Equivalent to a forward hook on each module that keeps a clone. In the block of an invoke
        only its rows are recorded.

        Args:
            modules: Nodes, modules, paths or patterns such as `"*.mlp"`; `None` for all that
                run. Of a call that is under way only the output is recorded.
            device: Where the copies go; `None`: they stay where the values are.
            dtype: Of the copies of floating-point tensors; `None`: as the values have it.
            detach: Copies are not part of the graph.
            include_output: Record outputs.
            include_inputs: Record arguments.
            non_blocking: Copies from a GPU go to pinned memory while the model runs on.
            rename: Further names for reading the cache: `{path, pattern or class: name}`.
            alias: The same the other way round: `{name: path}`.

        Returns:
            A dictionary by path that is also a tree to walk through; filled as the model runs.

        Raises:
            NotRunningError: `not-running`. The tracer's block is not running.
            OutOfOrderError: `out-of-order`. The model has run to its end.
            UnknownNameError: `unknown-name`. There is no such module.
        """
        run = self._current
        if run is None:
            raise NotRunningError(
                "`tracer.cache()` records a run, and this tracer has none",
                why="the run of a block begins and ends with its `with`",
                fix="call it inside the block",
            )
        if run.interleaver.over or run.interleaver.closing:
            raise OutOfOrderError(
                "`tracer.cache()` comes too late: the model has run to its end",
                why="a cache records what the model comes to after the line that makes it",
                fix="make it in the first line of the block",
            )
        cache = Cache(
            modules,
            device,
            dtype,
            detach,
            include_output,
            include_inputs,
            non_blocking=non_blocking,
            rename=rename,
            alias=alias,
        )
        worker = run.interleaver.current
        cache.attach(run, self.model, worker)
        if worker is self._main_worker():
            self.__dict__.setdefault("_caches", []).append(cache)
        return mark_saved(cache.data)

    def _main_worker(self) -> Worker | None:
        worker: Worker | None = getattr(self, "_main", None)
        return worker

    def _run_again(self, run: Run) -> None:
        """Caches of the trace's own block go on where its invokes need several runs."""
        for cache in self.__dict__.get("_caches", ()):
            cache.attach(run, self.model, None)
