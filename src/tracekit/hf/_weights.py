"""Attention weights under standard names: `scores` before the softmax, `pattern` after it.

They are no module's output. They are operations inside a forward, of the attention itself or of
the attention function that it calls, and are asked for as those of `.source` are. Which operation
it is, is read off the bytecode of the function that will run: what the softmax gets are the
scores, what the dropout after it gets (else what the softmax gives) is the pattern. A fused
attention function has no softmax, and no weights.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tracekit._interleave.requests import Read, View, Write
from tracekit._interleave.site import spell
from tracekit._protocol import ask
from tracekit._torch import hooks
from tracekit._torch.tree import Port, answer_now
from tracekit._torch.values import first_input, with_first_input
from tracekit._vocabulary.callees import take_apart
from tracekit._vocabulary.forwards import Forward, forward_at
from tracekit.errors import (
    NoAttentionWeightsError,
    NoStandardNameError,
    SourceNotAvailableError,
    WrongModelClassError,
)

if TYPE_CHECKING:
    from types import FunctionType

    from torch import nn

    from tracekit._bytecode.listing import Operation

KEEPS_NO_WEIGHTS: Final = ("sdpa", "flash", "flex", "paged")
"""How the names of attention implementations begin that never have their weights."""

_INTERFACE: Final = "attention_interface_0"
_OF_ACCELERATE: Final = "_old_forward"
_BY_IMPLEMENTATION: Final = "_ATTENTION_CLASSES"
"""How the tables of older modules end: implementation -> class of the attention."""

_HOLD_THE_SAME: Final = frozenset({"eager", "sdpa"})
"""Implementations whose attentions hold the same."""

_UPCAST: Final = "self__upcast_and_reordered_attn_0"


def keeps_no_weights(module: Any) -> str:
    """Give the name of the attention implementation if it has no weights, else "".

    Args:
        module: An attention, or a whole model: what has a config.
    """
    name = str(getattr(getattr(module, "config", None), "_attn_implementation", ""))
    return name if name.startswith(KEEPS_NO_WEIGHTS) else ""


def no_weights(what: str, implementation: str) -> NoAttentionWeightsError:
    """Make the error for weights of a fused attention.

    Args:
        what: What was asked for.
        implementation: The attention implementation.
    """
    return NoAttentionWeightsError(
        f"{what}, and the attention implementation is {implementation!r}",
        why="fused attention never has its weights as a tensor",
        fix='model.set_attn_implementation("eager")',
    )


def switch_attentions(model: Any, name: str) -> None:
    """Switch a model's attention implementation; nothing is reloaded.

    Args:
        model: Of transformers.
        name: The implementation.

    Raises:
        WrongModelClassError: `wrong-model-class`. This class takes it only when it is loaded.
    """
    can_set = getattr(model, "_can_set_attn_implementation", None)
    if can_set is None or can_set():
        model.set_attn_implementation(name)
        return
    # Falcon's attention looks at the config in each forward, and older ones have a class for each
    # implementation; transformers only says that they do not follow the interface, and changes
    # nothing.
    config = model.config.get_text_config()
    old = config._attn_implementation
    if not ({name, old} <= _HOLD_THE_SAME and _change_classes(model, old, name)):
        raise WrongModelClassError(
            f"the attention of a `{type(model).__name__}` cannot be switched to {name!r}",
            seen=f"it is {old!r}",
            why="transformers makes it for one implementation when the model is made",
            fix=f'LanguageModel(..., attn_implementation="{name}")',
        )
    model.config._attn_implementation = config._attn_implementation = name


def _change_classes(model: nn.Module, old: str, new: str) -> bool:
    """Give attentions the class of another implementation, if only their methods differ."""
    changes: list[tuple[nn.Module, type[nn.Module]]] = []
    for part in model.modules():
        made_in = vars(sys.modules[type(part).__module__])
        for name, classes in made_in.items():
            if not name.endswith(_BY_IMPLEMENTATION) or type(part) is not classes.get(old):
                continue
            wanted = classes.get(new)
            if wanted is None or wanted.__init__ is not type(part).__init__:
                return False
            changes.append((part, wanted))
    for part, wanted in changes:
        part.__class__ = wanted
    return True


class _Place(NamedTuple):
    """Where the weights are: the function, and the operations in it."""

    forward: Forward
    softmax: Operation
    dropout: Operation | None
    cat: Operation | None


def _place(node: Any, name: str) -> _Place:
    module: nn.Module = node._module
    asked = f"`{spell(node._path, name)}` is asked for"
    fused = keeps_no_weights(module)
    if fused:
        raise no_weights(asked, fused)
    function, outer = _own_forward(node, module)
    forward = _inner(node, module, function, outer) or outer
    calls = list(forward.listing.of_kind("call").values())
    softmaxes = [at for at, call in enumerate(calls) if call.name.endswith("softmax")]
    if not softmaxes:
        implementation = str(getattr(getattr(module, "config", None), "_attn_implementation", ""))
        if implementation not in ("", "eager"):
            raise no_weights(asked, implementation)
        raise NoStandardNameError(
            f"`{type(module).__name__}` has no attention {name}",
            why="no softmax was found in its forward, nor in the attention function that it calls",
            fix=f"print(model.{node._path}.source)",
        )
    # Falcon has two: without ALiBi, and with it.
    alibi = bool(getattr(getattr(module, "config", None), "alibi", False))
    at = softmaxes[-1 if alibi else 0]
    before, after = calls[:at], calls[at + 1 :]
    dropout: Operation | None = None
    for call in after:
        if call.name.endswith("softmax"):
            break
        if "dropout" in call.name:
            dropout = call
            break
    # GPT-OSS joins a sink to the scores, and cuts it off after the softmax.
    joined = [call for call in before if call.name == "torch_cat"] if "sinks" in dir(module) else []
    return _Place(forward, calls[at], dropout, joined[-1] if joined else None)


def _own_forward(node: Any, module: Any) -> tuple[FunctionType, Forward]:
    """Open an attention's forward, also inside the one that accelerate puts around it."""
    callee = take_apart(hooks.forward_of(module), spell(node._path, ""))
    outer = forward_at(node._tree, node._path, callee, None)
    old = module.__dict__.get("_old_forward")
    calls = [
        call
        for call in outer.listing.of_kind("call").values()
        if call.name.endswith(_OF_ACCELERATE)
    ]
    if old is None or not calls:
        return callee.function, outer
    # One call stands under `no_grad`, the other does not.
    call = calls[0 if getattr(module._hf_hook, "no_grad", False) else -1]
    path = outer.paths[call]
    callee = take_apart(old, spell(path, ""))
    return callee.function, forward_at(node._tree, path, callee, outer)


