"""Which token stands where: positions counted in each row's own tokens.

In a batch a row's first token stands wherever its padding ends; in a later step of a generation
the model sees one position, which is column 0 of what a block reads and yet the row's twelfth
token. `Tokens` numbers the columns of the forward that runs now: `numbers[row, column]` is the
number of that token in its own row, from 0, and -1 at pads. All else follows from that.

Which columns a step has follows from the step's number alone: the prompt, in one piece or in the
chunks that were asked for, then one column a step, or all of them again where there is no cache.
So nothing of a run is observed, and a run that nobody asks pays nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationMixin

from tracekit.errors import PromptError

from ._prompts import Prompt, cached_columns, given_cache

_LAST_APART: Final = "_prefill_chunking"
"""The method of older versions, which read a prompt in pieces up to its last column."""

PAD: Final = -1
"""The number of a column that holds no token of its row."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which columns of the whole sequence each step of a run sees.

    Args:
        start: Columns that a given cache already holds.
        width: Columns of the prompt, those of the cache included.
        chunk: The prompt is read in pieces of this many columns; `None`: in one.
        last_apart: The pieces leave the last column of the prompt to a step of its own.
        cached: Later steps see one new column each; else they see all columns again.
    """

    start: int
    width: int
    chunk: int | None = None
    last_apart: bool = False
    cached: bool = True

    def columns(self, step: int) -> tuple[int, int]:
        """Give the columns of a step, half-open.

        Args:
            step: From 0.
        """
        if not self.cached:
            return 0, self.width + step
        pieces, read = 1, self.width
        if self.chunk is not None:
            read -= self.last_apart
            pieces = max(1, -(-(read - self.start) // self.chunk))
        if step < pieces:
            begin = self.start + step * (self.chunk or 0)
            return begin, read if step == pieces - 1 else begin + (self.chunk or 0)
        return read + step - pieces, read + step - pieces + 1


@dataclasses.dataclass(slots=True)
class _Progress:
    """How far a run is; shared by all who look at some of its rows."""

    step: Callable[[], int]
    over: bool = False
    answers: Tensor | None = None


class Tokens:
    """The tokens of one run, row by row, without pads.

    Args:
        ids: The prompts, shape (rows, seq). `None` when the run was given embeddings or features.
        mask: Shape (rows, seq), 1 at tokens and 0 at pads.
        schedule: Which columns each step sees.
        step: Gives the number of the forward that runs now; negative before the first.
        decode: Gives the text of one token id; `None` when the model has no tokenizer.
        ends: Ids that end a row of a generation.
        copies: Rows that follow one another for each prompt: beams, several returned sequences.
        reorders: These rows change places between steps, as beams do.
    """

    def __init__(
        self,
        ids: Tensor | None,
        mask: Tensor,
        *,
        schedule: Schedule,
        step: Callable[[], int] = lambda: 0,
        decode: Callable[[int], str] | None = None,
        ends: Sequence[int] = (),
        copies: int = 1,
        reorders: bool = False,
    ) -> None:
        mask = mask.detach().to("cpu", torch.bool)
        if mask.shape[1] < schedule.width:
            # The columns of a given cache, of which only the number is known.
            before = torch.ones(len(mask), schedule.width - mask.shape[1], dtype=torch.bool)
            mask = torch.cat([before, mask], 1)
        self._mask = mask.repeat_interleave(copies, 0)
        self._ids = None if ids is None else ids.detach().to("cpu").repeat_interleave(copies, 0)
        self._schedule = schedule
        self._copies = copies
        self._progress = _Progress(step)
        self._rows = slice(None)
        self._decode = decode
        self._ends = frozenset(ends)
        self._reorders = reorders

    def finish(self, result: object) -> None:
        """Take note of what a generation returned.

        Args:
            result: Ids of prompts and answers, shape (rows, seq), or an output that holds them as
                `sequences`.
        """
        progress = self._progress
        progress.step, progress.over = (lambda: 0), True
        sequences = getattr(result, "sequences", result)
        if isinstance(sequences, Tensor) and sequences.dim() == 2 and not self._reorders:
            width = 0 if self._ids is None else self._ids.shape[1]
            progress.answers = sequences.detach().to("cpu")[:, width:]

    def rows(self, rows: slice) -> Tokens:
        """Give the tokens of some rows, such as one invoke's.

        Args:
            rows: Half-open, counted in prompts.
        """
        mine = slice(rows.start * self._copies, rows.stop * self._copies)
        part: Tokens = object.__new__(Tokens)
        part.__dict__.update(self.__dict__)
        part._mask = self._mask[mine]
        part._ids = None if self._ids is None else self._ids[mine]
        part._rows = mine
        return part

    # Counting.

    def _count(self, step: int) -> Tensor:
        """Number the columns of a step. Shape (rows, seq of the step)."""
        start, stop = self._schedule.columns(step)
        mask = self._mask
        missing = stop - mask.shape[1]
        if missing > 0:
            more = torch.ones(len(mask), missing, dtype=torch.bool)
            mask = torch.cat([mask, more], 1)
        numbers = mask.long().cumsum(1) - 1
        numbers[~mask] = PAD
        return numbers[:, start:stop]

    @property
    def numbers(self) -> Tensor:
        """Each column's number in its own row's tokens, in the forward that runs now.

        Shape (rows, seq), int64, on the CPU; -1 at pads. In a later step of a generation seq is 1
        and the numbers go on from the prompt's. Before and after a run: those of the first step.
        """
        return self._count(max(self._progress.step(), 0))

    @property
    def lengths(self) -> Tensor:
        """How many tokens each row's prompt has. Shape (rows,), int64, on the CPU."""
        return self._mask.sum(1)

    @property
    def prompt(self) -> Tensor:
        """True at the columns of the forward that runs now which are prompt. Shape (rows, seq)."""
        numbers = self.numbers
        return (numbers != PAD) & (numbers < self.lengths[:, None])

    @property
    def answer(self) -> Tensor:
        """True at the columns of the forward that runs now which were generated. (rows, seq)."""
        return self.numbers >= self.lengths[:, None]

    def where(
        self, which: int | str | Sequence[int], row: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find tokens in the forward that runs now.

        `hidden[tokens.where(7)] += v` edits each row's token 7, and nothing in a step in which no
        row has it.

        Args:
            which: The number of a token, from 0; negative counts back from the end of the prompt.
                Several numbers; or the text of a token, blanks around it left out.
            row: Only in this row.

        Returns:
            Rows and columns, to index a value of shape (rows, seq, ...) with. Both of shape
            (found,), int64.

        Raises:
            PromptError: `bad-prompt`. No row has a token of this text.
        """
        numbers, lengths = self.numbers, self.lengths
        found = torch.zeros_like(numbers, dtype=torch.bool)
        if isinstance(which, str):
            for index, named in enumerate(self._named(which)):
                for number in named:
                    found[index] |= numbers[index] == number
        else:
            for number in [which] if isinstance(which, int) else which:
                target = lengths + number if number < 0 else torch.full_like(lengths, number)
                found |= (numbers == target[:, None]) & (numbers != PAD)
        if row is not None:
            others = torch.ones(len(found), dtype=torch.bool)
            others[row] = False
            found[others] = False
        rows, columns = found.nonzero(as_tuple=True)
        return rows, columns

    def _named(self, text: str) -> list[list[int]]:
        rows = list(self)
        found = [
            [number for number, token in enumerate(row) if token.strip() == text.strip()]
            for row in rows
        ]
        if not any(found):
            raise PromptError(
                f"no row has a token {text!r}",
                seen="tokens: " + "; ".join(" | ".join(row) for row in rows[:3]),
            )
        return found

    # Reading.

    @property
    def ids(self) -> list[list[int]]:
        """The ids of each row, pads left out; after a generation also those of the answer.

        Raises:
            PromptError: `bad-prompt`. The run was given embeddings.
        """
        if self._ids is None:
            raise PromptError(
                "this run was given no token ids",
                fix="tokens.numbers counts its columns all the same",
            )
        mask = self._mask[:, self._mask.shape[1] - self._ids.shape[1] :]
        prompts = [row[keep].tolist() for row, keep in zip(self._ids, mask, strict=True)]
        answers = self._progress.answers
        if answers is None:
            return prompts
        return [
            prompt + self._until_end(answer.tolist())
            for prompt, answer in zip(prompts, answers[self._rows], strict=True)
        ]

    def _until_end(self, answer: list[int]) -> list[int]:
        for index, one in enumerate(answer):
            if one in self._ends:
                return answer[: index + 1]
        return answer

    def __len__(self) -> int:
        return len(self._mask)

    def __getitem__(self, row: int) -> list[str]:
        """Give the text of each token of a row."""
        decode = self._decode
        return [decode(one) if decode is not None else str(one) for one in self.ids[row]]

    def __iter__(self) -> Iterator[list[str]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        if self._ids is None:
            return f"<rows of {self.lengths.tolist()} positions without ids>"
        lines = [
            " ".join(f"{number}:{token!r}" for number, token in enumerate(row)) for row in self
        ]
        return "\n".join(f"[{index}] {line}" for index, line in enumerate(lines))

    def along(self, steps: Sequence[Tensor], axis: int = 1) -> list[Tensor]:
        """Join the values of a site in each step of a generation along tokens.

        Equivalent to `torch.cat(steps, axis)` for each row, except that pads are left out, and,
        once the generation is over, what follows the token that ended the row.

        Args:
            steps: One value per step, from step 0; shape (rows, seq of the step, ...).
            axis: The axis that counts tokens.

        Returns:
            One tensor per row, prompt and answer, of the shape of a step's value without the batch
            axis; *axis* is as long as the row has tokens that the model has read. The last token
            of an answer has no values: the model never read it.

        Raises:
            PromptError: `bad-prompt`. The values are not those of steps 0, 1, 2 ..., or the run
                was a beam search.
        """
        if self._reorders:
            raise PromptError(
                "values of a beam search cannot be joined along tokens",
                why="beams change rows between steps, so a row of one step is another text's",
                fix="generate greedily or by sampling",
            )
        numbers = [self._count(step) for step in range(len(steps))]
        for step, (value, number) in enumerate(zip(steps, numbers, strict=True)):
            if value.shape[0] != number.shape[0] or value.shape[axis] != number.shape[1]:
                raise PromptError(
                    f"the value of step {step} has shape {tuple(value.shape)}, the step has "
                    f"{number.shape[0]} rows of {number.shape[1]} tokens",
                    why="the values of all steps are needed, from step 0",
                    fix="for another token axis: along(values, axis=2)",
                )
        ends = (
            [len(ids) for ids in self.ids]
            if self._progress.over and self._ids is not None
            else None
        )
        result: list[Tensor] = []
        for row in range(len(self)):
            parts = []
            following = 0
            for value, number in zip(steps, numbers, strict=True):
                # Without a cache each step has all tokens again.
                keep = number[row] >= following
                if ends is not None:
                    keep &= number[row] < ends[row]
                following = max(following, int(number[row].max()) + 1)
                columns = keep.nonzero()[:, 0].to(value.device)
                parts.append(value[row].index_select(axis - 1, columns))
            result.append(torch.cat(parts, axis - 1))
        return result


def tokens_of(
    prompt: Prompt,
    step: Callable[[], int],
    *,
    decode: Callable[[int], str] | None,
    generating: bool,
    of_decoder: bool,
    defaults: object,
) -> Tokens | None:
    """Lay out the tokens of a run.

    Args:
        prompt: All its prompts, merged.
        step: Gives the number of the forward that runs now; negative before the first.
        decode: Gives the text of one token id.
        generating: It is a generation.
        of_decoder: The model has an encoder and a decoder; the steps are the decoder's.
        defaults: The model's generation config, for options that are not given.

    Returns:
        The tokens; `None` for a run of images or audio alone.
    """
    fields, options = prompt.fields, prompt.options
    ids, embeds = fields.get("input_ids"), fields.get("inputs_embeds")
    lead = ids if ids is not None else embeds
    if of_decoder and generating:
        # The steps are the decoder's; its prompt is the token that it starts with.
        start = fields.get("decoder_input_ids")
        ids, fields = None, {}
        lead = start if start is not None else torch.zeros(prompt.rows, 1)
    if lead is None:
        return None
    mask = fields.get("attention_mask")
    if mask is None or mask.dim() != 2 or mask.shape[0] != lead.shape[0]:
        mask = torch.ones(lead.shape[:2])

    def setting(name: str, default: Any = None) -> Any:
        for place in (options, options.get("generation_config")):
            found = place.get(name) if isinstance(place, dict) else getattr(place, name, None)
            if found is not None:
                return found
        found = getattr(defaults, name, None)
        return default if found is None else found

    cache = given_cache(options)
    past = 0 if cache is None else cached_columns(cache)
    width = max(lead.shape[1], mask.shape[1])
    schedule = Schedule(past, width if generating and width > past else past + lead.shape[1])
    copies, beams, ends = 1, 1, []
    if generating:
        beams = setting("num_beams", 1)
        copies = max(beams, setting("num_return_sequences", 1))
        found = setting("eos_token_id", [])
        ends = [found] if isinstance(found, int) else list(found)
        schedule = dataclasses.replace(
            schedule,
            chunk=setting("prefill_chunk_size"),
            last_apart=hasattr(GenerationMixin, _LAST_APART),
            cached=bool(setting("use_cache", default=True)),
        )
    return Tokens(
        ids,
        mask,
        schedule=schedule,
        step=step,
        decode=decode,
        ends=ends,
        copies=copies,
        reorders=beams > 1,
    )
