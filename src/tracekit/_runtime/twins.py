"""Who is rewritten, and what was made of them.

A code object is judged once: by where it stands, not by what it does, because almost every
function holds an instruction that *can* run somebody else's Python. The standard library and
installed packages are called as they stand; everything else gets a twin. Verdicts and twins are
kept by `id(code)`: hashing a code object reads the whole code, and two equal code objects of two
files must not share one twin, or a traceback names the wrong file.

Some modules of the standard library are plumbing: they stand between one piece of user code and
the next and do nothing of their own. Those are rewritten as if the user had written them.

Things that don't work: judging by the names a function loads (95 to 99 % would be straight, but
the answer must then be redone whenever a callee appears); keeping a strong reference to each code
object (a notebook makes new ones all day).
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._bytecode.cut import is_with_item
from .._bytecode.facts import NESTED_GENERATORS_USE_THE_C_STACK

if TYPE_CHECKING:
    from .._bytecode.generator import Twin

_F = TypeVar("_F", bound=Callable[..., Any])

PLUMBING: Final = frozenset(
    {
        "_collections_abc",  # the mixins: Sequence.__iter__, Mapping.get, MutableMapping.update
        "collections",  # UserDict, UserList, ChainMap, Counter: loops over what they are given
        "contextlib",  # @contextmanager, ExitStack, closing: call user code on both sides
        "dataclasses",  # asdict, replace, and the wrapper of a generated __repr__
        "functools",  # cached_property, singledispatch, partialmethod, total_ordering
        "heapq",  # nlargest, nsmallest, merge: call their key and iterate
        "operator",  # the Python versions, where there is no C version
    },
)
"""Modules of the standard library that are rewritten, because they only pass calls on."""

_HANDS_ITEMS_ON: Final = {
    "tqdm.__iter__": os.path.join("tqdm", "std.py"),
    "tqdm_notebook.__iter__": os.path.join("tqdm", "notebook.py"),
}
"""Methods of installed packages that only hand on the items of what they were made of."""

_OURS: Final = str(Path(__file__).resolve().parent.parent) + os.sep
_SITE: Final = re.compile(r"^(.*[\\/](?:site|dist)-packages)[\\/]([^\\/]+)")
_NAMES_US: Final = re.compile(
    rb"^Requires-Dist:\s*tracekit\b(?![-_.]\w)", re.MULTILINE | re.IGNORECASE
)
# What this project requires cannot require it, so the others need not be looked through for it.
_REQUIRED: Final = frozenset({"bytecode", "torch", "transformers"})
_FROZEN: Final = re.compile(r"^<frozen ([\w.]+)>$")

_VERDICTS: dict[int, bool] = {}
_KEPT: dict[int, weakref.ref[CodeType]] = {}
_NEVER: dict[int, weakref.ref[CodeType]] = {}
_ALWAYS: dict[int, CodeType] = {}
_PATHS: dict[str, bool] = {}
_DEPENDANTS: dict[str, frozenset[str]] = {}
_MARKED: set[str] = set()
_TWINS: dict[int, Twin] = {}
_KEPT_FUNCTIONS: dict[FunctionType, FunctionType] = {}
MANY_FUNCTIONS: Final = 100
"""How many functions are kept: a notebook, or a loop around a `def`, makes new ones all day."""

ORIGINALS: dict[int, Twin] = {}
"""id of a twin's code -> the twin; for those who find our code in a frame or a traceback."""


_C_BYTES_A_LEVEL: Final = 512
"""C stack that one nested twin takes on 3.11 (about 280 measured), with something to spare."""


def _library_folders() -> tuple[str, ...]:
    found = set()
    for key in ("stdlib", "platstdlib"):
        folder = sysconfig.get_path(key)
        if folder:
            found |= {os.path.abspath(folder) + os.sep, os.path.realpath(folder) + os.sep}
    # Some distributions keep the library in a zip beside the folder.
    found |= {p + os.sep for p in sys.path if re.search(r"python\d+\.zip$", p)}
    return tuple(sorted(found))


_LIBRARY: Final = _library_folders()
_PLUMBING_FILES: Final = frozenset(
    folder + tail
    for folder in _LIBRARY
    for name in PLUMBING
    for tail in (f"{name}.py", os.path.join(name, "__init__.py"))
)


def touches_models(package: str) -> None:
    """Say that an installed package's functions may ask for model values inside a block.

    Equivalent to the package naming tracekit among its requirements: from now on its functions
    are rewritten when a block calls them.

    Args:
        package: Name of the importable top-level package, such as `"mylib"`.

    Example:
        >>> import tracekit
        >>> tracekit.touches_models("mylib")
    """
    _MARKED.add(package.partition(".")[0])
    # Verdicts already given may be wrong now. The weak references stay: they also take away the
    # twins of code that dies, whose id the next code may get.
    _PATHS.clear()
    _VERDICTS.clear()


