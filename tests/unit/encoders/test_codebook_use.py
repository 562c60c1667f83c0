"""Use of codes: counted, and dead codes brought back, the same way each time."""

from __future__ import annotations

import math

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.encoders.codebook_use import CodebookUse, CodeRevival, RevivalConfig

SIZE = 11


def revival(**values: object) -> CodeRevival:
    return RevivalConfig.model_validate({"every": 3, **values}).build(size=SIZE)


def unit(count: int, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn((1, count, 5), generator=made), dim=-1)


def test_share_and_perplexity_of_codes() -> None:
    use = CodebookUse(SIZE)
    use.add(torch.tensor([[0, 0, 4], [4, 7, 7]]))
    use.add(torch.tensor([10, 10]))
    assert use.share == pytest.approx(4 / 11)
    assert use.perplexity == pytest.approx(4)
    use.add(torch.tensor([0] * 92))
    shares = [94 / 100, *[2 / 100] * 3]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert use.perplexity == pytest.approx(expected)


def test_what_is_no_code_is_refused() -> None:
    with pytest.raises(InputError, match="code 11 of a codebook with codes from 0 to 10"):
        CodebookUse(SIZE).add(torch.tensor([3, 11]))
    with pytest.raises(InputError, match="perplexity of no codes"):
        _ = CodebookUse(SIZE).perplexity


def test_all_codes_start_as_latents_of_the_first_batch() -> None:
    rows, latents = torch.zeros(SIZE, 5), unit(13)
    guard = revival()
    assert guard.revive(rows, latents) == SIZE == guard.count
    matches = (rows[:, None] == latents[0][None]).all(-1)
    assert (matches.sum(1) == 1).all() and int(matches.any(0).sum()) == SIZE


def test_only_dead_codes_are_replaced_and_each_is_counted() -> None:
    rows, guard = torch.zeros(SIZE, 5), revival(decay=0.1, floor=0.5)
    guard.revive(rows, unit(13))
    started = rows.clone()
    alive = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 10])
    for _ in range(3):
        assert guard.count == SIZE
        guard.note(alive)
    assert guard.revive(rows, unit(13, seed=1)) == 2
    assert guard.count == SIZE + 2
    changed = (rows != started).any(1).nonzero().flatten()
    assert changed.tolist() == [7, 9]
    assert guard.average[7] == pytest.approx(1 / SIZE)


def test_it_looks_only_every_so_many_steps_and_until_the_end() -> None:
    rows, guard = torch.zeros(SIZE, 5), revival(decay=0.01, until=6)
    found = []
    for step in range(10):
        found.append(guard.revive(rows, unit(13, seed=step)))
        guard.note(torch.tensor([2]))
    assert found == [11, 0, 0, 10, 0, 0, 0, 0, 0, 0]


def test_codes_wait_for_their_beginning() -> None:
    rows, guard = torch.zeros(SIZE, 5), revival(begin=2)
    seen = []
    for step in range(4):
        seen.append((guard.waiting, guard.revive(rows, unit(13, seed=step))))
        guard.note(torch.tensor([1, 2]))
    assert seen == [(True, 0), (True, 0), (False, SIZE), (False, 0)]
    assert guard.average[1] > 0


def test_fewer_latents_than_dead_codes_are_drawn_again() -> None:
    rows, latents = torch.zeros(SIZE, 5), unit(3)
    assert revival().revive(rows, latents) == SIZE
    matches = (rows[:, None] == latents[0][None]).all(-1)
    assert sorted(matches.sum(0).tolist()) == [3, 4, 4]


def test_the_run_s_generator_decides_which() -> None:
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        rows = torch.zeros(SIZE, 5)
        revival().revive(rows, unit(17))
        drawn.append(rows)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_what_it_remembers_is_in_its_state() -> None:
    guard, other = revival(), revival()
    guard.revive(torch.zeros(SIZE, 5), unit(13))
    guard.note(torch.tensor([1, 1, 4]))
    other.load_state_dict(guard.state_dict())
    assert (other.count, int(other.steps)) == (SIZE, 1)
    assert torch.equal(other.average, guard.average)
