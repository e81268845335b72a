"""Positions in each row's own tokens, in every step."""

from __future__ import annotations

import pytest
import torch
from decoders import tokenizer
from hypothesis import given
from hypothesis import strategies as st

from tracekit.errors import PromptError
from tracekit.hf._tokens import Schedule, Tokens

IDS = torch.tensor([[4, 5, 6, 7], [0, 0, 16, 7]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


class Clock:
    step = -1

    def __call__(self):
        return self.step


def made(clock=None, **options):
    tok = tokenizer()
    schedule = options.pop("schedule", Schedule(0, 4))
    return Tokens(
        IDS,
        MASK,
        schedule=schedule,
        step=clock or Clock(),
        decode=lambda one: tok.decode([one]),
        ends=[2],
        **options,
    )


class TestSchedule:
    @given(
        width=st.integers(1, 12),
        start=st.integers(0, 11),
        chunk=st.none() | st.integers(1, 13),
        answers=st.integers(1, 4),
    )
    def test_steps_cover_each_column_once(self, width, start, chunk, answers):
        start = min(start, width - 1)
        schedule = Schedule(start, width, chunk)
        stop, steps = start, 0
        while stop < width + answers:
            begin, end = schedule.columns(steps)
            assert begin == stop < end
            if begin < width:
                assert end <= width
                assert end - begin <= (chunk or width)
            else:
                assert 1 == end - begin
            stop, steps = end, steps + 1

    def test_the_last_of_the_prompt_may_have_a_step_of_its_own(self):
        schedule = Schedule(0, 8, chunk=3, last_apart=True)

        assert [(0, 3), (3, 6), (6, 7), (7, 8), (8, 9)] == [schedule.columns(n) for n in range(5)]
        assert (0, 8) == Schedule(0, 8, last_apart=True).columns(0)

    def test_without_a_cache_each_step_has_all(self):
        schedule = Schedule(0, 4, cached=False)

        assert [(0, 4), (0, 5), (0, 6)] == [schedule.columns(n) for n in range(3)]


class TestCounting:
    def test_each_row_counts_its_own(self):
        tokens = made()

        assert [[0, 1, 2, 3], [-1, -1, 0, 1]] == tokens.numbers.tolist()
        assert [4, 2] == tokens.lengths.tolist()
        assert MASK.bool().equal(tokens.prompt)
        assert not tokens.answer.any()

    def test_later_steps_go_on_from_the_prompt(self):
        clock = Clock()
        tokens = made(clock)
        clock.step = 2

        assert [[5], [3]] == tokens.numbers.tolist()
        assert tokens.answer.all()
        assert not tokens.prompt.any()

    def test_in_chunks(self):
        clock = Clock()
        tokens = made(clock, schedule=Schedule(0, 4, 3))
        found = []
        for clock.step in range(3):
            found.append(tokens.numbers.tolist())

        assert [[[0, 1, 2], [-1, -1, 0]], [[3], [1]], [[4], [2]]] == found

    def test_after_a_cache(self):
        tokens = made(schedule=Schedule(3, 7))

        assert [[3, 4, 5, 6], [-1, -1, 3, 4]] == tokens.numbers.tolist()

    def test_copies_of_a_prompt_follow_one_another(self):
        tokens = made(copies=2)

        assert [4, 4, 2, 2] == tokens.lengths.tolist()
        assert 4 == len(tokens)

    def test_of_one_invoke(self):
        clock = Clock()
        tokens = made(clock)
        part = tokens.rows(slice(1, 2))
        clock.step = 1

        assert [[2]] == part.numbers.tolist()
        assert [["Rome", "is"]] != list(made())
        assert [list(made())[1]] == list(part)


class TestWhere:
    @pytest.mark.parametrize(
        ("which", "row", "expected"),
        [
            (0, None, [(0, 0), (1, 2)]),
            (1, 1, [(1, 3)]),
            (3, None, [(0, 3)]),
            (-1, None, [(0, 3), (1, 3)]),
            (-2, None, [(0, 2), (1, 2)]),
            (-3, None, [(0, 1)]),
            ([0, 1], None, [(0, 0), (0, 1), (1, 2), (1, 3)]),
            ("Eiffel", None, [(0, 1)]),
            (9, None, []),
        ],
    )
    def test_finds_rows_and_columns(self, which, row, expected):
        rows, columns = made().where(which, row)

        assert expected == list(zip(rows.tolist(), columns.tolist(), strict=True))

    def test_indexes_a_value(self):
        value = torch.zeros(2, 4, 3)
        value[made().where(0)] += 1

        assert [[1, 0, 0, 0], [0, 0, 1, 0]] == value[..., 0].tolist()

    def test_a_token_of_the_prompt_is_not_in_a_later_step(self):
        clock = Clock()
        tokens = made(clock)
        clock.step = 1

        assert 0 == len(tokens.where(0)[0])
        assert [(0, 0)] == list(zip(*(x.tolist() for x in tokens.where(4)), strict=True))

    def test_a_text_that_no_row_has(self):
        with pytest.raises(PromptError, match="no row has a token 'London'") as caught:
            made().where("London")

        assert "The | Eiffel" in caught.value.seen


class TestReading:
    def test_pads_are_left_out(self):
        tokens = made()

        assert [[4, 5, 6, 7], [16, 7]] == tokens.ids
        assert ["The", "Eiffel", "Tower", "Colosseum"] == tokens[0]
        assert "[1] 0:'Rome' 1:'Colosseum'" == repr(tokens).splitlines()[1]

    def test_an_answer_goes_up_to_its_end(self):
        tokens = made()
        tokens.finish(torch.cat([IDS, torch.tensor([[8, 2, 0], [8, 9, 10]])], 1))

        assert [[4, 5, 6, 7, 8, 2], [16, 7, 8, 9, 10]] == tokens.ids

    def test_embeddings_have_no_ids(self):
        tokens = Tokens(None, MASK, schedule=Schedule(0, 4))

        assert "<rows of [4, 2] positions without ids>" == repr(tokens)
        with pytest.raises(PromptError, match="was given no token ids"):
            _ = tokens.ids


class TestAlong:
    def steps(self, *columns):
        """Values that say which row and which column they are of."""
        whole = torch.arange(2)[:, None] * 100 + torch.arange(12)
        return [whole[:, start:stop, None].float() for start, stop in columns]

    def test_prompt_and_answer_of_each_row(self):
        tokens = made()
        tokens.finish(torch.cat([IDS, torch.tensor([[8, 2, 0], [8, 9, 10]])], 1))
        first, second = tokens.along(self.steps((0, 4), (4, 5), (5, 6)))

        assert [0, 1, 2, 3, 4, 5] == first[:, 0].tolist()
        assert [102, 103, 104, 105] == second[:, 0].tolist()

    def test_what_follows_the_end_is_left_out(self):
        tokens = made()
        tokens.finish(torch.cat([IDS, torch.tensor([[2, 0, 0], [8, 9, 10]])], 1))
        first, second = tokens.along(self.steps((0, 4), (4, 5), (5, 6)))

        assert [0, 1, 2, 3, 4] == first[:, 0].tolist()
        assert [102, 103, 104, 105] == second[:, 0].tolist()

    def test_without_a_cache_each_token_comes_once(self):
        tokens = made(schedule=Schedule(0, 4, cached=False))
        first, _ = tokens.along(self.steps((0, 4), (0, 5), (0, 6)))

        assert [0, 1, 2, 3, 4, 5] == first[:, 0].tolist()

    def test_another_axis(self):
        values = [value.transpose(1, 2) for value in self.steps((0, 4), (4, 5))]

        assert (1, 5) == made().along(values, axis=2)[0].shape

    def test_values_that_are_not_those_of_the_first_steps(self):
        with pytest.raises(PromptError, match=r"the value of step 0 has shape \(2, 1, 1\)"):
            made().along(self.steps((4, 5), (5, 6)))

    def test_beams_change_rows(self):
        with pytest.raises(PromptError, match="a beam search cannot be joined"):
            made(copies=2, reorders=True).along([])