def never_asks(function: _F) -> _F:
    """Mark a hot function which never asks for a model value, so that it is not rewritten.

    Equivalent to the function itself: it is returned as it is. A request made inside it (or
    inside what it calls) is refused, with an error at the request's line.

    Args:
        function: A Python function, also under `staticmethod`, `classmethod` or a bound method.

    Returns:
        The same object.

    Raises:
        TypeError: *function* has no bytecode.

    Example:
        >>> import tracekit
        >>> @tracekit.never_asks
        ... def norm(v):
        ...     return sum(x * x for x in v) ** 0.5
    """
    inner: Any = function
    while isinstance(inner, staticmethod | classmethod | partial):
        inner = inner.func if isinstance(inner, partial) else inner.__func__
    code = getattr(inner, "__code__", None)
    if not isinstance(code, CodeType):
        message = f"never_asks() wants a Python function, got {type(function).__name__!r}"
        raise TypeError(message)
    for each in _with_nested(code):
        key = id(each)
        _NEVER[key] = weakref.ref(each, partial(_unmark, key))
        _VERDICTS.pop(key, None)
    return function


def _unmark(key: int, _: object) -> None:
    _NEVER.pop(key, None)


def passes_calls_on(function: FunctionType) -> None:
    """Say that a function of a library is plumbing, as the modules in `PLUMBING` are."""
    for code in _with_nested(function.__code__):
        _ALWAYS[id(code)] = code
        _VERDICTS.pop(id(code), None)


def _with_nested(code: CodeType) -> list[CodeType]:
    found = [code]
    for const in code.co_consts:
        if isinstance(const, CodeType):
            found += _with_nested(const)
    return found


def judge(code: CodeType) -> bool:
    """Say whether *code* is rewritten when rewritten code calls it.

    Args:
        code: Any code object. Judged once, and remembered as long as it lives.

    Returns:
        True: its twin is called. False: it is called as it stands.
    """
    key = id(code)
    verdict = _VERDICTS.get(key)
    if verdict is None:
        verdict = _judge(code)
        if key not in _KEPT:
            _KEPT[key] = weakref.ref(code, partial(_drop, key))
        _VERDICTS[key] = verdict
    return verdict


def _drop(key: int, _: object = None) -> None:
    _VERDICTS.pop(key, None)
    _KEPT.pop(key, None)
    twin = _TWINS.pop(key, None)
    if twin is not None:
        ORIGINALS.pop(id(twin.code), None)


def _judge(code: CodeType) -> bool:
    # Coroutines suspend for somebody else already: a request in one cannot be told apart.
    if code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE):
        return False
    if id(code) in _ALWAYS:
        return True
    file = _HANDS_ITEMS_ON.get(code.co_qualname)
    if file is not None and code.co_filename.endswith(file):
        return True
    return id(code) not in _NEVER and is_rewritten_file(code.co_filename)


def is_rewritten_file(filename: str) -> bool:
    """Say whether code from *filename* (as in `co_filename`) is rewritten, marks apart."""
    verdict = _PATHS.get(filename)
    if verdict is None:
        verdict = _PATHS[filename] = _judge_file(filename)
    return verdict


def _judge_file(filename: str) -> bool:
    frozen = _FROZEN.match(filename)
    if frozen:
        return frozen[1] in PLUMBING
    if filename.startswith("<"):
        return True
    path = os.path.abspath(filename)
    if path.startswith(_OURS) or os.path.realpath(path).startswith(_OURS):
        return False
    site = _SITE.match(path)
    if site:
        top = site[2].partition(".")[0]
        return top in _MARKED or (top not in _REQUIRED and top in _dependants(site[1]))
    if path in _PLUMBING_FILES:
        return True
    if path.startswith(_LIBRARY) or os.path.realpath(path).startswith(_LIBRARY):
        return os.path.realpath(path) in _PLUMBING_FILES
    return True


def package_of(filename: str) -> str:
    """The top-level name of the installed package that *filename* belongs to, or nothing."""
    site = _SITE.match(os.path.abspath(filename))
    return site[2].partition(".")[0] if site else ""


def _dependants(folder: str) -> frozenset[str]:
    """Top-level names in a site-packages folder whose distribution requires tracekit."""
    found = _DEPENDANTS.get(folder)
    if found is None:
        names: set[str] = set()
        try:
            entries = [name for name in os.listdir(folder) if name.endswith(".dist-info")]
        except OSError:  # the code was compiled elsewhere
            entries = []
        for entry in entries:
            # `importlib.metadata` takes ten times as long, and the first block waits for it.
            if _NAMES_US.search(_head_of(os.path.join(folder, entry, "METADATA"))):
                from importlib.metadata import Distribution

                distribution = Distribution.at(os.path.join(folder, entry))
                listed = (distribution.read_text("top_level.txt") or "").split()
                files = (str(p).split("/")[0].partition(".")[0] for p in distribution.files or ())
                names.update(listed, files)
        found = _DEPENDANTS[folder] = frozenset(names)
    return found


