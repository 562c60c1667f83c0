"""Labels of whole videos: means of stretches, padding unread, nothing said at the start."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.heads.video_labels import VideoLabelHead, VideoLabelHeadConfig, stretch_shares

WIDTH, LABELS = 5, 7


def build() -> VideoLabelHead:
    torch.manual_seed(2)
    head = VideoLabelHeadConfig(stretches=3).build(width=WIDTH, labels=LABELS).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def test_stretches_are_equal_parts_of_the_real_frames() -> None:
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    shares = stretch_shares(mask, 3)
    third, half = pytest.approx(1 / 3), pytest.approx(1 / 2)
    assert shares[0].tolist() == [
        [third] * 3 + [0.0] * 5,
        [0.0] * 3 + [third] * 3 + [0.0] * 2,
        [0.0] * 6 + [half] * 2,
    ]
    assert shares[1].tolist() == [[float(k == s) for k in range(8)] for s in range(3)]


def test_all_labels_are_alike_at_the_start() -> None:
    head = VideoLabelHeadConfig().build(width=WIDTH, labels=LABELS)
    x = torch.randn(2, 11, WIDTH)
    assert not head.predict(x, x, torch.ones(2, 11, dtype=torch.bool)).any()


def test_a_video_alone_is_scored_as_in_a_batch() -> None:
    head = build()
    tokens, states = torch.randn(2, 13, WIDTH), torch.randn(2, 13, WIDTH)
    mask = torch.arange(13) < torch.tensor([[13], [4]])
    together = head.predict(tokens, states, mask)
    alone = head.predict(tokens[1:, :4], states[1:, :4], mask[1:, :4])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_order_frames_and_states_are_seen() -> None:
    head = build()
    tokens, states = torch.randn(1, 12, WIDTH), torch.randn(1, 12, WIDTH)
    mask = torch.ones(1, 12, dtype=torch.bool)
    found = head.predict(tokens, states, mask)
    for changed in ((tokens.flip(1), states), (tokens, states.flip(1)), (2 * tokens, states)):
        assert (head.predict(*changed, mask) - found).abs().max() > 0.1


def test_too_short_a_video_is_told() -> None:
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    with pytest.raises(InputError, match="a video of 2 frames has no 3 stretches"):
        build().predict(torch.zeros(2, 5, WIDTH), torch.zeros(2, 5, WIDTH), mask)
