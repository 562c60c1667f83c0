"""Terms on a router: the domain where it is known, and even use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.layers.routing import RouterConfig, load_balance
from chiasm.objectives.routing import RouterTerms

BALANCE, DOMAIN = "router.balance", "router.domain"


def batch(*domains: int) -> Batch:
    count, empty = len(domains), torch.zeros(0, dtype=torch.long)
    videos = VideoBatch(
        frames=tuple(torch.zeros(1, 2, 2, 3, dtype=torch.uint8) for _ in domains),
        features=(),
        times=tuple(torch.zeros(1) for _ in domains),
        durations=torch.ones(count),
        segments=torch.zeros(0, 2),
        segment_rows=empty,
        segment_labels=empty,
        segments_known=torch.zeros(count, dtype=torch.bool),
        asked=torch.arange(count),
        answers=torch.full((count,), IGNORE),
        domains=torch.tensor(domains),
    )
    ids = torch.zeros(count, 1, dtype=torch.long)
    return Batch(ids, ids, ids, ids, videos=videos)


def routed(logits: Tensor, top: int | None = None) -> Outputs:
    router = RouterConfig(top=top).build(width=2, choices=logits.shape[1])
    return Outputs(named={"router": router.route(logits).weights, "router.logits": logits})


def test_terms_are_sums_over_videos() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    given = batch(4, IGNORE, 0)
    terms = RouterTerms()
    assert terms.count(given) == {DOMAIN: 2.0, BALANCE: 3.0}
    scores = terms.score(routed(logits, top=2), given)
    shares = logits.log_softmax(-1)
    torch.testing.assert_close(scores[DOMAIN], -(shares[0, 4] + shares[2, 0]))
    weights = routed(logits, top=2).named["router"]
    torch.testing.assert_close(scores[BALANCE], 3 * load_balance(logits, weights))


def test_no_known_domain_is_no_loss() -> None:
    scores = RouterTerms().score(routed(torch.zeros(2, 5)), batch(IGNORE, IGNORE))
    assert scores[DOMAIN].item() == 0
    assert scores[BALANCE].item() == pytest.approx(2.0)


def test_faults() -> None:
    terms = RouterTerms()
    with pytest.raises(InputError, match=r"routes of 2 videos are needed; found \[\]"):
        terms.score(Outputs(), batch(0, 1))
    with pytest.raises(InputError, match=r"routes of 2 videos are needed; found \(3, 5\)"):
        terms.score(routed(torch.zeros(3, 5)), batch(0, 1))
    with pytest.raises(InputError, match="domain 5 of a batch, and the router knows 5"):
        terms.score(routed(torch.zeros(2, 5)), batch(0, 5))
    ids = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(InputError, match="the batch has no videos"):
        terms.count(Batch(ids, ids, ids, ids))
