"""One standard name per part, across architectures.

Every decoder of transformers is an embedding, a list of layers, a last norm and a head; every
layer is an attention and an MLP. Only the names differ (`transformer.h`, `gpt_neox.layers`,
`backbone.layers`). `anatomy` finds the parts of one model by its structure, not by a list of
architectures: the list of layers is the `ModuleList` with as many entries as the config has
layers, whose entries hold an attention or a mixer. So a model inside a `PeftModel`, or one of a
class written after this, has its names, too.

What is found is checked before it is offered: each name leads to a module, and the residual
stream has the width that the config says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import Tensor, nn

from tracekit.errors import NoStandardNameError

_ATTENTION: Final = (
    "self_attn",
    "self_attention",
    "attention",
    "attn",
    "linear_attn",
)
_MLP: Final = ("mlp", "block_sparse_moe", "feed_forward", "ffn", "moe")
_MIXER: Final = ("mixer", "mamba", "temporal_block")
_NORM: Final = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")

STANDARD: Final = ("layers", "embed", "norm", "lm_head", "attn", "mlp")
"""The standard names; the last two are names of a layer's children."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a model, under the names of the literature. `None` where there is none.

    Args:
        n_layers: Layers.
        d_model: Width of the residual stream.
        n_heads: Query heads of an attention.
        n_kv_heads: Key and value heads; fewer than `n_heads` under grouped-query attention.
        d_head: Width of a head; where keys and values differ, of its values.
        d_vocab: Entries of the vocabulary.
    """

    n_layers: int
    d_model: int
    n_heads: int | None
    n_kv_heads: int | None
    d_head: int | None
    d_vocab: int


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Where the standard parts of one model are.

    Args:
        sizes: Its sizes.
        layers: Path of the list of layers.
        embed: Path of the token embedding.
        norm: Path of the norm before the head.
        lm_head: Path of the head.
        attn: For each layer, the name of its attention; `None` where it has none.
        mlp: For each layer, the name of its MLP; `None` where it has none.
    """

    sizes: Sizes
    layers: str
    embed: str
    norm: str | None
    lm_head: str | None
    attn: tuple[str | None, ...]
    mlp: tuple[str | None, ...]

    def rename(self) -> dict[str, str]:
        """Give the standard names as `rename` rules.

        Returns:
            Path of a module, from the root, to its alias: `{"transformer.h": "layers"}`; for parts
            of a layer the alias carries the layer's path. Parts that already have their standard
            name at its standard place are left out.
        """
        rules: dict[str, str] = {}
        for alias in ("layers", "embed", "norm", "lm_head"):
            path = getattr(self, alias)
            if path is not None and path != alias:
                rules[path] = alias
        for alias in ("attn", "mlp"):
            for index, name in enumerate(getattr(self, alias)):
                if name is not None and name != alias:
                    layer = f"{self.layers}.{index}"
                    rules[f"{layer}.{name}"] = f"{layer}.{alias}"
        return rules

    def path(self, name: str, layer: int | None = None) -> str:
        """Give the path of a standard part.

        Args:
            name: One of `STANDARD`.
            layer: Which layer, for `attn` and `mlp`; negative counts from the last.

        Returns:
            The path, from the root.

        Raises:
            NoStandardNameError: `no-standard-name`. This model has no such part.
        """
        found = getattr(self, name, None) if name in STANDARD else None
        if isinstance(found, tuple):
            index = layer if layer is not None else 0
            child = found[index]
            if child is not None:
                return f"{self.layers}.{index % len(found)}.{child}"
            found = None
        if found is None:
            have = [one for one in STANDARD if any(getattr(self, one) or ())]
            raise NoStandardNameError(
                f"this model has no part {name!r}",
                seen=f"standard names that it has: {', '.join(have)}",
                fix=f"print(model.{self.layers}[0])",
            )
        result: str = found
        return result


