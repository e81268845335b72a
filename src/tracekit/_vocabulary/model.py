"""The public wrapper of any module: the base, and the words that stand on a run."""

from __future__ import annotations

from .._torch.base import Traceable
from .._torch.tree import Node


class Model(Traceable):
    """A wrapped `torch.nn.Module`, whose internal values can be read and changed in a block.

    Wrapping changes nothing: no hook is installed, and a call of the wrapper is a call of the
    module.

    Example:
        >>> import torch
        >>> model = Model(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
        >>> with model.trace(torch.ones(1, 2)):
        ...     hidden = model[0].output
        >>> hidden.shape
        torch.Size([1, 2])
    """

    @classmethod
    def _child_class(cls) -> type[Node]:
        return Model
