"""The stand-in for what a `class` statement calls, and the running of its body as a generator.

A class body is a function that no call can run: its names live in the namespace that the metaclass
prepared. `eval` takes a code object and a namespace, and returns the generator, if the code has no
free variables; for those that have some, the C function behind `eval` takes the cells, too.
"""

from __future__ import annotations

import builtins
import ctypes
import types
from types import FunctionType
from typing import Any

from .items import Driven, done
from .registry import register
from .resolve import call
from .special import asks
from .twins import twin_code


def _build_class(
    body: Any, name: str, /, *bases: Any, metaclass: Any = None, **keywords: Any
) -> Driven:
    """`class name(*bases, metaclass=..., **keywords): body`."""
    resolved = types.resolve_bases(bases)
    if metaclass is not None:
        keywords["metaclass"] = metaclass
    meta, namespace, keywords = types.prepare_class(name, resolved, keywords)
    cell = yield from _start_class_body(body, namespace)
    if resolved is not bases:
        namespace["__orig_bases__"] = bases
    made = yield from call(meta, name, resolved, namespace, **keywords)
    if isinstance(cell, types.CellType) and isinstance(made, type):
        try:
            held = cell.cell_contents
        except ValueError:
            message = (
                f"__class__ not set defining {name!r} as {made!r}. "
                "Was __classcell__ propagated to type.__new__?"
            )
            raise RuntimeError(message) from None
        if held is not made:
            message = f"__class__ set to {held!r} defining {name!r} as {made!r}"
            raise TypeError(message)
    return made


def _makes_class(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args) and asks(args[0])


register(builtins.__build_class__, _build_class, when=_makes_class)


def _start_class_body(body: FunctionType, namespace: Any) -> Driven:
    """Generator: run a class body on *namespace*.

    Args:
        body: What the compiler hands to `__build_class__`.
        namespace: What the metaclass's `__prepare__` returned; any mapping.

    Returns:
        The cell for `__class__`, or None.
    """
    twin = twin_code(body.__code__)
    if twin is None:  # a class body is never a coroutine
        return done(None)
    closure = body.__closure__
    if closure is None:
        made: Driven = eval(twin.code, body.__globals__, namespace)  # noqa: S307
        return made
    return _with_cells(twin.code, body.__globals__, namespace, closure)


def _with_cells(code: Any, names: dict[str, Any], namespace: Any, closure: Any) -> Driven:
    made: Driven = _EVALUATE(code, names, namespace, None, 0, None, 0, None, 0, None, closure)
    return made


_EVALUATE: Any = ctypes.pythonapi["PyEval_EvalCodeEx"]
_EVALUATE.restype = ctypes.py_object
_EVALUATE.argtypes = (
    ctypes.py_object,  # code
    ctypes.py_object,  # globals
    ctypes.py_object,  # locals
    ctypes.c_void_p,  # positional arguments: none
    ctypes.c_int,
    ctypes.c_void_p,  # keyword arguments: none
    ctypes.c_int,
    ctypes.c_void_p,  # defaults: none
    ctypes.c_int,
    ctypes.c_void_p,  # keyword defaults: none
    ctypes.py_object,  # closure
)
