"""`python -m tracekit.demo`: a GPT-2-shaped model, traced; each result checked by hand.

The model has random weights, so nothing is downloaded. Each part does one thing with a traced
block, does the same with hooks written by hand, and compares the two bit by bit. The last part
runs a block that has no source text at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import tracekit
from tracekit.testing import gpt2, no_residue


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def shape(value: Tensor) -> str:
    """Give a tensor's type and shape, as in `float32[1, 6, 768]`."""
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def same(by_block: Tensor, by_hand: Tensor) -> str:
    """Say that two tensors are equal bit by bit, or stop.

    Raises:
        AssertionError: They are not.
    """
    if not torch.equal(by_block, by_hand):
        message = f"traced and hooked differ: {shape(by_block)}, {shape(by_hand)}"
        raise AssertionError(message)
    return "equal to hand-written hooks, bit by bit"


def hooked(module: nn.Module, tokens: Tensor, hooks: dict[str, Callable[..., Any]]) -> Tensor:
    """Run a model with forward hooks, the way it is done by hand.

    Args:
        module: The model.
        tokens: Shape (batch, seq).
        hooks: By path; each gets (module, arguments, output), as `register_forward_hook` says.

    Returns:
        The logits. Shape (batch, seq, d_vocab).
    """
    handles = [
        module.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()
    ]
    try:
        logits: Tensor = module(tokens).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits


def first(output: Any) -> Tensor:
    """Give the hidden state of a block's output, a tensor or a tuple by transformers' version."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def read(model: Any, module: nn.Module, tokens: Tensor) -> None:
    """Read the residual stream after two blocks, and the logits."""
    with model.trace(tokens):
        early = first(model.transformer.h[3].output)
        late = first(model.transformer.h[9].output)
        logits = model.output.logits

    kept: dict[str, Tensor] = {}

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        kept["late"] = first(output)

    by_hand = hooked(module, tokens, {"transformer.h.9": keep})
    say("1. Read   `late = model.transformer.h[9].output`")
    say(f"   {shape(early)} after block 3, {shape(late)} after block 9")
    say(f"   {same(late, kept['late'])}; logits {same(logits, by_hand)}")


def edit(model: Any, module: nn.Module, tokens: Tensor) -> None:
    """Set a part of an activation to zero, in place."""
    with model.trace(tokens):
        model.transformer.h[5].mlp.output[:, -1] = 0
        logits = model.output.logits

    def zero(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
        output[:, -1] = 0

    by_hand = hooked(module, tokens, {"transformer.h.5.mlp": zero})
    plain = module(tokens).logits
    say("2. Edit   `model.transformer.h[5].mlp.output[:, -1] = 0`")
    say(f"   the last token's logits moved by {(logits - plain).abs().max():.3g} at most")
    say(f"   {same(logits, by_hand)}")


def replace(model: Any, module: nn.Module, tokens: Tensor) -> None:
    """Put another value in the place of an output, computed from one read before it."""
    with model.trace(tokens):
        before = model.transformer.h[0].mlp.output
        model.transformer.h[8].mlp.output = before * 2
        logits = model.output.logits

    kept: dict[str, Tensor] = {}

    def keep(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
        kept["before"] = output

    def put(_module: nn.Module, _arguments: Any, _output: Tensor) -> Tensor:
        return kept["before"] * 2

    hooks = {"transformer.h.0.mlp": keep, "transformer.h.8.mlp": put}
    by_hand = hooked(module, tokens, hooks)
    say("3. Replace   `model.transformer.h[8].mlp.output = before * 2`")
    say(f"   {same(logits, by_hand)}")


PROGRAM = """\
def norm(layer):
    out = layer.output
    return (out[0] if isinstance(out, tuple) else out)[:, -1].norm().item()

with model.trace(tokens) as tracer:
    norms = [norm(layer) for layer in model.transformer.h]
    if norms[-1] > 1000:
        tracer.stop()
"""


def without_source(model: Any, module: nn.Module, tokens: Tensor) -> None:
    """Use plain Python in the middle of the forward pass, in a program that is in no file."""
    names: dict[str, Any] = {"model": model, "tokens": tokens}
    exec(compile(PROGRAM, "<no file>", "exec"), names)  # noqa: S102  # the point
    norms = names["norms"]

    plain: list[float] = []

    def note(_module: nn.Module, _arguments: Any, output: Any) -> None:
        plain.append(first(output)[:, -1].norm().item())

    hooked(module, tokens, {f"transformer.h.{i}": note for i in range(len(norms))})
    if norms != plain:
        message = f"traced and hooked differ: {norms}, {plain}"
        raise AssertionError(message)
    say("4. Ordinary Python, without a source file   a string given to `exec`:")
    for line in PROGRAM.splitlines():
        say(f"      {line}".rstrip())
    say(f"   {len(norms)} reads in a helper function, in a comprehension, in step with the model")
    say("   equal to hand-written hooks, bit by bit")


def main() -> None:
    """Run all parts; an error ends the demo with status 1."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = gpt2(n_layer=12, n_embd=768, n_head=12, n_positions=1024, vocab_size=50257).eval()
    model = tracekit.Model(module)
    tokens = torch.randint(0, 50257, (1, 6))
    size = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    say(f"tracekit {tracekit.__version__}: a GPT-2 of {size:.0f} million random weights\n")
    with torch.no_grad(), no_residue(module):
        for part in (read, edit, replace, without_source):
            part(model, module, tokens)
            say()
    say("No hook is left on the model, and nothing of torch or Python is changed.")


if __name__ == "__main__":
    main()