def _head_of(path: str) -> bytes:
    """The fields of a METADATA file that may name us: what stands before the first empty line."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = b""
        while b"\n\n" not in data:
            more = os.read(handle, 1 << 15)
            if not more:
                break
            data += more
    finally:
        os.close(handle)
    head = data.partition(b"\n\n")[0]
    return head if b"tracekit" in head.lower() else b""


def twin_code(code: CodeType) -> Twin | None:
    """Give the twin of a code object, made on first use.

    Args:
        code: A function's code object (also of a generator function).

    Returns:
        The twin, or `None` where none can be made (a coroutine).

    Raises:
        UnsupportedError: An instruction this Python should not have.
    """
    key = id(code)
    twin = _TWINS.get(key)
    if twin is None:
        if code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR | CO_ITERABLE_COROUTINE):
            return None
        twin = _make(code)
        # The weak reference that takes the entry away again may stand already.
        if key not in _KEPT:
            _KEPT[key] = weakref.ref(code, partial(_drop, key))
        _TWINS[key] = twin
        ORIGINALS[id(twin.code)] = twin
    return twin


def _make(code: CodeType) -> Twin:
    from .._bytecode.generator import make_twin
    from .guards import HOOKS

    return make_twin(code, HOOKS)


def twin_function(function: FunctionType) -> Callable[..., Any] | None:
    """Give the twin of a Python function: called with the same arguments, it makes a generator.

    Args:
        function: A function or generator function, of whatever place.

    Returns:
        A function of our own with the same globals, defaults and closure; *function* itself is
        not touched. `None` where no twin can be made.
    """
    if may_overflow():
        _check_depth()
    code = function.__code__
    kept = _KEPT_FUNCTIONS.get(function)
    if kept is not None:
        twin = _TWINS.get(id(code))
        if twin is not None and kept.__code__ is twin.code and function.__defaults__ is None:
            return kept
    twin = twin_code(code)
    if twin is None:
        return None
    closure, defaults, keywords = (
        function.__closure__,
        function.__defaults__,
        function.__kwdefaults__,
    )
    made = FunctionType(twin.code, function.__globals__, function.__name__, defaults, closure)
    if keywords:
        made.__kwdefaults__ = keywords
    if made.__qualname__ != function.__qualname__:
        made.__qualname__ = function.__qualname__
    # A function without cells and defaults holds nobody's values: it may be kept for a while.
    if closure is None and defaults is None and not keywords:
        if len(_KEPT_FUNCTIONS) >= MANY_FUNCTIONS:
            _KEPT_FUNCTIONS.clear()
        _KEPT_FUNCTIONS[function] = made
    return made


def enters_with(frame: FrameType) -> bool:
    """Tell whether the call that *frame* makes, of a twin or not, is an item of a `with`."""
    twin = ORIGINALS.get(id(frame.f_code))
    code, offset = frame.f_code, frame.f_lasti
    if twin is not None:
        origin = twin.origin_of(offset)
        if origin is None:
            return False
        code, offset = twin.original, origin
    return is_with_item(code, offset)


def forget() -> None:
    """Drop what is kept for one run only."""
    global _c_levels  # noqa: PLW0603
    _c_levels = _count_c_levels()
    _KEPT_FUNCTIONS.clear()


def _count_c_levels() -> int:
    """How many nested twins surely fit the C stack of this thread."""
    size = threading.stack_size()
    if not size:
        try:
            import resource

            size = resource.getrlimit(resource.RLIMIT_STACK)[0]
        except (ImportError, OSError, ValueError):  # Windows: 1 MiB is the linker's default
            size = 1 << 20
        if size < 0:
            size = 8 << 20
    return size // _C_BYTES_A_LEVEL


_c_levels = _count_c_levels()


def may_overflow() -> bool:
    """Say whether the depth of nested twins must be checked at each call."""
    return NESTED_GENERATORS_USE_THE_C_STACK and sys.getrecursionlimit() > _c_levels


def _check_depth() -> None:
    """Raise RecursionError before nested generators overflow the C stack (3.11 only).

    Where the recursion limit is as Python sets it, the interpreter's own check comes first, and
    this is not called. Where it was raised (or threads have small stacks) the frames are counted,
    by asking for one that would be too deep.
    """
    try:
        sys._getframe(_c_levels)
    except ValueError:
        return
    raise RecursionError("maximum recursion depth exceeded")


def is_marked(code: CodeType) -> bool:
    """Say whether `never_asks` was applied to the function of *code*."""
    return id(code) in _NEVER
