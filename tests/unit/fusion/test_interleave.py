"""Interleaving: order, geometry and size of inserted tokens, closed and opened."""

from __future__ import annotations

import torch

from tests.unit.fusion.streams import build, extra, host, shaken

NAMES = ("dinov2", "siglip")


def test_extra_tokens_stand_behind_the_host_token_of_their_cell() -> None:
    fusion = shaken(build("interleave", *NAMES, hidden=11, opened=True))
    fused = fusion.fuse(host(), extra(*NAMES))
    assert fused.tokens_per_cell == 3
    assert torch.equal(fused.tokens.cells[:, 0::3], host().cells)
    assert torch.equal(fused.tokens.cells[:, 2::3], host().cells)
    for index, name in enumerate(NAMES):
        changed = extra(*NAMES)
        features = changed[name].features.clone()
        features[0, 4] += torch.linspace(0, 1, features.shape[-1])
        changed[name] = changed[name].with_features(features)
        moved = (fusion.fuse(host(), changed).tokens.features - fused.tokens.features).abs().sum(-1)
        # The host's token of the cell moves through the residual, and the encoder's own token.
        assert moved.nonzero().tolist() == [[0, 3 * 4], [0, 3 * 4 + 1 + index]]


def test_sizes_and_sources_say_that_nothing_was_merged() -> None:
    fused = build("interleave", *NAMES, hidden=11, opened=True).fuse(host(), extra(*NAMES))
    assert fused.tokens.sizes.sum(1).tolist() == [45, 42]
    assert fused.tokens.sources[1].tolist() == [*range(42), -1, -1, -1]


def test_extra_tokens_have_the_size_of_the_host_tokens() -> None:
    fusion = shaken(build("interleave", *NAMES, hidden=11, opened=True))
    for scale in (1.0, 50.0):
        tokens = host().with_features(host().features * scale)
        fused = fusion.fuse(tokens, extra(*NAMES)).tokens.features[0]
        expected = tokens.rows()[0].square().mean().sqrt()
        found = fused[1::3].square().mean(-1).sqrt()
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-3, atol=0)


def test_opening_adds_tokens_and_leaves_the_others() -> None:
    fusion = shaken(build("interleave", *NAMES, hidden=11))
    closed = fusion.fuse(host(), extra(*NAMES))
    fusion.open()
    opened = fusion.fuse(host(), extra(*NAMES))
    assert (closed.tokens_per_cell, opened.tokens_per_cell) == (1, 3)
    assert torch.equal(opened.tokens.features[:, ::3], closed.tokens.features)


def test_a_checkpoint_says_whether_it_is_opened() -> None:
    opened = build("interleave", *NAMES, hidden=11, opened=True)
    fresh = build("interleave", *NAMES, hidden=11)
    fresh.load_state_dict(opened.state_dict())
    assert fresh.fuse(host(), extra(*NAMES)).tokens_per_cell == 3