def _inner(node: Any, module: Any, function: Any, outer: Forward) -> Forward | None:
    """Open the attention function that a forward calls; `None` if it computes by itself."""
    calls = outer.listing.of_kind("call")
    name, target = _INTERFACE, None
    if getattr(module, "reorder_and_upcast_attn", False) and _UPCAST in calls:
        name, target = _UPCAST, module._upcast_and_reordered_attn
    elif _INTERFACE in calls:
        eager = function.__globals__.get("eager_attention_forward")
        target = ALL_ATTENTION_FUNCTIONS.get(module.config._attn_implementation, eager)
    if target is None:
        return None
    path = outer.paths[calls[name]]
    try:
        return forward_at(node._tree, path, take_apart(target, spell(path, "")), outer)
    except SourceNotAvailableError:
        return None


def _first_joined(value: Any) -> Any:
    return first_input(value)[0]


def _with_first_joined(value: Any, new: Any) -> Any:
    parts = first_input(value)
    return with_first_input(value, type(parts)([new, *parts[1:]]))


class WeightPort(Port):
    """Weights of an attention, to be read and assigned where the model computes them.

    Args:
        name: `scores` or `pattern`.
        doc: For `help()`.
    """

    __slots__ = ()

    def __init__(self, name: str, doc: str) -> None:
        super().__init__(name, "output", None, doc)

    def _site(self, node: Any) -> tuple[object, str, str, View]:
        place = _place(node, self.name)
        paths = place.forward.paths
        if self.name == "scores" and place.cat is not None:
            view = View(self.name, _first_joined, _with_first_joined)
            return node._tree, paths[place.cat], "input", view
        if self.name == "pattern" and place.dropout is None:
            view = View(self.name, lambda value: value, lambda _old, new: new)
            return node._tree, paths[place.softmax], "output", view
        at = place.softmax if self.name == "scores" else place.dropout
        assert at is not None
        return node._tree, paths[at], "input", View(self.name, first_input, with_first_input)

    def request(self, node: Any) -> Read:
        """Give the request for the weights of *node*: of the function that would run now."""
        return Read(*self._site(node))

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Suspend until the model computes the weights; replace them."""
        owner, path, port, view = self._site(obj)
        yield from ask(Write(owner, path, port, value, view))

    def __set__(self, obj: Any, value: Any) -> None:
        owner, path, port, view = self._site(obj)
        answer_now(Write(owner, path, port, value, view))


def watch_weights(node: Any) -> None:
    """Let the weights of an attention still be asked for once it runs.

    Its projections are asked for before its weights, and what is not put in place before the
    attention is called comes too late. Does nothing where there are no weights.

    Args:
        node: The attention, of which a value is about to be asked for.
    """
    run = hooks.current_run()
    if run is None or run.tree is not node._tree or keeps_no_weights(node._module):
        return
    try:
        place = _place(node, "pattern")
    except (NoAttentionWeightsError, NoStandardNameError, SourceNotAvailableError):
        return
    place.forward._reach(run)
