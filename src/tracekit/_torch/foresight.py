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
from types import CodeType, FrameType, FunctionType
from typing import Final

from torch import nn

from .._bytecode.reach import Method

_DEPTH: Final = 4
_HANDS_OUT_CHILDREN: Final = frozenset(
    {"modules", "children", "named_modules", "named_children", "get_submodule", "_modules", "apply"}
)
_BACKWARDS: Final = frozenset({"reversed", "flip"})
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
    if not path or path == standing or not _is_registered_before(root, path, standing):
        return False
    return cannot_come(root, path, standing, entering=entering)


def _is_registered_before(root: nn.Module, path: str, other: str) -> bool:
    module = root
    for one, two in zip(path.split("."), other.split("."), strict=False):
        if one != two:
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
        frame = running.get(id(module))
        if frame is None:
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
        if id(child) in running:
            # The model stands inside this child. It may be called anew by this forward.
            if not _is_over(module, frame, name):
                return False
            if rest >= len(parts):
                return False
            module, index = child, rest
            continue
        if isinstance(module, nn.Sequential):
            return _passed_in(module, {*running, here}, name)
        return _is_over(module, frame, name) and (
            not container or _passed_in(first, {*running, here}, container[0], frame)
        )


def _running_frames() -> dict[int, FrameType]:
    """The forward that is executing for each module, by the module's id; the innermost call."""
    found: dict[int, FrameType] = {}
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount:
            module = frame.f_locals.get(code.co_varnames[0])
            if isinstance(module, nn.Module):
                found.setdefault(id(module), frame)
        frame = frame.f_back
    return found


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


def _occurrences(root: nn.Module, child: nn.Module) -> int:
    """How many places of the tree hold *child*."""
    return sum(each is child for module in root.modules() for each in module._modules.values())


def _is_over(module: nn.Module, frame: FrameType, name: str) -> bool:
    """Whether the executing forward of *module* cannot get hold of `self.<name>` any more."""
    if isinstance(module, nn.Sequential):
        return True  # it goes once through its children, in order
    names = _names_ahead(type(module), _method(frame.f_code), frame.f_lasti, _DEPTH)
    return names is not None and name not in names and not names & _HANDS_OUT_CHILDREN


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
    container: nn.Module, running: set[int], name: str, frame: FrameType | None = None
) -> bool:
    """Whether a loop over *container*, in order, has passed the child called *name*.

    Args:
        container: Holds the child.
        running: ids of the modules in whose forwards the model stands.
        name: Of the child.
        frame: The forward with the loop; None for a `Sequential`, which loops by itself.
    """
    if frame is not None and _BACKWARDS.intersection(frame.f_code.co_names):
        return False
    names = list(container._modules)
    at = [index for index, child in enumerate(container._modules.values()) if id(child) in running]
    # Not in the loop any more: it is over, since the container cannot be loaded again.
    return not at or names.index(name) < at[0]
