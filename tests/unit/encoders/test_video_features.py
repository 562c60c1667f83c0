"""Features of videos as tokens: one a frame, padded, and features that training takes away."""

from __future__ import annotations

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.encoders.video_features import VideoFeaturesConfig

FEATURES, WIDTH = 7, 5


def test_a_token_is_a_frame() -> None:
    encoder = VideoFeaturesConfig(features=FEATURES, width=WIDTH, dropout=0.5).build().eval()
    videos = [torch.randn(3, FEATURES), torch.randn(2, FEATURES)]
    times = [torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.75])]
    tokens = encoder.encode(videos, times)
    assert tokens.mask.tolist() == [[True] * 3, [True, True, False]]
    assert tokens.times.tolist() == [[0.0, 1.0, 2.0], [0.5, 0.75, 0.0]]
    assert not tokens.features[1, 2].any()
    for row, video in enumerate(videos):
        wanted = encoder.project(encoder.norm(video))
        torch.testing.assert_close(tokens.features[row, : len(video)], wanted)


def test_a_feature_is_taken_from_all_frames_of_a_video() -> None:
    torch.manual_seed(3)
    encoder = VideoFeaturesConfig(features=FEATURES, width=FEATURES, dropout=0.5).build()
    with torch.no_grad():
        encoder.project.weight.copy_(torch.eye(FEATURES))
        encoder.project.bias.zero_()
    videos = [torch.randn(11, FEATURES) for _ in range(13)]
    found = encoder.encode(videos, [torch.arange(11.0)] * 13).features
    for row, video in enumerate(videos):
        share = found[row] / encoder.norm(video)
        assert set(share.round().unique().tolist()) <= {0.0, 2.0}
        assert torch.allclose(share, share[:1].expand_as(share), atol=1e-4)
    assert 0.3 < (found == 0).float().mean() < 0.7


def test_another_width_is_told() -> None:
    encoder = VideoFeaturesConfig(features=FEATURES).build()
    with pytest.raises(InputError, match=r"\(4, 3\); this model was built for \(frames, 7\)"):
        encoder.encode([torch.zeros(4, 3)], [torch.arange(4.0)])
