"""The registry of stand-ins: what takes the place of C functions, and of library functions.

C code cannot be suspended. A stand-in does the same in Python, as a generator, and is used only for
calls where an argument can ask: its entry here is a `Conditional`, which looks at the arguments.
The stand-ins themselves are in `standins.py` and the files named there; anybody may register more,
as `_torch` does for what torch calls back. `resolve.py` looks callables up here.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any, Final

from .items import Driven, done
from .special import any_can_ask

Virtual = Callable[..., Driven]

STANDINS: Final[dict[Any, Virtual]] = {}
"""Builtin, class, descriptor or library function -> the conditional call that stands for it."""

METHODS: Final[dict[str, list[tuple[type, Virtual]]]] = {}
"""Name of a C method -> the classes that have a stand-in for it."""

KNOWN: Final[dict[Any, Any]] = {}
"""Builtin function or class -> types of arguments with which it is straight, or True for all."""

QUIET: Final[set[str]] = set()
"""Full names of modules whose functions neither call nor iterate what they are handed."""

ATOMS: Final[frozenset[type]] = frozenset(
    {int, float, complex, bool, str, bytes, type(None), range, slice}
)
"""Types of arguments that no stand-in and no callback rule is for."""


def register(
    target: Any,
    standin: Virtual,
    *,
    when: Callable[[tuple[Any, ...], dict[str, Any]], bool] | None = None,
    plain: AbstractSet[type] | None = None,
) -> None:
    """Let *standin* take the place of *target* in calls made by rewritten code.

    Equivalent to `target(...)`, if *standin* is written well: it is used only for calls where an
    argument can ask.

    Args:
        target: A builtin function, a class, a method of a C class (`list.extend`), a slot of one
            (`list.__init__`), or a Python function of a library.
        standin: Generator function with the same parameters.
        when: Says from `(args, kwargs)` whether the stand-in is used; by default, when an
            argument, or the first element of one that is a list or tuple, can ask.
        plain: Types of arguments about which *when* need not be asked; may grow. By default
            numbers, strings and the like.
    """
    conditional = Conditional(target, standin, when)
    STANDINS[target] = conditional
    if type(target) in (BuiltinFunctionType, type):
        KNOWN[target] = ATOMS if plain is None else plain
    if type(target) in (MethodDescriptorType, WrapperDescriptorType):
        METHODS.setdefault(target.__name__, []).append((target.__objclass__, conditional))


def takes_no_callbacks(module: str) -> None:
    """Say that no function of a library's module calls or iterates what it is handed.

    Its functions are then called without a look at their arguments.

    Args:
        module: Full name, such as `"torch.nn.functional"`.
    """
    QUIET.add(module)


class Conditional:
    """A call that is virtual only for some arguments.

    Rewritten code asks `chooses` with copies of the arguments and makes the call itself when the
    answer is no, so that a callee which looks at its caller finds the user's frame. Our own
    generators call it as it is.
    """

    __slots__ = ("_target", "chooses", "standin")

    def __init__(
        self,
        target: Any,
        standin: Virtual,
        when: Callable[[tuple[Any, ...], dict[str, Any]], bool] | None,
    ) -> None:
        self._target = target
        self.standin = standin
        self.chooses = _an_argument_can_ask if when is None else when

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Driven | None:
        """The generator to drive, or `None`: the original is called."""
        if not self.chooses(args, kwargs):
            return None
        try:
            return self.standin(*args, **kwargs)
        except TypeError:
            # Nothing has run yet: it was called wrongly, and the original says so in its words.
            return None

    def __call__(self, *args: Any, **kwargs: Any) -> Driven:
        driven = self.start(args, kwargs)
        return done(self._target(*args, **kwargs)) if driven is None else driven


def _an_argument_can_ask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any_can_ask(args) or (bool(kwargs) and any_can_ask(kwargs.values()))
