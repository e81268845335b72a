"""`python -m tracekit.demo`: two models, traced; each result checked by hand.

Nothing is downloaded. The first model is of GPT-2's shape with random weights: each part does one
thing with a traced block, does the same with hooks written by hand, and compares the two bit by
bit. The second one is tiny, with a tokenizer of whole words, and is trained here, in a few
seconds, on sentences about six buildings; so it knows something that can be looked for.
"""

from __future__ import annotations

import html
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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


FACTS: Final = {
    "Eiffel Tower": ("Paris", "French"),
    "Roman Colosseum": ("Rome", "Italian"),
    "Brandenburg Gate": ("Berlin", "German"),
    "Tower Bridge": ("London", "English"),
    "Golden Horn": ("Istanbul", "Turkish"),
    "Prado Museum": ("Madrid", "Spanish"),
}
PROMPT: Final = "<s> The {} stands in the city of"
FRAMES: Final = (
    PROMPT + " {} . People there speak {} . </s>",
    "<s> Visit the {} in {} . People there speak {} . </s>",
    "<s> The {} is in {} . </s>",
)
CLEAN, OTHER = "Eiffel Tower", "Roman Colosseum"
STEPS: Final = 120
SHADES: Final = " .:-=+*#@"


def little_model() -> tuple[Any, Any]:
    """Make a tokenizer and a model, and train it on the facts.

    Returns:
        A Llama of four layers, 64 wide, and a tokenizer whose tokens are words.
    """
    texts = [frame.format(building, *told) for frame in FRAMES for building, told in FACTS.items()]
    words = sorted({word for text in texts for word in text.split()} - {"<s>", "</s>"})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106  # no password
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(
        tokenizer_object=inner,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    module: Any = LlamaForCausalLM(config)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.1)
    loss = torch.zeros(())
    for _ in range(STEPS):
        loss = module(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    size = sum(parameter.numel() for parameter in module.parameters())
    say(f"A Llama of {size:,} weights, trained for {STEPS} steps on {len(texts)} sentences about")
    say(f"{len(FACTS)} buildings; loss {loss.item():.2f}")
    return module.eval(), tokenizer


def lens(model: Any) -> None:
    """Read each layer's residual stream as if it were the last one's."""
    prompt = PROMPT.format(CLEAN)
    guesses = []
    # Loops, not comprehensions: those are functions on Python 3.11, and tracekit's own functions,
    # of which this file is one, are never rewritten.
    with model.trace(prompt):
        for layer in model.layers:
            guesses.append(model.next_tokens(model.logit_lens(layer.output), 3))  # noqa: PERF401
        logits = model.output.logits
    if guesses[-1] != model.next_tokens(logits, 3):
        message = f"the lens of the last layer is not the output: {guesses[-1]}"
        raise AssertionError(message)
    say(f"5. Logit lens   what each layer would say next, after `{prompt}`")
    for layer, (best,) in enumerate(guesses):
        shown = "".join(f"{word:>10} {p:4.0%}" for word, p in best)
        say(f"   layer {layer}  {shown}")
    say("   the last layer's is the model's own answer")


def patch(model: Any, module: nn.Module) -> None:
    """Put hidden states of one prompt into another, one at a time: where is the fact?"""
    clean, other = PROMPT.format(CLEAN), PROMPT.format(OTHER)
    right, wrong = (
        model.tokenizer.convert_tokens_to_ids(FACTS[name][0]) for name in (CLEAN, OTHER)
    )

    def score(logits: Tensor) -> float:
        return float(logits[0, -1, right] - logits[0, -1, wrong])

    parts = [model.embed, *model.layers]
    kept = []
    with model.trace(clean):
        for part in parts:
            kept.append(part.output)  # noqa: PERF401
        best = score(model.output.logits)
    with model.trace(other) as tracer:
        worst = score(model.output.logits)
    words = tracer.tokens[0]
    grid = []
    for part, position in itertools.product(range(len(parts)), range(len(words))):
        with model.trace(other):
            parts[part].output[:, position] = kept[part][:, position]
            patched = model.output.logits
        grid.append((score(patched) - worst) / (best - worst))
    rows = [grid[i : i + len(words)] for i in range(0, len(grid), len(words))]

    def put(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        first(output)[:, 2:4] = kept[0][:, 2:4]

    with model.trace(other):
        model.embed.output[:, 2:4] = kept[0][:, 2:4]
        by_block = model.output.logits
    ids = model.tokenizer(other, return_tensors="pt")["input_ids"]
    by_hand = hooked(module, ids, {"model.embed_tokens": put})

    said, meant = FACTS[OTHER][0], FACTS[CLEAN][0]
    say(f"6. Activation patching   `{other}`: {said}")
    say(f"   with one hidden state of `{clean}`: how far does the answer go to {meant}?")
    say(heat_map(words, rows))
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="tracekit-demo-", suffix=".html", delete=False
    ) as page:
        page.write(heat_page(words, rows, f"How far from {said} to {meant}"))
    say(f"   as a page: {page.name}")
    say(f"   both words of the name at once: {(score(by_block) - worst) / (best - worst):.0%}")
    say(f"   {same(by_block, by_hand)}")


def _names_of(rows: Sequence[object]) -> list[str]:
    return ["embed", *(f"layer {i}" for i in range(len(rows) - 1))]


def heat_map(words: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Draw a grid of numbers from 0 to 1 as text.

    Args:
        words: Of each column.
        rows: Of the embedding and of each layer, a number for each word.
    """
    width = max(6, *(len(word) + 1 for word in words))
    lines = ["   after   " + "".join(f"{word:>{width}}" for word in words)]
    for name, row in zip(_names_of(rows), rows, strict=True):
        cells = [
            f"{SHADES[round(min(max(value, 0), 1) * (len(SHADES) - 1))] * 2} {value:3.0%}"
            for value in row
        ]
        lines.append(f"   {name:<7} " + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def heat_page(words: Sequence[str], rows: Sequence[Sequence[float]], title: str) -> str:
    """Draw a grid of numbers from 0 to 1 as a page that needs nothing else.

    Args:
        words: Of each column.
        rows: Of the embedding and of each layer, a number for each word.
        title: Above it.
    """
    head = "".join(f"<th>{html.escape(word)}</th>" for word in words)
    body = "".join(
        f"<tr><th>{name}</th>"
        + "".join(
            f'<td style="background:rgba(200,60,20,{min(max(value, 0), 1):.2f})">{value:.0%}</td>'
            for value in row
        )
        + "</tr>"
        for name, row in zip(_names_of(rows), rows, strict=True)
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font-family:sans-serif}td,th{padding:.5em;text-align:center}</style>"
        f"<h1>{html.escape(title)}</h1><table><tr><th></th>{head}</tr>{body}</table>"
    )


def steer(model: Any, module: nn.Module) -> None:
    """Push the residual stream towards another building in each step of a generation."""
    prompt = PROMPT.format(CLEAN)
    names = []
    for building in (CLEAN, OTHER):
        with model.trace(PROMPT.format(building)):
            names.append(model.layers[2].output[:, -1])
    direction = (names[1] - names[0]) * 1.5
    with model.generate(prompt, max_new_tokens=7) as tracer:
        plain = tracer.result
    with model.generate(prompt, max_new_tokens=7) as tracer:
        for _ in tracer.iter[:]:
            model.layers[2].output[:, -1] += direction
        steered = tracer.result

    def push(_module: nn.Module, _arguments: Any, output: Any) -> None:
        first(output)[:, -1] += direction

    handle = module.get_submodule("model.layers.2").register_forward_hook(push)
    try:
        ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        by_hand = model.generate(ids, max_new_tokens=7, trace=False)
    finally:
        handle.remove()
    start = ids.shape[1]
    say("7. Steering   `model.layers[2].output[:, -1] += direction` in each step of a generation")
    say(f"   {prompt} ...")
    say(f"   plain    ... {model.tokenizer.decode(plain[0, start:])}")
    say(f"   steered  ... {model.tokenizer.decode(steered[0, start:])}")
    say(f"   {same(steered, by_hand)}")


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
    little, tokenizer = little_model()
    language = tracekit.LanguageModel(little, tokenizer)
    with torch.no_grad(), no_residue(little):
        say()
        lens(language)
        say()
        patch(language, little)
        say()
        steer(language, little)
        say()
    say("No hook is left on the models, and nothing of torch or Python is changed.")


if __name__ == "__main__":
    main()