def sizes(config: Any) -> Sizes:
    """Read the sizes of a model from its config.

    Args:
        config: A config of transformers; of a model of several parts, its text part is read.

    Returns:
        The sizes.

    Raises:
        NoStandardNameError: `no-standard-name`. It is no config of a language model.
    """
    getter = getattr(config, "get_text_config", None)
    text = getter() if getter is not None else config

    def first(*names: str) -> int | None:
        for name in names:
            value = getattr(text, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    n_layers = first("num_hidden_layers", "n_layer", "num_layers")
    d_model = first("hidden_size", "n_embd", "d_model")
    d_vocab = first("vocab_size")
    if n_layers is None or d_model is None or d_vocab is None:
        raise NoStandardNameError(
            f"`{type(config).__name__}` is no config of a language model",
            why="it lacks a number of layers, a hidden size or a vocabulary",
        )
    n_heads = first("num_attention_heads", "n_head", "num_heads")
    if getattr(text, "model_type", "") in ("mamba", "mamba2", "falcon_mamba"):
        # Mamba 2 calls the groups of its state "heads"; there is no attention.
        n_heads = None
    n_kv_heads, d_head = n_heads, None
    if n_heads is not None:
        n_kv_heads = first("num_key_value_heads") or _falcon_kv_heads(text, n_heads) or n_heads
        # A latent attention calls the width of its rotary part `head_dim`.
        order = ("head_dim", "v_head_dim") if first("kv_lora_rank") is None else ("v_head_dim",)
        d_head = first(*order) or d_model // n_heads
    return Sizes(n_layers, d_model, n_heads, n_kv_heads, d_head, d_vocab)


def _falcon_kv_heads(config: Any, n_heads: int) -> int | None:
    if getattr(config, "new_decoder_architecture", False):
        # Older layouts leave this number in the config without using it.
        return getattr(config, "num_kv_heads", n_heads)
    return 1 if getattr(config, "multi_query", False) else None


def anatomy(module: nn.Module, config: Any) -> Anatomy:
    """Find the standard parts of a model.

    Args:
        module: The model, possibly inside an adapter's wrapper, possibly on the meta device.
        config: Its config.

    Returns:
        Where the parts are; each of them exists.

    Raises:
        NoStandardNameError: `no-standard-name`. The parts were not found, or the residual stream
            has not the width that the config says.
    """
    found = sizes(config)
    if getattr(config, "is_encoder_decoder", False):
        raise NoStandardNameError(
            f"`{type(module).__name__}` has an encoder and a decoder",
            why="the standard names are for models with one list of layers",
            fix='model.find("*layer*")',
        )
    layers, stack = _layers(module, found)
    parent = module.get_submodule(layers.rpartition(".")[0])
    prefix = layers.rpartition(".")[0]
    norm = _child(parent, _NORM)
    paths = {id(part): path for path, part in module.named_modules()}
    embed = _path_of(paths, _call(module, "get_input_embeddings"))
    head = _path_of(paths, _call(module, "get_output_embeddings"))
    if embed is None:
        raise _not_found(module, "an embedding", "get_input_embeddings() gives none")
    result = Anatomy(
        sizes=found,
        layers=layers,
        embed=embed,
        norm=None if norm is None else f"{prefix}.{norm}" if prefix else norm,
        lm_head=head,
        attn=tuple(_child(layer, _ATTENTION) for layer in stack),
        mlp=tuple(_child(layer, _MLP) for layer in stack),
    )
    _check(module, result)
    return result


def _layers(module: nn.Module, found: Sizes) -> tuple[str, list[nn.Module]]:
    candidates = [
        (path, list(part))
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == found.n_layers
        and all(_child(layer, (*_ATTENTION, *_MIXER)) is not None for layer in part)
    ]
    # A vision tower may have as many layers as the decoder: the decoder's are those of its width.
    fitting = [one for one in candidates if _width(one[1]) in (found.d_model, None)]
    decoder = _call(module, "get_decoder")
    if len(fitting) > 1 and isinstance(decoder, nn.Module):
        inside = {id(part) for part in decoder.modules()}
        fitting = [one for one in fitting if id(module.get_submodule(one[0])) in inside]
    if len(fitting) != 1:
        seen = ", ".join(path for path, _ in fitting or candidates) or "no list of that length"
        raise _not_found(module, f"one list of {found.n_layers} layers", seen)
    return fitting[0]


def _width(stack: Iterable[nn.Module]) -> int | None:
    """Read the width of the residual stream off the norms of a layer."""
    for layer in stack:
        for child in layer.children():
            weight = getattr(child, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 1:
                return int(weight.shape[0])
    return None


def _check(module: nn.Module, found: Anatomy) -> None:
    """Hold what was found against the config."""
    d_model = found.sizes.d_model
    widths: dict[str, int | None] = {
        found.layers: _width(module.get_submodule(found.layers).children())
    }
    if found.norm is not None:
        widths[found.norm] = _last_of(module.get_submodule(found.norm), d_model)
    wrong = {path: width for path, width in widths.items() if width not in (None, d_model)}
    if wrong:
        seen = ", ".join(f"{path}: {width}" for path, width in wrong.items())
        raise _not_found(module, f"a residual stream of width {d_model}", seen)


def _last_of(norm: nn.Module, default: int) -> int:
    weight = getattr(norm, "weight", None)
    return int(weight.shape[-1]) if isinstance(weight, Tensor) and weight.dim() else default


def _not_found(module: nn.Module, what: str, seen: str) -> NoStandardNameError:
    return NoStandardNameError(
        f"standard names: {what} was not found in `{type(module).__name__}`",
        seen=seen,
        fix='give them yourself: rename={"path.of.layers": "layers"}',
    )


def _child(layer: nn.Module, names: Iterable[str]) -> str | None:
    children = dict(layer.named_children())
    return next((name for name in names if name in children), None)


def _call(module: nn.Module, name: str) -> Any:
    """Call a getter of a model that may not have it, or not implement it."""
    base = getattr(module, "get_base_model", None)
    inner = base() if base is not None else module
    getter = getattr(inner, name, None)
    if getter is None:
        return None
    try:
        return getter()
    except (NotImplementedError, AttributeError):
        return None


def _path_of(paths: Mapping[int, str], part: Any) -> str | None:
    return paths.get(id(part)) if isinstance(part, nn.Module) else None
