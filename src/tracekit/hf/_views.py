"""Views of values under standard names: one tensor per part, and heads.

Each is a `View` of a site's value: how the part is taken out, and how a new part is put back. What
is taken out is a view of the model's own tensor wherever that is possible, so that an in-place edit
of it reaches the model; a copy is put back when it was edited, and with gradients on what was taken
out is always put back, with the same values, so that it is part of the graph.

Projections of an attention are named and laid out in five ways: one module each, one module with
queries, keys and values side by side (GPT-2, Phi-3), one with them interleaved by head (GPT-NeoX,
Bloom), Falcon's, where groups of query heads are followed by their keys and values, and that of
DeepSeek-V3, where one module gives the keys and values of each head from what all heads share.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from tracekit._interleave.requests import Read, View, Write
from tracekit._protocol import ask
from tracekit._torch.tree import Port, answer_now
from tracekit._torch.values import first_input, with_first_input
from tracekit._vocabulary.served import watch_copies
from tracekit.errors import DevicesDifferError, NoStandardNameError

from ._habits import warn_of_first_row
from ._weights import watch_weights

if TYPE_CHECKING:
    from ._names import Sizes

_OUT: Final = ("o_proj", "out_proj", "c_proj", "dense", "wo")
_SEPARATE: Final = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
_LATENT: Final = "kv_b_proj"
_ORDER: Final = ("q", "k", "v")

_PUT_BACK: Final[WeakTensorKeyDictionary] = WeakTensorKeyDictionary()
"""Heads that are part of the graph, or are about to be."""


def first_tensor(value: Any) -> Any:
    """Give the tensor among what a block, an attention or an MLP returns.

    Args:
        value: A tensor, or a tuple that begins with it: `(hidden, weights)`.

    Returns:
        The model's own tensor, usually of shape (batch, seq, d_model).
    """
    return value[0] if isinstance(value, (tuple, list)) and value else value


def with_first_tensor(value: Any, new: Any) -> Any:
    """Put a tensor in the place of the one that `first_tensor` gives.

    Args:
        value: What the module returned.
        new: The new tensor.

    Returns:
        Of the type of *value*, its other items as they were.
    """
    if isinstance(value, tuple) and value:
        return (new, *value[1:])
    if isinstance(value, list) and value:
        return [new, *value[1:]]
    return new


def _with_first_tensor_there(value: Any, new: Any) -> Any:
    old = first_tensor(value)
    if isinstance(old, Tensor) and isinstance(new, Tensor) and old.device != new.device:
        raise DevicesDifferError(
            f"a tensor on {new.device} is assigned to an output on {old.device}",
            why="a value lives on the device of the part of the model that it comes from",
            fix=f"assign `value.to({str(old.device)!r})`",
        )
    return with_first_tensor(value, new)


class TensorPort(Port):
    """The one tensor of an output, whatever the module returns."""

    __slots__ = ()

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the model stands at the site; give the tensor."""
        warn_of_first_row(obj, sys._getframe(1))
        return (yield from ask(self.request(obj)))


TENSOR_OUTPUT: Final = TensorPort(
    "output",
    "output",
    View("output", first_tensor, _with_first_tensor_there),
    doc="What the module gives: always one tensor, also where the module returns it in a tuple.",
)


@dataclasses.dataclass(frozen=True)
class HeadSite:
    """Where the heads of an attention are, and how they lie there.

    Args:
        child: The projection's path below the attention.
        port: `output` of the projection, `input` of the last one.
        view: How heads are taken out and put back.
    """

    child: str
    port: str
    view: View


def head_site(attention: nn.Module, name: str, sizes: Sizes) -> HeadSite:
    """Find the heads of an attention.

    Args:
        attention: An attention module.
        name: `q`, `k`, `v` (as projected, before rotary positions and the cache) or `z` (what each
            head adds up from the values, before the output projection mixes them).
        sizes: The model's sizes.

    Returns:
        The place. Taken out, heads have shape (batch, seq, heads, d_head), where heads is
        `n_kv_heads` for keys and values. In a latent attention (DeepSeek-V3) keys are each head's
        own part, without the rotary one, which all heads share; and where its cache holds what
        they are made from, seq counts the columns of the cache.

    Raises:
        NoStandardNameError: `no-standard-name`. The attention has another build.
    """
    if sizes.n_heads is None or sizes.n_kv_heads is None:
        raise _unknown(attention, name, "the model has no attention heads")
    inner = attention._modules.get("attention", attention)
    prefix = "" if inner is attention else "attention."
    children = inner._modules if inner is not None else {}
    if name == "z":
        out = next((one for one in _OUT if one in children), None)
        if out is None:
            raise _unknown(attention, name, "no output projection")
        return HeadSite(prefix + out, "input", _heads_of_input(sizes.n_heads))
    heads = sizes.n_heads if name == "q" else sizes.n_kv_heads
    latent = children.get(_LATENT)
    if latent is not None:
        if name == "q":
            child = "q_proj" if children.get("q_proj") is not None else "q_b_proj"
            return HeadSite(prefix + child, "output", _heads_of_output(name, heads))
        own = getattr(inner, "qk_nope_head_dim", None)
        if own is None:
            raise _unknown(attention, name, f"its parts are {', '.join(children)}")
        return HeadSite(prefix + _LATENT, "output", _of_latent(name, sizes.n_heads, own))
    if _SEPARATE[name] in children:
        return HeadSite(prefix + _SEPARATE[name], "output", _heads_of_output(name, heads))
    if "c_attn" in children and not getattr(inner, "is_cross_attention", False):
        return HeadSite("c_attn", "output", _side_by_side(name, (sizes.n_heads,) * 3))
    if "qkv_proj" in children:
        widths = (sizes.n_heads, sizes.n_kv_heads, sizes.n_kv_heads)
        return HeadSite("qkv_proj", "output", _side_by_side(name, widths))
    if "query_key_value" in children:
        return HeadSite("query_key_value", "output", _grouped(name, sizes))
    raise _unknown(attention, name, f"its parts are {', '.join(children)}")


