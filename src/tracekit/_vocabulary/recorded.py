"""What a cache has recorded: a dictionary by path, and a tree to walk through.

Reading it asks the model for nothing: it works after the block, after `stop()`, after an error, and
on a machine without the model.
"""

from __future__ import annotations

import difflib
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from .._torch.tree import spelled
from .._torch.values import describe, first_input, tensors
from ..errors import NotCachedError

if TYPE_CHECKING:
    import os

    from .cache import Pending

_MISSING: Final = object()
_SHOWN: Final = 12
_WORDS: Final = ("output", "inputs", "input")

Aliases = dict[str, dict[str, str]]
"""Of a path, further names of what is below it: alias to real path below."""


class Entry:
    """What one visit of one module gave: `output`, `inputs`, `input`.

    Equivalent to a list of itself: `entry[0]` is the entry, so that code which counts visits need
    not ask whether there was one or several.
    """

    __slots__ = ("_inputs", "_output", "_pending")

    def __init__(self, output: Any = _MISSING, inputs: Any = _MISSING) -> None:
        self._output = output
        self._inputs = inputs
        self._pending: Pending | None = None

    @property
    def output(self) -> Any:
        """What the module gave to its caller.

        Raises:
            NotCachedError: `not-cached`. Outputs were not recorded.
        """
        return self._get("_output", "output")

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that its forward got: `(args, kwargs)`.

        Raises:
            NotCachedError: `not-cached`. Inputs were not recorded.
        """
        pair: tuple[tuple[Any, ...], dict[str, Any]] = self._get("_inputs", "inputs")
        return pair

    @property
    def input(self) -> Any:
        """The first positional argument, else the first keyword argument; `None` without any.

        Raises:
            NotCachedError: `not-cached`. Inputs were not recorded.
        """
        args, kwargs = self.inputs
        return first_input((args, kwargs)) if args or kwargs else None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that it holds."""
        return sum(tensor.nbytes for part in self._parts() for tensor in tensors(part))

    def _parts(self) -> list[Any]:
        return [part for part in (self._output, self._inputs) if part is not _MISSING]

    def _get(self, slot: str, name: str) -> Any:
        value = getattr(self, slot)
        if value is _MISSING:
            option = "include_output" if name == "output" else "include_inputs"
            raise NotCachedError(
                f"`{name}` was not recorded by this cache",
                seen=repr(self),
                why="a cache records what it was asked for when it was made",
                fix=f"`tracer.cache({option}=True)`"
                if option == "include_inputs"
                else f"`tracer.cache(...)` without `{option}=False`; or the module began before "
                "the cache and did not end in the run",
            )
        if self._pending is not None:
            self._pending.wait()
            self._pending = None
        return value

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Entry]:
        yield self

    def __getitem__(self, visit: Any) -> Any:
        return (self,)[visit]

    def __getstate__(self) -> tuple[Any, Any]:
        parts = tuple(
            None if part is _MISSING else (self._get(slot, slot),)
            for slot, part in (("_output", self._output), ("_inputs", self._inputs))
        )
        return parts[0], parts[1]

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._output, self._inputs = (_MISSING if part is None else part[0] for part in state)
        self._pending = None

    def __repr__(self) -> str:
        shown = [
            f"{name}={describe(part)}"
            for name, part in (("output", self._output), ("inputs", self._inputs))
            if part is not _MISSING
        ]
        return f"Entry({', '.join(shown)})"


class Entries(list[Entry]):
    """Several visits of one module: a list of entries, whose parts are lists as well."""

    @property
    def output(self) -> list[Any]:
        """The outputs, visit by visit."""
        return [entry.output for entry in self]

    @property
    def inputs(self) -> list[Any]:
        """The arguments, visit by visit."""
        return [entry.inputs for entry in self]

    @property
    def input(self) -> list[Any]:
        """The first arguments, visit by visit."""
        return [entry.input for entry in self]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that they hold."""
        return sum(entry.nbytes for entry in self)


class Keys(KeysView[str]):
    """The paths of a cache; `in` takes every spelling that the cache takes."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"


