"""Experts of a mixture: which tokens each gets, and what it makes of them.

All experts of a layer are one module with stacked weights, which adds their outputs up: no single
one of them is ever called. What can be read is what that module gets: the tokens, which experts
each of them goes to, and with which weights. The rest follows from it, by calling the module with
the tokens of one expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import torch
from torch import Tensor, nn

from tracekit._interleave.requests import Read, View
from tracekit._torch.tree import Port
from tracekit._vocabulary.served import watch_copies
from tracekit.errors import NoStandardNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CHILD: Final = "experts"
_MATRIX: Final = 2


class Routing:
    """Where the tokens of a mixture of experts go.

    Tokens are counted through the batch: token `row * seq + position`.

    Attributes:
        hidden: What the experts get. Shape (tokens, d_model); the model's own tensor.
        chosen: The experts of each token. Shape (tokens, k): edited in place, tokens go elsewhere.
        weights: How much each of them counts. Shape (tokens, k): edited in place, the model uses
            the new weights.
    """

    def __init__(
        self, call: Callable[..., Any], hidden: Tensor, chosen: Tensor, weights: Tensor
    ) -> None:
        self._call = call
        self.hidden = hidden
        self.chosen = chosen
        self.weights = weights

    def tokens(self, expert: int) -> Tensor:
        """Give the tokens that go to an expert.

        Args:
            expert: Its number, from 0.

        Returns:
            Shape (n,), ascending.
        """
        return (self.chosen == expert).any(-1).nonzero()[:, 0]

    def input(self, expert: int) -> Tensor:
        """Give what an expert gets.

        Args:
            expert: Its number, from 0.

        Returns:
            Shape (n, d_model), of `tokens(expert)`; a copy.
        """
        return self.hidden[self.tokens(expert)]

    def output(self, expert: int) -> Tensor:
        """Compute what an expert makes of its tokens, before it is weighted.

        Args:
            expert: Its number, from 0.

        Returns:
            Shape (n, d_model), of `tokens(expert)`; computed again, from the values as they are
            now.
        """
        given = self.input(expert)
        if not len(given):
            return given
        chosen = torch.full((len(given), 1), expert, device=given.device, dtype=self.chosen.dtype)
        ones = torch.ones(len(given), 1, device=given.device, dtype=self.weights.dtype)
        result: Tensor = self._call(given, chosen, ones)
        return result.reshape(given.shape)

    def replaced(self, total: Tensor, outputs: Mapping[int, Tensor]) -> Tensor:
        """Put other outputs of some experts into the sum of all.

        Args:
            total: Shape (tokens, d_model), or (batch, seq, d_model): the output of all experts.
            outputs: By expert, shape (n, d_model), before it is weighted.

        Returns:
            The new sum, to be assigned: `mlp.experts.output = ...`.
        """
        flat = total.flatten(0, -2).clone()
        for expert, new in outputs.items():
            tokens = self.tokens(expert)
            share = (self.weights * (self.chosen == expert))[tokens].sum(-1, keepdim=True)
            difference = (new - self.output(expert)) * share
            flat.index_add_(0, tokens, difference.to(flat.dtype))
        return flat.reshape(total.shape)

    def __repr__(self) -> str:
        tokens, k = self.chosen.shape
        return f"<{tokens} tokens, each to {k} experts>"


def _values(inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    args, kwargs = inputs
    hidden, chosen, weights = (*args, *kwargs.values())[:3]
    return hidden, chosen, weights


def _routing(module: Callable[..., Any], inputs: Any) -> Routing:
    hidden, chosen, weights = _values(inputs)
    flat = hidden.flatten(0, -2)
    if weights.shape == chosen.shape:
        return Routing(module, flat, chosen, weights)
    # Older versions of GPT-OSS give each token a weight for every expert, 0 for most.
    experts = weights.shape[1]

    def call(given: Tensor, chosen: Tensor, weights: Tensor) -> Any:
        return module(given, chosen, _scattered(chosen, weights, experts))

    return Routing(call, flat, chosen, weights.gather(1, chosen))


def _scattered(chosen: Tensor, weights: Tensor, experts: int) -> Tensor:
    return weights.new_zeros(len(weights), experts).scatter(1, chosen, weights)


def _put(inputs: Any, routing: Any) -> Any:
    """Put a routing back whose weights are no tensor of the model's."""
    if not isinstance(routing, Routing):
        _refuse()
    _hidden, _chosen, weights = _values(inputs)
    new = _scattered(routing.chosen, routing.weights, weights.shape[1])
    args, kwargs = inputs
    values = [new if value is weights else value for value in (*args, *kwargs.values())]
    named = dict(zip(kwargs, values[len(args) :], strict=True))
    return tuple(values[: len(args)]), named


def _watch(routing: Routing, inputs: Any) -> Callable[[], bool]:
    """Make what tells whether a routing was edited in a way that did not reach the model."""
    if _values(inputs)[2].shape == routing.chosen.shape:
        return lambda: False
    # The weights of all experts follow from both.
    edited = [watch_copies(one, ()) for one in (routing.chosen, routing.weights)]
    return lambda: any(each() for each in edited)


class RoutingPort(Port):
    """Where tokens go, when the model stands at the experts."""

    __slots__ = ()

    def request(self, node: Any) -> Read:
        """Give the request for the routing of *node*, always the same object.

        Raises:
            NoStandardNameError: `no-standard-name`. It has no experts, or keeps them otherwise.
        """
        requests: dict[str, Read] = node._requests
        request = requests.get(self.name)
        if request is None:
            module = _stacked(node._module)
            view = View(self.name, lambda inputs: _routing(module, inputs), _put, _watch)
            request = Read(node._tree, f"{node._path}.{_CHILD}", "input", view)
            requests[self.name] = request
        return request

    def __set__(self, obj: Any, value: Any) -> None:
        _refuse()

    def ask_set(self, obj: Any, value: Any) -> Any:
        """Refuse: a routing is edited, not replaced."""
        _refuse()
        yield


def _refuse() -> NoReturn:
    message = "a routing cannot be replaced; edit it in place: `routing.weights[...] = 0`"
    raise TypeError(message)


def _stacked(mlp: nn.Module) -> nn.Module:
    experts = mlp._modules.get(_CHILD)
    if experts is None:
        raise NoStandardNameError(
            f"`{type(mlp).__name__}` has no experts", why="it is one MLP for all tokens"
        )
    if isinstance(experts, nn.ModuleList):
        raise NoStandardNameError(
            f"`{type(mlp).__name__}` has no routing that is known",
            seen=f"its experts are {len(experts)} modules of their own",
            fix="ask each of them: model.layers[i].mlp.experts[e].output",
        )
    if all(weight.dim() < _MATRIX + 1 for weight in experts.parameters(recurse=False)):
        raise NoStandardNameError(
            f"`{type(mlp).__name__}` has no routing that is known",
            seen=f"`{type(experts).__name__}` does not hold stacked weights",
            fix="read its parts by their own names",
        )
    return experts
