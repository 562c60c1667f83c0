import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.evaluation.bootstrap import Bootstrap


def test_mean_and_interval_of_a_normal_sample_agree_with_theory():
    random = np.random.default_rng(7)
    values = random.normal(3, 2, size=997)
    found = Bootstrap(resamples=4000).mean(values.tolist())
    error = values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert (found.count, found.clusters) == (997, 997)


def test_same_seed_same_numbers_and_another_seed_others():
    values = np.random.default_rng(0).random(53).tolist()
    assert Bootstrap(seed=5).mean(values) == Bootstrap(seed=5).mean(values)
    assert Bootstrap(seed=5).mean(values) != Bootstrap(seed=6).mean(values)


def test_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(0).random(53).tolist()
    whole = Bootstrap(resamples=31).mean(values)
    monkeypatch.setattr("chiasm.evaluation.bootstrap.CHUNK", 200)
    assert Bootstrap(resamples=31).mean(values) == whole


def test_clusters_widen_the_interval_by_the_root_of_their_size():
    random = np.random.default_rng(1)
    per_image = random.random(211).repeat(9)
    clusters = np.arange(211).repeat(9).tolist()
    alone = Bootstrap().mean(per_image.tolist())
    tied = Bootstrap().mean(per_image.tolist(), clusters)
    assert tied.mean == alone.mean
    assert (tied.count, tied.clusters) == (211 * 9, 211)
    assert (tied.high - tied.low) / (alone.high - alone.low) == pytest.approx(3, rel=0.1)


def test_unequal_clusters_weigh_by_their_values():
    found = Bootstrap().mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert found.mean == 0.75
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_paired_difference_is_narrower_than_its_parts():
    random = np.random.default_rng(2)
    easy = random.random(307)
    left, right = (easy + 0.1).tolist(), easy.tolist()
    found = Bootstrap().difference(left, right)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low < 1e-9
    assert found.excludes_zero
    assert not Bootstrap().difference(left, left).excludes_zero


def test_level_narrows_the_interval():
    values = np.random.default_rng(3).random(101).tolist()
    wide, narrow = Bootstrap(level=0.95).mean(values), Bootstrap(level=0.5).mean(values)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_faults():
    with pytest.raises(InputError, match="no values"):
        Bootstrap().mean([])
    with pytest.raises(InputError, match="2 values against 1"):
        Bootstrap().difference([1, 2], [1])
    with pytest.raises(InputError, match="1 clusters for 2 values"):
        Bootstrap().mean([1, 2], ["a"])
    with pytest.raises(InputError, match=r"resamples=0, level=0\.95"):
        Bootstrap(resamples=0)
