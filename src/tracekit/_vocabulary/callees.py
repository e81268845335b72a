"""Which Python function a call ends in, and the same callable with another function in it.

A forward may be a bound method, a `functools.partial`, a function under decorators, an object with
`__call__`. Its operations are those of the innermost function; to have them report, everything
around that function is made again around a copy of it. Nothing that was there before is touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

from .._bytecode.listing import list_operations
from ..errors import SourceNotAvailableError


class Callee(NamedTuple):
    """A callable, taken apart.

    Attributes:
        function: The innermost Python function.
        rebuild: Makes the callable again around another function.
    """

    # A `FunctionType`; declared as such, type checkers would bind it as a method.
    function: Any
    rebuild: Callable[[FunctionType], Callable[..., Any]]


def take_apart(target: Any, name: str) -> Callee:
    """Find the function that a call of *target* ends in.

    Args:
        target: Any callable.
        name: What the reader calls it, for messages.

    Raises:
        SourceNotAvailableError: `no-source`. It has no bytecode, or other code runs in its place.
    """
    if isinstance(target, nn.Module):
        raise SourceNotAvailableError(
            f"`{name}` calls a module, {type(target).__name__}",
            why="a module has a `.source` of its own",
            fix="ask the module: `model.<its path>.source`",
        )
    if isinstance(target, MethodType):
        return _method(target, name)
    if isinstance(target, functools.partial):
        return _partial(target, name)
    if isinstance(target, FunctionType):
        return _function(target, name)
    if isinstance(target, torch.jit.ScriptFunction):
        raise _compiled(name, "is a scripted function")
    call = type(target).__call__
    if not isinstance(target, type) and isinstance(call, FunctionType):
        inner = take_apart(call, name)
        return Callee(inner.function, lambda made: MethodType(inner.rebuild(made), target))
    kind = "a class" if isinstance(target, type) else f"a {type(target).__name__}"
    raise SourceNotAvailableError(
        f"`{name}` calls {getattr(target, '__qualname__', repr(target))}, {kind}",
        why="operations are read from the bytecode of a Python function, and this has none",
        fix="its `.input` and `.output` can be asked for",
    )


def remake(
    function: FunctionType, code: CodeType, cells: tuple[CellType, ...] | None = None
) -> FunctionType:
    """Make a function with another code, or other cells; all else are the same objects."""
    made = FunctionType(
        code,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__ if cells is None else cells,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    made.__module__ = function.__module__
    made.__doc__ = function.__doc__
    made.__annotations__ = function.__annotations__
    made.__dict__.update(function.__dict__)
    return made


def _method(target: MethodType, name: str) -> Callee:
    inner = take_apart(target.__func__, name)
    return Callee(inner.function, lambda made: MethodType(inner.rebuild(made), target.__self__))


def _partial(target: functools.partial[Any], name: str) -> Callee:
    inner = take_apart(target.func, name)

    def rebuild(made: FunctionType) -> Callable[..., Any]:
        copy = functools.partial(inner.rebuild(made), *target.args, **target.keywords)
        copy.__dict__.update(target.__dict__)
        return copy

    return Callee(inner.function, rebuild)


def _function(target: FunctionType, name: str) -> Callee:
    attributes = target.__dict__
    if "_torchdynamo_orig_callable" in attributes and "_torchdynamo_disable" not in attributes:
        raise _compiled(name, "was compiled")
    wrapped = attributes.get("__wrapped__")
    at = _cell_of(target, wrapped)
    if at is None:
        return Callee(target, lambda made: made)
    inner = take_apart(wrapped, name)

    def rebuild(made: FunctionType) -> Callable[..., Any]:
        cells = list(target.__closure__ or ())
        cells[at] = CellType(inner.rebuild(made))
        return remake(target, target.__code__, tuple(cells))

    return Callee(inner.function, rebuild)


def _cell_of(target: FunctionType, wrapped: Any) -> int | None:
    """The cell through which a decorator's function calls what it decorates.

    One that only hands it on, for instance as the default of a registry of implementations, may
    call another function: then its own operations are those that run.
    """
    if not isinstance(wrapped, (FunctionType, MethodType, functools.partial)):
        return None
    for at, cell in enumerate(target.__closure__ or ()):
        try:
            found = cell.cell_contents is wrapped
        except ValueError:
            # An empty cell.
            continue
        if found and _calls(target.__code__, target.__code__.co_freevars[at]):
            return at
    return None


@functools.lru_cache(maxsize=512)
def _calls(code: CodeType, name: str) -> bool:
    return any(op.name == name for op in list_operations(code).operations if op.kind == "call")


def _compiled(name: str, what: str) -> SourceNotAvailableError:
    return SourceNotAvailableError(
        f"`{name}` {what}: other code runs in its place",
        why="operations are read from the bytecode that runs, and report from there",
        fix="wrap the model before it is compiled or scripted",
    )
