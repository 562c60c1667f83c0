"""The router and its balance; experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE
from chiasm.core.errors import InputError
from chiasm.layers.experts import ExpertsConfig
from chiasm.layers.routing import Router, RouterConfig, Routing, load_balance


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def router(**options: int) -> Router:
    torch.manual_seed(3)
    return RouterConfig(**options).build(width=7, choices=5)


def test_soft_shares_are_the_softmax() -> None:
    one = router()
    x = tokens(3, 11, 7)
    routing = one(x)
    assert routing.chosen is None
    torch.testing.assert_close(routing.weights, one.score(one.norm(x.mean(1))).softmax(-1))
    torch.testing.assert_close(routing.weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("hidden", [0, 13])
def test_top_of_all_is_soft(hidden: int) -> None:
    soft, whole = router(hidden=hidden), router(hidden=hidden, top=5)
    x = tokens(3, 11, 7)
    assert torch.equal(soft(x).weights, whole(x).weights)
    assert bool(whole(x).chosen.all())
    base, parts = tokens(3, 11, 2), [torch.nn.Linear(7, 2) for _ in range(5)]
    torch.testing.assert_close(soft(x).mix(base, x, parts), whole(x).mix(base, x, parts))


def test_top_takes_the_largest_shares_and_shares_the_whole_among_them() -> None:
    one = router(top=2)
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]]).requires_grad_()
    routing = one.route(logits)
    assert routing.chosen.tolist() == [[False, True, False, True, False]]
    share = 1 / (1 + torch.tensor(-1.0).exp())
    torch.testing.assert_close(routing.weights, torch.tensor([[0, share, 0, 1 - share, 0]]))
    routing.weights[0, 1].backward()
    # The gradient reaches what was taken, and nothing else.
    assert logits.grad[0, 1] > 0 > logits.grad[0, 3]
    assert logits.grad[0, [0, 2, 4]].abs().max() < 1e-7


def test_padding_and_merging_do_not_change_the_route() -> None:
    one, x = router(), tokens(2, 11, 7)
    expected = one(x).weights
    padded = torch.cat([x, torch.full((2, 3, 7), torch.nan)], 1)
    mask = torch.arange(14).expand(2, 14) < 11
    torch.testing.assert_close(one(padded, mask).weights, expected)
    # The first four tokens merged into one of size 4.
    merged = torch.cat([x[:, :4].mean(1, keepdim=True), x[:, 4:]], 1)
    sizes = torch.tensor([4] + [1] * 7).expand(2, 8)
    torch.testing.assert_close(one(merged, None, sizes).weights, expected)
    assert not torch.allclose(one(merged).weights, expected, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_sizes_of_a_long_video_fit_half_precision(kind: torch.dtype) -> None:
    one, x = router(), tokens(2, 997, 7)
    # More than 65,504 original tokens, of which the last ones are many.
    x[:, -97:] += torch.arange(7.0)
    sizes = torch.full((2, 997), 83)
    expected = one(x, None, sizes).weights.detach()
    found = one.to(kind)(x.to(kind), None, sizes).weights.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)
    assert float((expected - 1 / expected.shape[1]).abs().max()) > 3e-2


def test_the_router_learns_from_what_it_mixes() -> None:
    one, x = router(top=2), tokens(3, 11, 7)
    experts = [torch.nn.Linear(7, 2) for _ in range(5)]
    one(x).mix(torch.zeros(3, 11, 2), x, experts).square().sum().backward()
    for name, value in one.named_parameters():
        assert bool(value.grad.any()), name


def test_rows_do_not_see_what_others_chose() -> None:
    one, x = router(top=1), tokens(4, 11, 7)
    experts = [torch.nn.Linear(7, 2) for _ in range(5)]
    base = tokens(4, 11, 2)
    together = one(x).mix(base, x, experts)
    for row in range(4):
        single = one(x[row : row + 1]).mix(base[row : row + 1], x[row : row + 1], experts)
        torch.testing.assert_close(single[0], together[row])


def test_known_choices() -> None:
    routing = Routing.known(torch.tensor([2, IGNORE, 0]), 3)
    assert routing.weights.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    with pytest.raises(InputError, match=r"choices \[-1, 3\] of 3; allowed: 0 to 2, or -100"):
        Routing.known(torch.tensor([3, -1, 0]), 3)
    with pytest.raises(InputError, match=r"top 6 of 5 choices; give 1 to 5"):
        router(top=6)


def balance(logits: Tensor, top: int | None) -> Tensor:
    return load_balance(
        logits, router(**({} if top is None else {"top": top})).route(logits).weights
    )


@pytest.mark.parametrize("top", [None, 1, 2])
def test_balance_is_one_where_even_and_the_number_of_choices_where_collapsed(
    top: int | None,
) -> None:
    even = torch.stack([torch.eye(5).roll(shift, 1)[0] + 0.5 * torch.eye(5).roll(shift + 1, 1)[0]
                        for shift in range(5)]) * 9  # fmt: skip
    assert balance(even, top).item() == pytest.approx(1.0)
    collapsed = torch.tensor([50.0, 40.0, 0.0, 0.0, 0.0]).repeat(7, 1)
    expected = 5.0 if top != 2 else 2.5
    assert balance(collapsed, top).item() == pytest.approx(expected, rel=1e-3)


def test_balance_of_soft_shares_is_smallest_where_even() -> None:
    even = balance(torch.zeros(3, 5), None)
    for seed in range(20):
        assert balance(3 * tokens(3, 5, seed=seed), None) > even
    shares = tokens(3, 5).softmax(-1)
    spread = shares.mean(0).var(unbiased=False) / shares.mean(0).mean() ** 2
    torch.testing.assert_close(balance(shares.log(), None), 1 + spread)


def test_balance_of_one_choice_a_row_is_that_of_the_switch_transformer() -> None:
    logits = tokens(13, 5)
    shares = logits.softmax(-1)
    work = torch.bincount(logits.argmax(-1), minlength=5) / 13
    torch.testing.assert_close(balance(logits, 1), 5 * (work * shares.mean(0)).sum())


@pytest.mark.parametrize("top", [None, 1, 2])
def test_descending_the_balance_evens_the_routes_out(top: int | None) -> None:
    rows = tokens(40, 5)
    shift = torch.tensor([2.0, 0.5, 0.0, 0.0, -2.0]).requires_grad_()
    before = balance(rows + shift, top).item()
    optimiser = torch.optim.SGD([shift], lr=1.0)
    for _ in range(60):
        optimiser.zero_grad()
        balance(rows + shift, top).backward()
        optimiser.step()
    assert before > 1.5
    assert balance(rows + shift, top).item() < 1.05


def test_fresh_experts_change_no_bit_and_hold_what_was_asked() -> None:
    experts = ExpertsConfig().build(width=7, count=4)
    x = tokens(3, 11, 7)
    assert torch.equal(experts(x, Routing(torch.full((3, 4), 0.25))), x)
    each = 7 * 1024 + 1024 + 1024 * 7 + 7
    assert sum(p.numel() for p in experts.parameters()) == 4 * each + 14


def test_experts_mix_by_share_and_rows_are_their_own() -> None:
    torch.manual_seed(3)
    experts = ExpertsConfig(hidden=13).build(width=7, count=3)
    with torch.no_grad():
        for value in experts.parameters():
            value.add_(0.3 * torch.randn_like(value))
    x, shares = tokens(2, 11, 7), torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    got = experts(x, Routing(shares))
    normed = experts.norm(x)
    expected = x + sum(
        shares[:, place, None, None] * expert(normed)
        for place, expert in enumerate(experts.experts)
    )
    torch.testing.assert_close(got, expected)
    # No batch statistics: another row changes nothing.
    other = torch.cat([x[:1], 9 * tokens(1, 11, 7, seed=2)])
    torch.testing.assert_close(experts(other, Routing(shares))[0], got[0])
