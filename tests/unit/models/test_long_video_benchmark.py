"""The benchmark of long video on a tiny model: it streams, asks, and compares like with like."""

from typing import Any

import pytest

from benchmarks import long_video
from tests.tiny_videos import tiny_video

STREAMED: dict[str, Any] = {
    "frames": {"offsets": [-1, -2]},
    "reader": {
        "attention": "cross_memory",
        "options": {"slots": 5, "segment": 6, "pool": 3},
        "causal": True,
    },
    "sampling": {"kind": "rate", "rate": 4},
}


def test_a_stream_stops_where_it_is_told_and_keeps_a_memory() -> None:
    model = tiny_video(memory=19, **STREAMED)
    (sample,) = long_video.samples_of("motion_recall", 0, 1)
    watched, kept = long_video.stream(model, sample, 23)
    assert len(kept) == 5
    assert watched.memory is not None
    assert watched.memory.mask.sum().item() == 19
    assert watched.memory.sizes.sum().item() == 23 * 6


def test_every_way_of_merging_is_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_video, "peak_memory", lambda work: float(work() is not None))
    found = long_video.measure_merging(tiny_video(**STREAMED), "motion", (0, 1), 2, 1)
    ways = {"none 1", *(f"{m} {r}" for m in long_video.METHODS for r in (0.5, 0.25))}
    assert set(found["accuracy"]) == set(found["speed-up"]) == set(found["peak MiB"]) == ways
    assert all(len(values) == 2 for values in found["accuracy"].values())
    assert found["speed-up"]["none 1"] == 1.0
    printed = long_video.table(found)
    assert all(way in printed for way in ways)
