"""The feed: whole steps in order, and a new beginning where one is told."""

from __future__ import annotations

from chiasm.core.batch import Batch
from chiasm.training.feed import Feed
from chiasm.training.settings import TrainingSettings
from tests.unit.training.small import SmallData, collate

SETTINGS = {
    "batch_size": 3,
    "accumulation": 2,
    "order": "sequential",
    "stages": [{"name": "one", "steps": 9, "train": ["head"], "learning_rate": 0.1}],
    "workers": 0,
}


def feed(rank: int = 0, **more: object) -> Feed:
    settings = TrainingSettings.model_validate({**SETTINGS, **more})
    return Feed(SmallData(29), collate, settings, processes=2, rank=rank)


def names(window: list[Batch]) -> list[list[str]]:
    return [[sample.identifier for sample in batch.samples] for batch in window]


def test_one_step_follows_the_other_until_it_stops() -> None:
    one = feed()
    first, second = names(one.read(0)), names(one.read(0))
    assert [len(batch) for batch in first] == [3, 3]
    assert first != second
    one.stop()
    assert names(one.read(1)) == second
    one.stop()
    assert names(one.read(0)) == first


def test_processes_read_different_samples_of_one_step() -> None:
    read = [[name for batch in names(feed(rank).read(0)) for name in batch] for rank in (0, 1)]
    assert len({*read[0], *read[1]}) == 12
