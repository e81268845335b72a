"""Whether a running model can still come to a module: known when it is asked for.

A block that asks for a place the model has passed should be told so at once, not when the run is
over. Nothing is put on modules that nobody asked for, so nobody has counted their calls; but the
model's own frames are on the stack, and what their code can still get hold of is in it. The
question goes up from the module where the model stands: can the forward that is executing there,
or one around it, still load the attribute that leads to the module asked for?

"No" is certain, as far as a forward uses its children through `self`. Everything that cannot be
followed means "perhaps": then the block waits, and the end of the run decides.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType, FrameType, FunctionType
from typing import Final

from torch import nn

from .._bytecode.reach import Method
from .hooks import _forward

_DEPTH: Final = 4
_HANDS_OUT_CHILDREN: Final = frozenset(
    {"modules", "children", "named_modules", "named_children", "get_submodule", "_modules", "apply"}
)
_BACKWARDS: Final = frozenset({"reversed", "flip"})
_CALLS_OF_MODULES: Final = frozenset(  # ids: hashing a code object reads the whole of it
    id(function.__code__)
    for function in (nn.Module._wrapped_call_impl, nn.Module._call_impl, _forward)
)
_KEPT: Final = 512
_METHODS: Final[dict[int, Method]] = {}


def is_past(root: nn.Module, path: str, standing: str, *, entering: bool) -> bool:
    """Say whether a module asked for has surely been passed.

    Looked at closely only where the tree suggests it: the module asked for is registered before
    the one where the model stands. What is registered later is nearly always still to come, and
    then nothing is spent on the question.

    Args:
        root: The module whose call is traced.
        path: The module asked for, below *root*.
        standing: The module where the model stands, below *root*.
        entering: Whether it stands before that module's forward, not after it.
    """
    if not path or path == standing or not is_registered_before(root, path, standing):
        return False
    return cannot_come(root, path, standing, entering=entering)


def is_registered_before(root: nn.Module, path: str, other: str) -> bool:
    module = root
    for one, two in zip(path.split("."), other.split("."), strict=False):
        if one != two:
            if one.isdigit() and two.isdigit():
                # The children of a list or a sequence, of which there may be thousands.
                return int(one) < int(two)
            names = list(module._modules)
            return one in names and two in names and names.index(one) < names.index(two)
        child = module._modules.get(one)
        if child is None:
            return False
        module = child
    return False


def cannot_come(root: nn.Module, path: str, standing: str, *, entering: bool) -> bool:
    """Say whether *root*, which is running in this thread, surely will not call a module again.

    Args:
        root: The module whose forward is on the stack.
        path: The module asked for, which is not running itself.
        standing: The module that the model is about to enter, or has just left.
        entering: Which of the two.

    Returns:
        True: no frame of the running model can get hold of it any more. False: perhaps.
    """
    if entering and f"{path}.".startswith(f"{standing}."):
        return False
    running = _running_frames()
    # Its own forward has no frame now; its place in a loop counts all the same.
    here = id(root.get_submodule(standing))
    module = root
    parts = path.split(".")
    index = 0
    while True:
        frames = running.get(id(module))
        if frames is None:
            return False
        name, rest = parts[index], index + 1
        child = module._modules.get(name)
        if child is None or _occurrences(root, child) != 1:
            return False
        # Containers are not called: the way goes on through them.
        first = child
        container: list[str] = []
        while rest < len(parts) and _is_container(child):
            container.append(parts[rest])
            child = child._modules.get(parts[rest])
            rest += 1
            if child is None or _occurrences(root, child) != 1:
                return False
        # A forward may reach through its children, too: `self.model.decoder(x)`.
        while id(child) not in running and rest < len(parts):
            child = child._modules.get(parts[rest])
            rest += 1
            if child is None or _occurrences(root, child) != 1:
                return False
        if id(child) in running:
            # The model stands inside this child. It may be called anew by this forward.
            if not _is_over(module, frames, name):
                return False
            if rest >= len(parts):
                return False
            module, index = child, rest
            continue
        if isinstance(module, nn.Sequential):
            return _passed_in(module, {*running, here}, name)
        return _is_over(module, frames, name) and (
            not container or _passed_in(first, {*running, here}, container[0], frames)
        )


def _running_frames() -> dict[int, list[FrameType]]:
    """What is executing of each module, by the module's id; of the innermost call.

    Returns:
        The frame of its forward last; before it, from inside out, those of what its forward has
        called in the ordinary way: its own methods, or functions that may have got hold of it.
    """
    found: dict[int, list[FrameType]] = {}
    between: list[FrameType] = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if id(code) in _CALLS_OF_MODULES:
            # What is further in belongs to the module that is called here.
            between = []
        elif code.co_name == "forward" and code.co_argcount:
            module = _first_argument(frame)
            if isinstance(module, nn.Module):
                found.setdefault(id(module), [*between, frame])
                between = []
        else:
            between.append(frame)
        frame = frame.f_back
    return found


def _first_argument(frame: FrameType) -> object:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


def _occurrences(root: nn.Module, child: nn.Module) -> int:
    """How many places of the tree hold *child*."""
    return sum(each is child for module in root.modules() for each in module._modules.values())


def _is_over(module: nn.Module, frames: list[FrameType], name: str) -> bool:
    """Whether what executes of *module* cannot get hold of `self.<name>` any more."""
    if isinstance(module, nn.Sequential):
        return True  # it goes once through its children, in order
    for frame in frames:
        if _first_argument(frame) is not module:
            return False
        names = _names_ahead(type(module), _method(frame.f_code), frame.f_lasti, _DEPTH)
        if names is None or name in names or names & _HANDS_OUT_CHILDREN:
            return False
    return True


def _method(code: CodeType) -> Method:
    """What is known of a method's code; kept as long as the code lives."""
    known = _METHODS.get(id(code))
    if known is None or known.code is not code:
        known = _METHODS[id(code)] = Method(code)
        if len(_METHODS) > _KEPT:
            del _METHODS[next(iter(_METHODS))]
    return known


def _names_ahead(
    kind: type, method: Method, offset: int | None, depth: int
) -> frozenset[str] | None:
    """Names loaded from `self` ahead, also by the class's own methods that are called there."""
    if depth == 0:
        return None
    names = method.ahead(offset)
    if names is None:
        return None
    found = set(names)
    for name in names:
        member = getattr(kind, name, None)
        if isinstance(member, property):
            member = member.fget
        if isinstance(member, FunctionType) and member.__module__ != nn.Module.__module__:
            inner = _names_ahead(kind, _method(member.__code__), None, depth - 1)
            if inner is None:
                return None
            found |= inner
    return frozenset(found)


def _passed_in(
    container: nn.Module, running: set[int], name: str, frames: Sequence[FrameType] = ()
) -> bool:
    """Whether a loop over *container*, in order, has passed the child called *name*.

    Args:
        container: Holds the child.
        running: ids of the modules in whose forwards the model stands.
        name: Of the child.
        frames: With the loop in one of them; none for a `Sequential`, which loops by itself.
    """
    if any(_BACKWARDS.intersection(frame.f_code.co_names) for frame in frames):
        return False
    names = list(container._modules)
    at = [
        index
        for index, child in enumerate(container._modules.values())
        if child is not None and any(id(each) in running for each in child.modules())
    ]
    # Not in the loop any more: it is over, since the container cannot be loaded again.
    return not at or names.index(name) < at[0]
