"""The base: hooks, written by hand as one would who knows what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .subjects import LAYERS, PATCHED, POSITIONS, TOKENS, Subject


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _keeping(module: Any, paths: list[str], call: Callable[[], object]) -> Callable[[], Any]:
    """Put hooks on, call, take them off; give the outputs."""
    targets = [module.get_submodule(path) for path in paths]

    def run() -> list[torch.Tensor]:
        kept = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            kept.append(output)

        handles = [target.register_forward_hook(hook) for target in targets]
        try:
            call()
        finally:
            for handle in handles:
                handle.remove()
        return kept

    return run


def _editing(
    module: Any, paths: list[str], edit: Callable[[torch.Tensor], None], call: Callable[[], Any]
) -> Callable[[], Any]:
    targets = [module.get_submodule(path) for path in paths]

    def run() -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            edit(_first(output))

        handles = [target.register_forward_hook(hook) for target in targets]
        try:
            return call()
        finally:
            for handle in handles:
                handle.remove()

    return run


def enter(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs
    return _keeping(module, ["2"], lambda: module(*inputs))


def reads(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs
    paths = [f"transformer.h.{number}" for number in range(LAYERS)]
    return _keeping(module, paths, lambda: module(*inputs))


def edits(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs

    def edit(hidden: torch.Tensor) -> None:
        hidden[:, -1] = 0

    paths = [f"transformer.h.{number}" for number in range(LAYERS)]
    return _editing(module, paths, edit, lambda: module(*inputs).logits)


def patch(subject: Subject) -> Callable[[], Any]:
    module = subject.module
    both = torch.cat([subject.inputs[0], subject.other[0]])

    def edit(hidden: torch.Tensor) -> None:
        hidden[1:, -1] = hidden[:1, -1]

    paths = [f"transformer.h.{PATCHED}"]
    return _editing(module, paths, edit, lambda: module(both).logits[1:])


def cache(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs
    targets = [
        (path, target)
        for path, target in module.named_modules()
        if type(target).forward is not torch.nn.Module.forward
    ]

    def copy(output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return output.detach().clone()
        if isinstance(output, tuple):
            return tuple(copy(item) for item in output)
        if isinstance(output, dict):
            return {key: copy(item) for key, item in output.items()}
        return output

    def run() -> dict[str, Any]:
        kept: dict[str, Any] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                kept[path] = copy(output)

            return hook

        handles = [target.register_forward_hook(keep(path)) for path, target in targets]
        try:
            module(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        return kept

    return run


def generation(subject: Subject) -> Callable[[], Any]:
    module = subject.module
    target = module.get_submodule(f"transformer.h.{PATCHED}")

    def run() -> list[torch.Tensor]:
        kept = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            kept.append(_first(output)[:, -1])

        handle = target.register_forward_hook(hook)
        try:
            module.generate(
                *subject.inputs,
                attention_mask=torch.ones_like(subject.inputs[0]),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
            )
        finally:
            handle.remove()
        return kept

    return run


def gradients(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs
    targets = list(module.transformer.h)

    def run() -> list[torch.Tensor]:
        module.zero_grad()
        grads = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            _first(output).register_hook(grads.append)

        handles = [target.register_forward_hook(hook) for target in targets]
        try:
            module(*inputs).logits.sum().backward()
        finally:
            for handle in handles:
                handle.remove()
        return grads

    return run


def idle_module(subject: Subject) -> Callable[[], Any]:
    module, (given,) = subject.module, subject.inputs
    return lambda: module(given)


idle_wrapper = idle_module


def sweep(subject: Subject) -> Callable[[], Any]:
    module, other, clean = subject.module, subject.other, subject.clean
    targets = list(module.transformer.h)

    def run() -> list[torch.Tensor]:
        answers = []
        for layer in range(LAYERS):
            for position in range(POSITIONS):

                def hook(
                    _module: Any, _args: Any, output: Any, layer=layer, position=position
                ) -> None:
                    _first(output)[:, position] = clean[layer][:, position]

                handle = targets[layer].register_forward_hook(hook)
                try:
                    answers.append(module(*other).logits[:, -1].max())
                finally:
                    handle.remove()
        return answers

    return run


def scan(subject: Subject) -> Callable[[], Any]:
    from torch._subclasses import FakeTensorMode

    module, inputs = subject.module, subject.inputs
    target = module.get_submodule(f"transformer.h.{PATCHED}")

    def run() -> list[torch.Size]:
        kept = []

        def hook(_module: Any, _args: Any, output: Any) -> None:
            kept.append(_first(output).shape)

        handle = target.register_forward_hook(hook)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                module(*[mode.from_tensor(tensor) for tensor in inputs])
        finally:
            handle.remove()
        return kept

    return run


def requests(subject: Subject) -> Callable[[], Any]:
    module, inputs = subject.module, subject.inputs
    return _keeping(module, [str(at) for at in range(subject.size)], lambda: module(*inputs))


def invokes(subject: Subject) -> Callable[[], Any]:
    module = subject.module
    joined = torch.cat(subject.inputs)
    keep = _keeping(module, ["transformer.h.1"], lambda: module(joined))

    def run() -> list[torch.Tensor]:
        return [row[None] for row in _first(keep()[0])]

    return run
