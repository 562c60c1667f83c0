"""The videos of a batch: as long as its rows, and moved whole."""

import torch

from chiasm.core.batch import IGNORE, Batch, VideoBatch


def videos() -> VideoBatch:
    """Two rows of features of unequal length; the first has one segment."""
    return VideoBatch(
        frames=(),
        features=(torch.zeros(5, 3), torch.zeros(7, 3)),
        times=(torch.arange(5.0), torch.arange(7.0)),
        durations=torch.tensor([5.0, 7.0]),
        segments=torch.tensor([[1.0, 3.0]]),
        segment_rows=torch.tensor([0]),
        segment_labels=torch.tensor([2]),
        segments_known=torch.tensor([True, False]),
        asked=torch.tensor([0, 1]),
        answers=torch.tensor([1, IGNORE]),
        domains=torch.tensor([IGNORE, 0]),
        captions=(torch.tensor([2, 3]),),
        captioned=torch.tensor([1]),
    )


def test_every_tensor_of_the_videos_moves_with_the_batch() -> None:
    empty = torch.zeros(2, 0, dtype=torch.long)
    batch = Batch(empty, empty, empty, empty, videos=videos())
    moved = batch.to("meta").videos

    assert moved is not None
    assert len(moved) == 2
    listed = (*moved.features, *moved.times, *moved.captions)
    assert {tensor.device.type for tensor in listed} == {"meta"}
    named = ("durations", "segments", "segment_rows", "segment_labels", "segments_known")
    for name in (*named, "asked", "answers", "domains", "captioned"):
        assert getattr(moved, name).device.type == "meta", name
