"""Which token stands where: positions counted in each row's own tokens.

In a batch a row's first token stands wherever its padding ends; in a later step of a generation
the model sees one position, which is column 0 of what a block reads and yet the row's twelfth
token. `Tokens` numbers the columns of the forward that runs now: `numbers[row, column]` is the
number of that token in its own row, from 0, and -1 at pads. All else follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from tracekit.errors import PromptError

PAD: Final = -1
"""The number of a column that holds no token of its row."""

_CACHES: Final = ("cache", "past_key_values", "cache_params", "past_key_value")


class Tokens:
    """The tokens of one run, row by row, without pads.

    Args:
        ids: Shape (rows, seq). `None` when the run was given embeddings or features.
        mask: Shape (rows, seq), 1 at tokens and 0 at pads; `None` when all columns are tokens.
        shape: `(rows, seq)`, for a run without ids.
        decode: Gives the text of one token id; `None` when the model has no tokenizer.
        ends: Ids that end a row of a generation.
        reorders: Rows change places between steps, as beams do; then only the prompt is known.
    """

    def __init__(
        self,
        ids: Tensor | None,
        mask: Tensor | None,
        *,
        shape: tuple[int, int] | None = None,
        decode: Callable[[int], str] | None = None,
        ends: Sequence[int] = (),
        reorders: bool = False,
    ) -> None:
        if ids is None and shape is None:
            raise PromptError(
                "this run has no tokens to count",
                why="it was given neither token ids nor embeddings",
            )
        rows, seq = shape if ids is None or shape is not None else ids.shape  # type: ignore[misc]
        if mask is None or mask.dim() != 2:  # noqa: PLR2004
            mask = torch.ones(rows, seq, dtype=torch.long)
        self._mask = mask.detach().to("cpu", torch.bool)
        self._ids = None if ids is None else ids.detach().to("cpu")
        self._decode = decode
        self._ends = frozenset(ends)
        self._reorders = reorders
        self._lengths = self._mask.sum(1)
        self._seen = 0
        self._steps: list[Tensor] = []
        self._rows: slice | None = None
        self._root = self
        self._begin(0, seq)

    # What the run says.

    def _begin(self, start: int, stop: int) -> None:
        """Let the columns of the forward that runs now be *start* to *stop* of the whole."""
        missing = stop - self._mask.shape[1]
        if missing > 0:
            more = torch.ones(self._mask.shape[0], missing, dtype=torch.bool)
            self._mask = torch.cat([self._mask, more], 1)
        numbers = self._mask.long().cumsum(1) - 1
        numbers[~self._mask] = PAD
        self._numbers = numbers[:, start:stop]
        self._seen = max(self._seen, stop)
        self._steps.append(self._numbers)

    def observe(self, kwargs: Mapping[str, Any], *, first: bool) -> None:
        """Take note of a forward that is about to run.

        Args:
            kwargs: The keyword arguments of the model's forward.
            first: It is the first forward of the run.
        """
        ids = kwargs.get("input_ids")
        if ids is None:
            ids = kwargs.get("decoder_input_ids")
        given = ids if ids is not None else kwargs.get("inputs_embeds")
        if not isinstance(given, Tensor):
            return
        width = int(given.shape[1])
        past = 0 if first else self._past(kwargs)
        factor = given.shape[0] // max(self._mask.shape[0], 1)
        if factor > 1:
            # Beams and several returned sequences: each row's copies follow one another.
            self._mask = self._mask.repeat_interleave(factor, 0)
            self._lengths = self._lengths.repeat_interleave(factor, 0)
            if self._ids is not None:
                self._ids = self._ids.repeat_interleave(factor, 0)
        if first:
            self._steps.clear()
        self._begin(past, past + width)
        if self._ids is not None and ids is not None and not self._reorders:
            known = self._ids.shape[1]
            if past <= known < past + width:
                self._ids = torch.cat([self._ids[:, :past], ids.detach().to("cpu")], 1)

    def _past(self, kwargs: Mapping[str, Any]) -> int:
        """Say how many columns lie before this forward's first."""
        cache = next((kwargs[key] for key in _CACHES if kwargs.get(key) is not None), None)
        if cache is None:
            return 0
        length = getattr(cache, "get_seq_length", None)
        if length is None:
            return self._seen
        try:
            return int(length())
        except (NotImplementedError, TypeError, ValueError, IndexError):
            # The state of a recurrent model has no length.
            return self._seen

    # What a person asks.

    def rows(self, rows: slice) -> Tokens:
        """Give the tokens of some rows, such as one invoke's; it follows the run, too.

        Args:
            rows: Half-open, counted in rows of the batch.
        """
        part: Tokens = object.__new__(type(self))
        part._root = self._root  # noqa: SLF001
        part._rows = rows  # noqa: SLF001
        return part

    def _cut(self, value: Tensor) -> Tensor:
        return value if self._rows is None else value[self._rows]

    @property
    def numbers(self) -> Tensor:
        """Each column's number in its own row's tokens, in the forward that runs now.

        Shape (rows, seq), int64, on the CPU; -1 at pads. In a later step of a generation seq is 1
        and the numbers go on from the prompt's.
        """
        return self._cut(self._root._numbers)  # noqa: SLF001

    @property
    def lengths(self) -> Tensor:
        """How many tokens each row's prompt has. Shape (rows,), int64."""
        return self._cut(self._root._lengths)  # noqa: SLF001

    @property
    def prompt(self) -> Tensor:
        """True at the columns of the forward that runs now which are prompt. Shape (rows, seq)."""
        numbers = self.numbers
        return (numbers != PAD) & (numbers < self.lengths[:, None])

    @property
    def answer(self) -> Tensor:
        """True at the columns of the forward that runs now which were generated. (rows, seq)."""
        return self.numbers >= self.lengths[:, None]

    def where(self, which: int | str | Sequence[int], row: int | None = None) -> tuple[Tensor, Tensor]:
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
        """
        numbers = self.numbers
        found = torch.zeros_like(numbers, dtype=torch.bool)
        if isinstance(which, str):
            for index, numbers_of_text in enumerate(self._find(which)):
                for number in numbers_of_text:
                    found[index] |= numbers[index] == number
        else:
            wanted = [which] if isinstance(which, int) else list(which)
            for number in wanted:
                target = self.lengths + number if number < 0 else torch.full_like(self.lengths, number)
                found |= (numbers == target[:, None]) & (numbers != PAD)
        if row is not None:
            others = torch.ones(len(found), dtype=torch.bool)
            others[row] = False
            found[others] = False
        rows, columns = found.nonzero(as_tuple=True)
        return rows, columns

    def _find(self, text: str) -> list[list[int]]:
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

    @property
    def ids(self) -> list[list[int]]:
        """The ids of each row, pads left out; a generation's answer as far as it was read."""
        root = self._root
        if root._ids is None:  # noqa: SLF001
            raise PromptError(
                "this run was given embeddings, which have no token ids",
                fix="tokens.numbers counts them all the same",
            )
        ids, mask = self._cut(root._ids), self._cut(root._mask)  # noqa: SLF001
        width = ids.shape[1]
        return [row[keep[:width]].tolist() for row, keep in zip(ids, mask, strict=True)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> list[str]:
        """Give the text of each token of a row."""
        decode = self._root._decode  # noqa: SLF001
        ids = self.ids[row]
        return [decode(one) if decode is not None else str(one) for one in ids]

    def __iter__(self) -> Iterator[list[str]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        if self._root._ids is None:  # noqa: SLF001
            return f"Tokens({self.lengths.tolist()} embedded)"
        lines = [
            " ".join(f"{number}:{token!r}" for number, token in enumerate(row)) for row in self
        ]
        return "\n".join(f"[{index}] {line}" for index, line in enumerate(lines))

    def along(self, steps: Sequence[Tensor], axis: int = 1) -> list[Tensor]:
        """Join the values of a site in each step of a generation along tokens.

        Equivalent to `torch.cat(steps, axis)` for each row, except that pads are left out, and
        what follows the token that ended the row.

        Args:
            steps: One value per step, from the first; shape (rows, seq of the step, ...). A chunked
                prefill has several steps for the prompt.
            axis: The axis that counts tokens.

        Returns:
            One tensor per row, prompt and answer; its *axis* without the batch is as long as the
            row has tokens that the model has read. The last token of an answer has no activations:
            the model never read it.

        Raises:
            PromptError: `bad-prompt`. More values than steps, or of other widths.
        """
        root = self._root
        if root._reorders:  # noqa: SLF001
            raise PromptError(
                "values of a beam search cannot be joined along tokens",
                why="beams change rows between steps, so a row of one step is another text's",
                fix="generate greedily or by sampling",
            )
        numbers = [self._cut(step) for step in root._steps]  # noqa: SLF001
        if len(steps) > len(numbers):
            raise PromptError(
                f"{len(steps)} values for a run of {len(numbers)} steps",
                fix="one value per step: [layer.output for step in tracer.iter[:]]",
            )
        result: list[Tensor] = []
        for row, count in enumerate(self._ended()):
            parts = []
            following = 0
            for value, number in zip(steps, numbers, strict=False):
                if value.shape[axis] != number.shape[1]:
                    raise PromptError(
                        f"a value with {value.shape[axis]} columns in a step with "
                        f"{number.shape[1]} tokens",
                        seen=f"shape {tuple(value.shape)}, axis {axis}",
                        fix="give the axis that counts tokens: along(values, axis=2)",
                    )
                # Without a cache each step has all tokens again.
                keep = (number[row] >= following) & (number[row] < count)
                following = max(following, int(number[row].max()) + 1)
                columns = keep.nonzero()[:, 0].to(value.device)
                parts.append(value[row].index_select(axis - 1, columns))
            result.append(torch.cat(parts, axis - 1))
        return result

    def _ended(self) -> list[int]:
        """Give for each row how many tokens it has, up to and with the one that ended it."""
        root = self._root
        if root._ids is None or not root._ends:  # noqa: SLF001
            total = root._mask.shape[1]  # noqa: SLF001
            return [total] * len(self)
        counts = []
        for ids, length in zip(self.ids, self.lengths.tolist(), strict=True):
            stop = next(
                (n + 1 for n, one in enumerate(ids) if n >= length and one in root._ends),  # noqa: SLF001
                None,
            )
            counts.append(stop if stop is not None else root._mask.shape[1])  # noqa: SLF001
        return counts
