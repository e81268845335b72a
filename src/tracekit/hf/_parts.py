"""The nodes of a model of transformers, under their own and their standard names.

A part may be reached under two names. Under its own, `model.transformer.h[0]`, its output is what
the module returns: in some architectures a tuple. Under its standard name, `model.layers[0]`, it is
the tensor that stands in it. Both are nodes of one module, and requests for the same site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from torch import Tensor

from tracekit._interleave.requests import Skip
from tracekit._protocol import ask, suspending
from tracekit._torch import hooks
from tracekit._vocabulary.model import Model
from tracekit.errors import UnsupportedGenerationError, WeightsNotLoadedError

from ._experts import RoutingPort
from ._load import offloaded
from ._views import TENSOR_OUTPUT, HeadPort
from ._weights import WeightPort

if TYPE_CHECKING:
    from tracekit._torch.tree import Node

    from ._model import TransformersModel


_CHANGES_WEIGHTS: Final = frozenset(
    {
        "apply",
        "bfloat16",
        "double",
        "float",
        "half",
        "load_state_dict",
        "requires_grad_",
        "type",
    }
)
"""Methods that a skeleton would forget: the weights are loaded before they are called."""


class Part(Model):
    """A module of a model of transformers."""

    @classmethod
    def _child_class(cls) -> type[Node]:
        return Part

    @property
    def _whole(self) -> TransformersModel:
        """The wrapper of the whole model.

        Raises:
            WeightsNotLoadedError: `weights-not-loaded`. It is gone, and so is what it knew.
        """
        root: Any = self._tree.nodes.get("")
        if root is None or not hasattr(type(root), "dispatched"):
            raise WeightsNotLoadedError(
                f"the wrapper of the model that `{self._path}` is a part of is gone",
                why="it knows where the weights are, and it was kept under no name",
                fix='keep it: model = LanguageModel("...")',
            )
        whole: TransformersModel = root
        return whole

    def __getattr__(self, name: str) -> Any:
        if name in _CHANGES_WEIGHTS:
            self._load_first()
        value = super().__getattr__(name)
        if isinstance(value, Tensor) and value.is_meta:
            return self._real(name, value)
        return value

    def _real(self, name: str, value: Tensor) -> Tensor:
        """Give the values of a parameter that is on the meta device at rest."""
        if not self._whole.dispatched:
            raise WeightsNotLoadedError(
                f"`{self._path + '.' if self._path else ''}{name}` has no values yet: the weights "
                "are not loaded",
                seen=f"shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}",
                why="the first run loads them; until then only names and shapes are known",
                fix="model.dispatch()",
            )
        found = offloaded(self._module, name)
        return value if found is None else found

    def __call__(self, *args: Any, hook: bool = False, **kwargs: Any) -> Any:
        """Call the module; outside of a run, the weights are loaded first."""
        self._load_first()
        return super().__call__(*args, hook=hook, **kwargs)

    def _load_first(self) -> None:
        if hooks.current_run() is None:
            self._whole.dispatch()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the module, as `nn.Module.to`; the weights are loaded first."""
        self._load_first()
        return super().to(*args, **kwargs)

    def cpu(self) -> Self:
        """Move the module to the CPU; the weights are loaded first."""
        self._load_first()
        return super().cpu()

    def cuda(self, *args: Any, **kwargs: Any) -> Self:
        """Move the module to a GPU; the weights are loaded first."""
        self._load_first()
        return super().cuda(*args, **kwargs)

    def skip(self, value: Any) -> None:
        """Let the module not run in this visit; *value* is its output.

        Args:
            value: What the caller of the module gets.

        Raises:
            UnsupportedGenerationError: `unsupported-generation`. In a generation, for a module
                that holds an attention: its cache would lack this step's keys and values.
        """
        self._refuse_short_cache()
        super().skip(value)

    def _refuse_short_cache(self) -> None:
        run = hooks.current_run()
        if run is None or run.once is not None:
            return
        inside = [
            path for path in self._whole._attentions() if f"{path}.".startswith(f"{self._path}.")
        ]
        if inside and self._path not in ("", *inside[1:]):
            raise UnsupportedGenerationError(
                f"`{self._path}` cannot be skipped in a generation",
                seen=f"`{inside[0]}` keeps keys and values of each step",
                why="a skipped attention adds none, so its cache would be short in later steps",
                fix=f"let it run and replace its output: model.{self._path}.output = ..., or "
                "trace() the model token by token",
            )


@suspending(Part.skip)
def _skip(self: Part, value: Any) -> Any:
    self._refuse_short_cache()
    yield from ask(Skip(self._tree, self._path, value))


class StandardPart(Part):
    """A part under its standard name: its output is one tensor, whatever the module returns."""

    output = TENSOR_OUTPUT
    _owner: TransformersModel

    @property
    def _whole(self) -> TransformersModel:
        return self._owner

    def skip(self, value: Any) -> None:
        """Let the module not run in this visit; *value* is its output.

        Args:
            value: One tensor, also where the module returns it in a tuple; the tuple's other items
                are `None` then. A tuple is given on as it is.

        Raises:
            UnsupportedGenerationError: `unsupported-generation`. In a generation, for a module
                that holds an attention: its cache would lack this step's keys and values.
            UnsupportedModuleError: `unsupported-module`. What the module returns is not known.
        """
        super().skip(self._as_returned(value))

    def _as_returned(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        items = self._whole._items_returned(self._path)
        return value if items is None else (value, *(None,) * (items - 1))

    def _standard(self, path: str) -> StandardPart:
        return self._whole._standard(path)


@suspending(StandardPart.skip)
def _skip_standard(self: StandardPart, value: Any) -> Any:
    self._refuse_short_cache()
    yield from ask(Skip(self._tree, self._path, self._as_returned(value)))


class StandardLayers(StandardPart):
    """The layers: `model.layers[i]`."""

    def _child(self, name: str) -> Node | None:
        if name not in self._module._modules:
            return None
        return self._standard(f"{self._path}.{name}")

    def named_children(self) -> list[tuple[str, Node]]:
        """List the layers with their numbers."""
        return [(name, self._standard(f"{self._path}.{name}")) for name in self._module._modules]


class StandardLayer(StandardPart):
    """A layer, with `attn` and `mlp` whatever the architecture calls them."""

    def __getattr__(self, name: str) -> Any:
        if name in ("attn", "mlp"):
            layer = int(self._path.rpartition(".")[2])
            return self._standard(self._whole.anatomy.path(name, layer))
        return super().__getattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), "attn", "mlp"})


class StandardAttention(StandardPart):
    """An attention, with its heads.

    `q`, `k`, `v` and `z` have shape (batch, seq, heads, d_head); `scores` and `pattern` have shape
    (batch, n_heads, seq, keys), also under grouped-query attention, and need an attention
    implementation that keeps them: `model.set_attn_implementation("eager")`.
    """

    q = HeadPort("q", "Queries of `n_heads` heads, as projected, before rotary positions.")
    k = HeadPort("k", "Keys of `n_kv_heads` heads, as projected, before rotary positions.")
    v = HeadPort("v", "Values of `n_kv_heads` heads, as projected.")
    z = HeadPort("z", "What each of `n_heads` heads gives, before the output projection.")
    scores = WeightPort("scores", "What the softmax gets: scaled, capped and masked.")
    pattern = WeightPort("pattern", "What each position takes from each: rows add up to one.")


class StandardMlp(StandardPart):
    """An MLP; of a mixture of experts, with where the tokens go."""

    routing = RoutingPort(
        "routing", "input", doc="A `Routing`: which tokens each expert gets, and what it gives."
    )
