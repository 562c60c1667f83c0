"""The head of answers: questions do not know each other, merged states count for what they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.heads.answers import AnswerHead, AnswerHeadConfig

ASKED = torch.tensor([0, 0, 1, 2, 2, 2])


def head(**changes: Any) -> AnswerHead:
    torch.manual_seed(0)
    config = AnswerHeadConfig(depth=2, heads=2, longest=7, **changes)
    return config.build(width=10, words=13, answers=5).eval()


def states(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """States, mask and sizes; rows have 11, 8 and 5 states."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 11, 10, generator=generator)
    mask = torch.arange(11) < torch.tensor([[11], [8], [5]])[:rows]
    return x, mask, torch.randint(1, 5, (rows, 11), generator=generator)


def questions() -> tuple[Tensor, Tensor]:
    """Six questions of one to six words."""
    generator = torch.Generator().manual_seed(2)
    known = torch.arange(6) <= torch.arange(6)[:, None]
    return torch.randint(2, 13, (6, 6), generator=generator) * known, known


def test_each_question_is_answered_as_if_alone() -> None:
    model, (ids, known), (x, mask, sizes) = head(), questions(), states()
    with torch.no_grad():
        together = model(ids, known, ASKED, x, mask, sizes)
        for place, row in enumerate(ASKED.tolist()):
            words, real = place + 1, int(mask[row].sum())
            alone = model(
                ids[place : place + 1, :words],
                known[place : place + 1, :words],
                torch.tensor([0]),
                x[row : row + 1, :real],
                mask[row : row + 1, :real],
                sizes[row : row + 1, :real],
            )
            torch.testing.assert_close(together[place], alone[0], rtol=0, atol=1e-5)


def test_a_video_without_questions_between_others_does_no_harm() -> None:
    model, (ids, known), (x, mask, sizes) = head(), questions(), states()
    asked = torch.tensor([0, 2])
    with torch.no_grad():
        skipped = model(ids[:2], known[:2], asked, x, mask, sizes)
        last = model(ids[1:2], known[1:2], torch.tensor([0]), x[2:], mask[2:], sizes[2:])
    torch.testing.assert_close(skipped[1], last[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("proportional", [True, False])
def test_two_equal_states_count_as_one_of_size_two_where_asked(proportional: bool) -> None:
    model, (ids, known) = head(proportional=proportional), questions()
    x, mask, sizes = (part[:1] for part in states())
    sizes = torch.ones_like(sizes)
    doubled = torch.cat([x, x[:, :1]], 1)
    merged = sizes.clone()
    merged[0, 0] = 2
    with torch.no_grad():
        two = model(
            ids[:1], known[:1], ASKED[:1], doubled, torch.ones(1, 12).bool(), torch.ones(1, 12)
        )
        one = model(ids[:1], known[:1], ASKED[:1], x, mask, merged)
    same = float((two - one).abs().max()) < 1e-5
    assert same == proportional


def test_words_and_states_both_matter() -> None:
    model, (ids, known), (x, mask, sizes) = head(), questions(), states()
    with torch.no_grad():
        plain = model(ids, known, ASKED, x, mask, sizes)
        other = model((ids % 11 + 2) * known, known, ASKED, x, mask, sizes)
        seen = model(ids, known, ASKED, x.flip(0, 1), mask, sizes)
    assert float((plain - other).abs().min(0).values.max()) > 1e-3
    assert float((plain - seen).abs().max()) > 1e-3


def test_a_question_without_words_is_answered_from_the_video() -> None:
    model, (x, mask, sizes) = head(), states()
    ids = torch.zeros(3, 4, dtype=torch.long)
    with torch.no_grad():
        found = model(ids, ids.bool(), torch.arange(3), x, mask, sizes)
    assert found.isfinite().all()
    assert float((found[0] - found[1]).abs().max()) > 1e-4


def test_a_question_that_is_too_long_is_refused() -> None:
    ids = torch.ones(1, 8, dtype=torch.long)
    with pytest.raises(InputError, match="a question of 8 words; this head reads at most 7"):
        head()(ids, ids.bool(), torch.tensor([0]), *(part[:1] for part in states()))
