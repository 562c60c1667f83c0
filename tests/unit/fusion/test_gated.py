"""The gate: its mathematics against a plain version, its shares, and forcing them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.fusion import FUSIONS
from tests.unit.fusion.streams import build, extra, host, norm, shaken, tokens

SCOPES = ["global", "token", "channel"]


def gated(*names: str, **settings: Any) -> Any:
    return build("gated", *names, **{"width": 13, **settings})


def test_the_gate_of_the_source_has_its_number_of_parameters() -> None:
    fusion = FUSIONS["gated"](width=1024).build(host_width=37, encoder_widths={"dinov2": 41})
    assert sum(parameter.numel() for parameter in fusion.gate.parameters()) == 2_623_489


def test_its_pieces_can_be_addressed() -> None:
    fusion = gated("dinov2")
    assert [name for name, _ in fusion.named_children()] == ["projections", "gate", "output"]
    assert not [name for name, _ in fusion.named_parameters() if "." not in name]


def test_one_extra_encoder_is_the_sigmoid_of_the_source() -> None:
    """The source's formula written out, image by image, without masks or softmax."""
    fusion = shaken(gated("dinov2"))
    found = fusion.fuse(host(), extra("dinov2"))
    for index in range(2):
        own = fusion.projections["host"](host().rows()[index])
        other = fusion.projections["dinov2"](extra("dinov2")["dinov2"].rows()[index])
        alpha = torch.sigmoid(fusion.gate(torch.cat([own.mean(0), other.mean(0)])))
        out = host().rows()[index] + fusion.output(alpha * own + (1 - alpha) * other)
        torch.testing.assert_close(found.tokens.rows()[index], out, rtol=1e-5, atol=1e-5)
        expected = torch.cat([alpha, 1 - alpha])
        torch.testing.assert_close(found.named["gate"][index], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("names", [("dinov2",), ("dinov2", "siglip")])
def test_shares_sum_to_one_everywhere(scope: str, names: tuple[str, ...]) -> None:
    named = shaken(gated(*names, scope=scope)).fuse(host(), extra(*names)).named
    mask = host().mask
    torch.testing.assert_close(named["gate"].sum(-1), torch.ones(2))
    torch.testing.assert_close(named["gate_map"].sum(-1), mask.float())
    assert (named["gate_map"] >= 0).all()
    assert named["gate"].shape == (2, 1 + len(names))
    assert named["gate_map"].shape == (2, 15, 1 + len(names))
    # The gate of an image is the mean of its map over real tokens.
    means = named["gate_map"].sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(named["gate"], means)
    varies = named["gate_map"][0].std(dim=0).max() > 1e-4
    assert varies == (scope == "token")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("share", "names"), [(0.5, 1), (0.8, 1), (0.8, 2), (0.25, 2)])
def test_the_start_has_the_shares_asked_for(scope: str, share: float, names: int) -> None:
    encoders = ("dinov2", "siglip")[:names]
    fusion = gated(*encoders, scope=scope, initial_host_share=share)
    torch.nn.init.zeros_(fusion.gate[-1].weight)  # an image of no evidence
    gate = fusion.fuse(host(), extra(*encoders)).named["gate"]
    expected = torch.tensor([share, *[(1 - share) / names] * names])
    torch.testing.assert_close(gate, expected.expand_as(gate))


def contributions(fusion: Any, shares: Tensor) -> Tensor:
    """The norm of share times projection for each stream and image, over real tokens."""
    streams = {"host": host(), **extra("dinov2")}
    rows = [
        torch.stack(
            [
                norm(fusion.projections[name](row) * share).mean()
                for row, share in zip(streams[name].rows(), shares[:, index], strict=True)
            ]
        )
        for index, name in enumerate(fusion.names)
    ]
    return torch.stack(rows, dim=1)


def test_stream_norms_are_share_times_norm() -> None:
    fusion = shaken(gated("dinov2"))
    named = fusion.fuse(host(), extra("dinov2")).named
    expected = contributions(fusion, named["gate"])
    torch.testing.assert_close(named["stream_norms"], expected, rtol=1e-5, atol=1e-6)
    assert not named["stream_norms"].requires_grad
    assert named["gate"].requires_grad


@pytest.mark.parametrize("scope", SCOPES)
def test_forced_shares_are_used_and_then_forgotten(scope: str) -> None:
    fusion = shaken(gated("dinov2", "siglip", scope=scope))
    streams = extra("dinov2", "siglip")
    learned = fusion.fuse(host(), streams)
    weights = {name: value.clone() for name, value in fusion.state_dict().items()}
    with fusion.forced({"siglip": 0.25, "host": 0.75}):
        forced = fusion.fuse(host(), streams)
        with fusion.forced({"dinov2": 1.0}):
            inner = fusion.fuse(host(), streams).named["gate"]
        again = fusion.fuse(host(), streams)
    torch.testing.assert_close(forced.named["gate"], torch.tensor([[0.75, 0.0, 0.25]] * 2))
    torch.testing.assert_close(inner, torch.tensor([[0.0, 1.0, 0.0]] * 2))
    assert torch.equal(again.tokens.features, forced.tokens.features)
    after = fusion.fuse(host(), streams)
    assert torch.equal(after.tokens.features, learned.tokens.features)
    assert all(torch.equal(value, weights[name]) for name, value in fusion.state_dict().items())


def test_a_stream_forced_out_is_really_out() -> None:
    fusion = shaken(gated("dinov2"))
    with fusion.forced({"host": 1.0}):
        one = fusion.fuse(host(), extra("dinov2")).tokens.features
        other = fusion.fuse(host(), {"dinov2": tokens(19, 99)}).tokens.features
    assert torch.equal(one, other)


def test_forcing_ends_also_when_something_breaks() -> None:
    fusion = gated("dinov2")
    with pytest.raises(RuntimeError), fusion.forced({"host": 1.0}):
        raise RuntimeError
    assert not (fusion.fuse(host(), extra("dinov2")).named["gate"][:, 0] == 1).any()


@pytest.mark.parametrize(
    "shares", [{"host": 0.5}, {"host": 1.5, "dinov2": -0.5}, {"hots": 1.0}, {}]
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with (
        pytest.raises(InputError, match="give shares of host, dinov2 from 0 to 1 that sum to 1"),
        gated("dinov2").forced(shares),
    ):
        pass


def test_a_stream_a_hundred_times_larger_says_no_more() -> None:
    fusion = shaken(gated("dinov2"))
    streams = extra("dinov2")
    large = {"dinov2": streams["dinov2"].with_features(streams["dinov2"].features * 100)}
    torch.testing.assert_close(
        fusion.fuse(host(), streams).tokens.features,
        fusion.fuse(host(), large).tokens.features,
        rtol=1e-3,
        atol=1e-3,
    )


def test_dropout_sits_in_the_gate_alone() -> None:
    fusion = shaken(gated("dinov2", dropout=0.5)).train()
    torch.manual_seed(0)
    gates = {tuple(fusion.fuse(host(), extra("dinov2")).named["gate"][0].tolist()) for _ in "abc"}
    assert len(gates) == 3
    with fusion.forced({"dinov2": 1.0}):
        one, other = (fusion.fuse(host(), extra("dinov2")).tokens.features for _ in "ab")
    assert torch.equal(one, other)