class _Navigable:
    """What a cache and its parts have in common: parts by attribute, the values at a path."""

    _path: str

    def _whole(self) -> CacheDict:
        raise NotImplementedError

    @property
    def output(self) -> Any:
        """The output recorded at this path; a list if there were several visits.

        Raises:
            NotCachedError: `not-cached`. Nothing was recorded here.
        """
        return self._here().output

    @property
    def inputs(self) -> Any:
        """The arguments recorded at this path; a list if there were several visits.

        Raises:
            NotCachedError: `not-cached`. Nothing was recorded here.
        """
        return self._here().inputs

    @property
    def input(self) -> Any:
        """The first argument recorded at this path; a list if there were several visits.

        Raises:
            NotCachedError: `not-cached`. Nothing was recorded here.
        """
        return self._here().input

    def _here(self) -> Entry | Entries:
        whole = self._whole()
        found: Entry | Entries | None = dict.get(whole, self._path)
        if found is None:
            raise whole._not_cached(self._path)
        return found

    def _step(self, name: str) -> str | None:
        """The path of the part called *name*; `None` if there is none."""
        whole = self._whole()
        below = f"{self._path}.{name}" if self._path else name
        if below in whole._all_paths():
            return below
        real = whole._aliases.get(self._path, {}).get(name)
        if real is not None:
            return f"{self._path}.{real}" if self._path else real
        return None

    def _listed(self) -> list[str]:
        """The recorded paths at and below this one."""
        start = f"{self._path}." if self._path else ""
        return [p for p in dict.keys(self._whole()) if p == self._path or p.startswith(start)]

    def _part(self, name: str) -> CacheView | None:
        path = self._step(name)
        return None if path is None else CacheView(self._whole(), path)

    def _number(self, key: int | slice) -> Any:
        """The part below with a number; where none has one, a visit of the module here."""
        numbers = [int(name) for name in self._names() if name.isdecimal()]
        if not numbers and self._path and self._path in self._listed():
            return self._here()[key]
        if isinstance(key, slice):
            stop = max(numbers, default=-1) + 1
            wanted = range(*key.indices(stop))
            return [self._part(str(number)) for number in wanted if number in numbers]
        if key < 0:
            key += max(numbers, default=-1) + 1
        part = self._part(str(key))
        if part is None:
            raise self._whole()._not_cached(f"{self._path}.{key}" if self._path else str(key))
        return part

    def _names(self) -> list[str]:
        """The names of the parts directly below, aliases included."""
        start = f"{self._path}." if self._path else ""
        whole = self._whole()
        names = dict.fromkeys(
            path.removeprefix(start).partition(".")[0]
            for path in whole._all_paths()
            if path.startswith(start) and path != self._path
        )
        names.pop("", None)
        return [*names, *whole._aliases.get(self._path, ())]

    def __getattr__(self, name: str) -> CacheView:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _WORDS:
            # Their error is an `AttributeError`, which led here.
            self._here()
        part = self._part(name)
        if part is not None:
            return part
        if name == "model" and not self._path:
            return CacheView(self._whole(), "")
        raise self._whole()._not_cached(f"{self._path}.{name}" if self._path else name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *(n for n in self._names() if n.isidentifier())})

    def _ipython_key_completions_(self) -> list[str]:
        return self._listed()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors recorded at and below this path."""
        whole = self._whole()
        return sum(dict.__getitem__(whole, path).nbytes for path in self._listed())

    def __repr__(self) -> str:
        whole = self._whole()
        paths = self._listed()
        where = f" at {self._path}" if self._path else ""
        lines = [f"<{type(self).__name__}{where}: {len(paths)} modules, {amount(self.nbytes)}>"]
        for path in paths[:_SHOWN]:
            found = dict.__getitem__(whole, path)
            visits = f" ({len(found)} visits)" if len(found) > 1 else ""
            lines.append(f"  {path or 'model'}: {found[0]!r}{visits}")
        if len(paths) > _SHOWN:
            lines.append(f"  ... {len(paths) - _SHOWN} more")
        return "\n".join(lines)


class CacheDict(_Navigable, dict[str, "Entry | Entries"]):
    """What a cache has recorded: a dictionary by path, and a tree to walk through.

    `cache["transformer.h.0"].output` and `cache.transformer.h[0].output` are the same value. The
    path of the model itself is `""`. Of a module with several visits there is a list of entries:
    `cache[path][2].output` and `cache[path].output[2]` are the same. A name that a dictionary has
    already (`keys`, `items`) is reached by its path only.

    Example:
        >>> import tracekit, torch
        >>> model = tracekit.Model(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()))
        >>> with model.trace(torch.ones(1, 2)) as tracer:
        ...     cache = tracer.cache()
        >>> list(cache)
        ['0', '1', '']
        >>> cache[1].output.shape == cache["1"].output.shape == cache.output.shape
        True
    """

    _path = ""

    def __init__(self, data: Mapping[str, Any] = {}, aliases: Aliases | None = None) -> None:
        super().__init__(data)
        self._aliases = {} if aliases is None else aliases
        self._known: tuple[int, set[str]] = (-1, set())

    def _whole(self) -> CacheDict:
        return self

    def _add(self, path: str, entry: Entry) -> None:
        found = dict.get(self, path)
        if found is None:
            self[path] = entry
        elif isinstance(found, Entries):
            found.append(entry)
        else:
            self[path] = Entries([found, entry])

    def _all_paths(self) -> set[str]:
        """The recorded paths and all those above them."""
        size, known = self._known
        if size != len(self):
            known = set()
            for path in dict.keys(self):
                while path not in known:
                    known.add(path)
                    path = path.rpartition(".")[0]
            self._known = (len(self), known)
        return known

    def _real(self, key: str) -> str | None:
        """The recorded path that *key* means; `None` if there is none."""
        if dict.__contains__(self, key):
            return key
        view: _Navigable = self
        path = ""
        for name in key.split("."):
            step = view._step(name)
            if step is None:
                break
            path, view = step, CacheView(self, step)
        else:
            return path if dict.__contains__(self, path) else None
        if key == "model":
            return self._real("")
        return self._real(key.removeprefix("model.")) if key.startswith("model.") else None

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, int | slice):
            return self._number(key)
        real = self._real(key) if isinstance(key, str) else None
        if real is None:
            raise self._not_cached(key)
        return dict.__getitem__(self, real)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._real(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The entry at *key*, a path or one written with aliases; else *default*."""
        real = self._real(key)
        return default if real is None else dict.__getitem__(self, real)

    def keys(self, *, alias: bool = False) -> Any:
        """The paths.

        Args:
            alias: Written with the aliases that `rename=` gave, where there are some.
        """
        if not alias:
            return Keys(self)
        return [self._spelled(path) for path in dict.keys(self)]

    def _spelled(self, path: str) -> str:
        return spelled(self._aliases, path)

    def _not_cached(self, key: object) -> NotCachedError:
        known = list(dict.keys(self))
        near = difflib.get_close_matches(str(key), known, n=3, cutoff=0.5)
        below = [path for path in known if path.startswith(f"{key}.")]
        if not known:
            seen = "it is empty"
        elif below:
            seen = f"below it are: {', '.join(below[:3])}{', ...' if len(below) > 3 else ''}"
        else:
            shown = near or known[:3]
            seen = (
                f"{'near' if near else 'it has'}: {', '.join(path or repr('') for path in shown)}"
            )
        return NotCachedError(
            f"nothing was recorded for {key!r}",
            seen=seen,
            why="a cache records the modules that it was asked for, when they run after that",
            fix="name the module in `tracer.cache(modules=[...])`, before the model runs it",
        )

    def save(self, path: str | os.PathLike[str] | None = None) -> Self:
        """Write all that was recorded to a file; without *path*, keep the cache past the block.

        Args:
            path: A file in the safetensors format: tensors of any dtype, and the structure of the
                values as its metadata. What is neither a tensor, a container nor a plain value
                (a KV cache) is left out.

        Returns:
            The cache.
        """
        if path is not None:
            from .cachefile import write

            write(self, path)
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> CacheDict:
        """Open what `save` wrote. Tensors are read when they are asked for.

        Args:
            path: The file.
            device: Where the tensors go.

        Returns:
            A cache; named tuples, dataclasses and model outputs come back as `Record`s.
        """
        from .cachefile import read

        return read(path, device)

    def __reduce__(self) -> Any:
        return CacheDict, (dict(self), self._aliases)

    __hash__ = None


class CacheView(_Navigable, Mapping[str, "Entry | Entries"]):
    """A part of a cache: what was recorded at and below one path. It shows what the cache has."""

    def __init__(self, cache: CacheDict, path: str) -> None:
        self._cache = cache
        self._path = path

    def _whole(self) -> CacheDict:
        return self._cache

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self._listed())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | slice):
            return self._number(key)
        found = self._cache.get(f"{self._path}.{key}" if self._path else key)
        return self._cache[key] if found is None else found

    def __contains__(self, key: object) -> bool:
        return f"{self._path}.{key}" in self._cache or key in self._cache

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CacheView)
            and other._cache is self._cache
            and other._path == self._path
        )

    def __hash__(self) -> int:
        return hash((id(self._cache), self._path))

    def keys(self) -> KeysView[str]:
        """The full paths."""
        return super().keys()

    def items(self) -> ItemsView[str, Entry | Entries]:
        """Full paths and entries."""
        return super().items()

    def values(self) -> ValuesView[Entry | Entries]:
        """The entries."""
        return super().values()


def amount(nbytes: int) -> str:
    """Write a number of bytes as people do: `1.5 MB`; powers of 1000."""
    size = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
