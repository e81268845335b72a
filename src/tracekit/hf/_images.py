"""Rows of a batch in which prompts have different numbers of images.

A model of text and images runs the images of all prompts one after the other and puts what comes
out in the places of image tokens, in order. So prompts with and without images go into one call.
What is seen in the text's part of the model are rows of prompts as ever; in the part that sees
images there are rows of images, which are nobody's: asked for there, they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from torch import Tensor, nn

from tracekit._torch.axes import BatchRules
from tracekit.errors import BatchAxisError

from ._names import Anatomy
from ._prompts import Prompt

IMAGES: Final = "pixel_values"
"""What a forward calls the images."""

_OF_IMAGES: Final = "image_hidden_states"
"""What an output calls the images' part of it."""


def image_token(config: Any) -> int | None:
    """Give the id that stands in a prompt for a piece of an image; `None` where there is none.

    Args:
        config: Of a model of text and images.
    """
    for name in ("image_token_id", "image_token_index"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def image_rules(prompts: Sequence[Prompt], config: Any, where: Anatomy) -> BatchRules | None:
    """Make the batching rule of a run, where its prompts differ in their numbers of images.

    Args:
        prompts: Those of the invokes.
        config: The model's.
        where: Its parts.

    Returns:
        The rule; `None` where each row has one image, or none has any.
    """
    token = image_token(config)
    found = [prompt.features.get(IMAGES) for prompt in prompts]
    uneven = any(
        one is None or len(one) != prompt.rows for one, prompt in zip(found, prompts, strict=True)
    )
    if token is None or not uneven or all(one is None for one in found):
        return None
    text = where.layers.rpartition(".")[0]
    return ImageRules(text, (where.embed, where.norm, where.lm_head), token)


class ImageRules(BatchRules):
    """The batching rule of one call with images for some of its prompts.

    Args:
        text: Path of the part that reads text: its children's rows are those of prompts.
        heads: Paths of further modules of which that is true.
        token: The id that stands for a piece of an image.
    """

    def __init__(self, text: str, heads: tuple[str | None, ...], token: int) -> None:
        super().__init__(self._state)
        self._text = text
        self._heads = heads
        self._token = token

    def _state(self, path: str, port: str, leaf: tuple[Any, ...]) -> Any:
        del port
        around = not path or f"{self._text}.".startswith(f"{path}.")
        if around or path in self._heads or path.startswith(f"{self._text}."):
            return None if {_OF_IMAGES, IMAGES} & set(leaf) else NotImplemented
        raise BatchAxisError(
            f"`{path}` has no rows of its own for each invoke",
            why="the prompts of this run have different numbers of images, and this part of the "
            "model sees images only",
            fix="read it in `with tracer.invoke():`, which sees all rows, or trace the prompt "
            "alone",
        )

    def _text_alone(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in kwargs.items() if key != IMAGES}
        ids = found.get("input_ids")
        if isinstance(ids, Tensor):
            found["input_ids"] = ids.masked_fill(ids == self._token, 0)
        return found

    def learn(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        total: int,
    ) -> bool:
        """Learn the batch axes of the text's part, from runs on text alone.

        Args:
            module: Whose submodules' inputs and outputs are watched.
            call: What is called.
            args: Joined inputs of *total* rows.
            kwargs: Joined keyword inputs.
            total: Rows of the batch, in inputs.

        Returns:
            Whether it is known now.
        """
        return super().learn(module, call, args, self._text_alone(kwargs), total)

    def learn_inside(
        self,
        name: Hashable,
        joined: Any,
        total: int,
        watch: Callable[..., AbstractContextManager[None]],
    ) -> None:
        """Learn the batch axes of values inside a forward, likewise.

        Args:
            name: What is watched.
            joined: Module, call, arguments and keyword arguments of the run.
            total: Rows of the batch, in inputs.
            watch: Makes a context in which the values are noted.
        """
        module, call, args, kwargs = joined
        super().learn_inside(name, (module, call, args, self._text_alone(kwargs)), total, watch)
