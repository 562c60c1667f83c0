"""The linear baselines of the benchmark of features: what they see, and which optimum they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ucf101_probes import AROUND, WINDOWS, fit, windows
from chiasm.core.samples import Segment
from chiasm.data.joining import JoinedVideo


def test_windows_see_their_frames_and_what_lies_around() -> None:
    random = np.random.default_rng(3)
    features = random.normal(size=(31, 5)).astype(np.float32)
    video = JoinedVideo(features, (Segment(0.0, 1.0, "a"),), (0,))
    spans, seen = windows(video, surroundings=True)
    assert {int(end - start) for start, end in spans} == set(WINDOWS)
    assert spans.min() == 0 and spans.max() <= 31
    for (start, end), row in zip(spans.astype(int), seen, strict=True):
        inside = features[start:end].mean(0)
        before = features[max(0, start - AROUND) : start]
        after = features[end : end + AROUND]
        beside = [part.mean(0) if len(part) else np.zeros(5) for part in (before, after)]
        wanted = [inside, *beside, *(np.abs(inside - one) for one in beside)]
        assert row == pytest.approx(np.concatenate(wanted), abs=1e-5)
    _, alone = windows(video, surroundings=False)
    assert np.array_equal(alone, seen[:, :5])


def test_a_probe_of_many_numbers_is_that_of_the_space_the_samples_span() -> None:
    """Three copies of each sample are more than there are numbers, and ask for the same weights.

    Measured: 3e-4 apart, scores of size 2.
    """
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 90)), np.arange(40) % 3
    wide = fit(x, labels, 3, 0.1)
    tall = fit(np.concatenate([x] * 3), np.concatenate([labels] * 3), 3, 0.1 / 3)
    assert np.abs(wide.logits(x) - tall.logits(x)).max() < 3e-3
    assert np.abs(wide.logits(x)).max() > 1
    assert (wide.logits(x).argmax(1) == labels).all()