def _unknown(attention: nn.Module, name: str, seen: str) -> NoStandardNameError:
    return NoStandardNameError(
        f"`{type(attention).__name__}` has no heads `{name}` that are known",
        seen=seen,
        fix="read its projections by their own names",
    )


def _unflatten(value: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """`value.unflatten(axis, shape)`, which torch has no types for; a view."""
    result: Tensor = value.unflatten(axis, shape)  # type: ignore[no-untyped-call]
    return result


def _heads_of_output(name: str, heads: int) -> View:
    def get(value: Tensor) -> Tensor:
        return _unflatten(value, -1, (heads, -1))

    def put(value: Tensor, new: Tensor) -> Tensor:
        return new.to(value).reshape(value.shape)

    return View(name, get, put, _watch)


def _heads_of_input(heads: int) -> View:
    def get(value: Any) -> Tensor:
        tensor: Tensor = first_input(value)
        return _unflatten(tensor, -1, (heads, -1))

    def put(value: Any, new: Tensor) -> Any:
        tensor: Tensor = first_input(value)
        return with_first_input(value, new.to(tensor).reshape(tensor.shape))

    return View("z", get, put, _watch)


def _of_latent(name: str, heads: int, own: int) -> View:
    """Head after head, each of a key without its rotary part and of a value."""
    part = slice(None, own) if name == "k" else slice(own, None)

    def get(value: Tensor) -> Tensor:
        # Newer versions treat what is shared as one head: (batch, 1, seq, heads * width).
        return _unflatten(value, -1, (heads, -1)).flatten(1, -3)[..., part]

    return View(name, get, _put_into(get), _watch)


def _side_by_side(name: str, heads: tuple[int, int, int]) -> View:
    """Queries, keys and values one after the other along the last axis."""
    index = _ORDER.index(name)

    def get(value: Tensor) -> Tensor:
        start = sum(heads[:index])
        return _unflatten(value, -1, (sum(heads), -1)).narrow(-2, start, heads[index])

    return View(name, get, _put_into(get), _watch)


def _grouped(name: str, sizes: Sizes) -> View:
    """One group after the other, each of query heads, one key head and one value head."""
    n_heads, groups = sizes.n_heads, sizes.n_kv_heads
    assert n_heads is not None
    assert groups is not None
    each = n_heads // groups

    def get(value: Tensor) -> Tensor:
        lying = _unflatten(value, -1, (groups, each + 2, -1))
        if name == "q":
            return lying[..., :each, :].flatten(-3, -2)
        return lying[..., each if name == "k" else each + 1, :]

    def put(value: Tensor, new: Tensor) -> Tensor:
        whole = value.clone()
        lying = _unflatten(whole, -1, (groups, each + 2, -1))
        if name == "q":
            lying[..., :each, :] = _unflatten(new.to(value), -2, (groups, each))
        else:
            lying[..., each if name == "k" else each + 1, :] = new.to(value)
        return whole

    # Query heads of several groups lie apart, so that all of them in one tensor are a copy.
    return View(name, get, put, _watch)


def _watch(heads: Tensor, whole: Any) -> Callable[[], bool]:
    """Make what tells whether heads have to be put back.

    Edited copies have to, and once all that may be asked for a gradient: a gradient flows only
    through the very tensor that was handed out, and the model goes on with another one.
    """
    if not heads.requires_grad or heads in _PUT_BACK:
        return watch_copies(heads, whole)
    _PUT_BACK[heads] = True
    return lambda: True


def _put_into(get: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def put(value: Tensor, new: Tensor) -> Tensor:
        whole = value.clone()
        get(whole).copy_(new)
        return whole

    return put


class HeadPort(Port):
    """Heads of an attention, to be read and assigned where the model stands at the projection.

    Args:
        name: `q`, `k`, `v` or `z`.
        doc: For `help()`.
    """

    __slots__ = ()

    def __init__(self, name: str, doc: str) -> None:
        super().__init__(name, "output", None, doc)

    def _site(self, node: Any) -> tuple[object, str, str, View]:
        whole = node._whole
        site = head_site(node._module, self.name, whole.sizes)
        owner, path = node._site_owner()
        return owner, f"{path}.{site.child}", site.port, site.view

    def request(self, node: Any) -> Read:
        """Give the request for the heads of *node*, always the same object."""
        requests: dict[str, Read] = node._requests
        request = requests.get(self.name)
        if request is None:
            request = requests[self.name] = Read(*self._site(node))
        return request

    def ask_get(self, obj: Any) -> Any:
        """Suspend until the model stands at the projection; give the heads."""
        if self.name != "z":
            watch_weights(obj)
        return (yield from ask(self.request(obj)))

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Suspend until the model stands at the projection; replace the heads."""
        if self.name != "z":
            watch_weights(obj)
        owner, path, port, view = self._site(obj)
        yield from ask(Write(owner, path, port, value, view))

    def __set__(self, obj: Any, value: Any) -> None:
        owner, path, port, view = self._site(obj)
        answer_now(Write(owner, path, port, value, view))
