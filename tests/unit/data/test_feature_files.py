"""Files of features: read as they are, and split so that clips of one recording stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.data.feature_files import (
    FeatureSet,
    load_feature_set,
    load_features,
    split_by_group,
    split_by_runs,
)

FRAMES, SIZE = 11, 7


def test_one_video_in_each_kind_of_file(tmp_path: Path) -> None:
    features = np.random.default_rng(3).normal(size=(FRAMES, SIZE)).astype(np.float16)
    np.save(tmp_path / "a.npy", features)
    np.savez(tmp_path / "a.npz", features=features)
    save_file({"features": features}, tmp_path / "a.safetensors")
    for suffix in ("npy", "npz", "safetensors"):
        found = load_features(tmp_path / f"a.{suffix}")
        assert found.dtype == np.float32
        assert np.array_equal(found, features.astype(np.float32))


def test_broken_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.ones(5, np.float32))
    np.save(tmp_path / "whole.npy", np.ones((5, 3), np.int64))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((5, 3)), b=np.ones((5, 3)))
    np.save(tmp_path / "holes.npy", np.array([[1.0, np.nan], [np.inf, 2.0]]))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "a.pt").write_text("x")
    told = {
        "flat.npy": r"float32 \(5,\); allowed: floats",
        "whole.npy": r"int64 \(5, 3\); allowed: floats",
        "objects.npy": "cannot be read: Object arrays",
        "two.npz": r"holds the arrays \['a', 'b'\]",
        "holes.npy": "2 of its 4 features are infinite or no numbers",
        "empty.npy": r"is empty \(0 bytes\)",
        "text.npz": "cannot be read",
        "text.safetensors": "cannot be read",
        "a.pt": "allowed suffixes: .npy, .npz, .safetensors",
        "none.npy": "does not exist",
    }
    for name, words in told.items():
        with pytest.raises(MediaError, match=words) as caught:
            load_features(tmp_path / name)
        assert name in str(caught.value)


def test_many_videos_and_what_does_not_fit(tmp_path: Path) -> None:
    features = np.ones((5, FRAMES, SIZE), np.float16)
    np.savez(tmp_path / "a.npz", X=features, Y=np.arange(5), groups=np.array(list("aabbc")))
    videos = load_feature_set(tmp_path / "a.npz")
    assert videos.features.shape == (5, FRAMES, SIZE)
    assert videos.labels is not None
    assert videos.labels.tolist() == [0, 1, 2, 3, 4]
    assert videos.groups is not None
    assert "".join(videos.groups) == "aabbc"
    np.savez(tmp_path / "b.npz", X=features, Y=np.arange(4), groups=np.ones((5, 2), np.int64))
    with pytest.raises(DataError) as caught:
        load_feature_set(tmp_path / "b.npz")
    assert len(caught.value.faults) == 2
    np.savez(tmp_path / "c.npz", Z=features)
    with pytest.raises(DataError, match="under one of the names features, X, x"):
        load_feature_set(tmp_path / "c.npz")


def collection(groups: list[int]) -> tuple[FeatureSet, list[str]]:
    """Three labels, each a list of groups of so many clips, in the order of their names."""
    names = [f"{label}/{g}" for label in range(3) for g, n in enumerate(groups) for _ in range(n)]
    labels = np.array([int(name[0]) for name in names])
    features = np.arange(len(names), dtype=np.float32)[:, None]
    return FeatureSet(features, labels, np.array(names), np.arange(len(names))), names


def test_groups_stay_together() -> None:
    videos, names = collection([4, 7, 5, 4, 6, 7, 4, 5, 4, 6, 7, 4])
    parts = split_by_group(videos, {"train": 0.7, "held_out": 0.3}, seed=2)
    rows = {name: part.places.tolist() for name, part in parts.items()}
    assert sorted(rows["train"] + rows["held_out"]) == list(range(len(names)))
    sides = {name: {names[row] for row in found} for name, found in rows.items()}
    assert not sides["train"] & sides["held_out"]
    assert 0.15 < len(rows["held_out"]) / len(names) < 0.45
    assert parts["train"].features[:, 0].tolist() == rows["train"]
    other = split_by_group(videos, {"train": 0.7, "held_out": 0.3}, seed=3)
    assert other["train"].places.tolist() != rows["train"]
    with pytest.raises(InputError, match=r"sum to 0\.8999"):
        split_by_group(videos, {"train": 0.7, "held_out": 0.2})


@pytest.mark.parametrize("seed", range(7))
def test_runs_keep_groups_together_without_knowing_them(seed: int) -> None:
    videos, names = collection([4, 7, 5, 4, 6, 7, 4, 5, 4, 6, 7, 4, 7, 7, 7])
    blind = FeatureSet(videos.features, videos.labels, None, videos.places)
    with pytest.raises(InputError, match="the file names no groups"):
        split_by_group(blind, {"train": 1.0})
    parts = split_by_runs(blind, 0.2, longest_group=7, seed=seed)
    sides = [{names[row] for row in part.places} for part in parts.values()]
    assert not sides[0] & sides[1]
    total = sum(len(part) for part in parts.values())
    left_out = parts["train"].left_out["beside a held-out run"]
    assert total + left_out == len(names)
    assert 3 * 6 <= left_out <= 3 * 12
    for part in parts.values():
        assert part.labels is not None
        assert set(part.labels) == {0, 1, 2}
    # Without the gap, groups would be torn apart.
    torn = split_by_runs(blind, 0.2, longest_group=1, seed=seed)
    assert {names[row] for row in torn["train"].places} & {
        names[row] for row in torn["held_out"].places
    }


def test_runs_that_cannot_be_cut_are_named() -> None:
    videos, _ = collection([4, 3])
    with pytest.raises(InputError, match="label 0 has 7 videos"):
        split_by_runs(videos, 0.3, longest_group=7)
    with pytest.raises(InputError, match=r"held_out=1\.5"):
        split_by_runs(videos, 1.5, longest_group=7)
    mixed = FeatureSet(videos.features, videos.labels[::-1].copy() % 2, None, videos.places)  # type: ignore[index]
    with pytest.raises(InputError, match="2 labels stand in 3 runs"):
        split_by_runs(mixed, 0.3, longest_group=2)


def test_the_real_features_are_in_the_order_of_their_labels(shared_data: Path) -> None:
    path = shared_data / "ucf101_15cls_vgg16_rp128_train.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the real data")
    videos = load_feature_set(path)
    assert videos.features.shape == (1442, 25, 128)
    # Clips stand in the order of their names: neighbours are of one recording most of the time.
    means = videos.features.mean(1)
    means = (means - means.mean(0)) / np.linalg.norm(means - means.mean(0), axis=1, keepdims=True)
    assert videos.labels is not None
    alike = {
        step: (means[step:] * means[:-step]).sum(1)[videos.labels[step:] == videos.labels[:-step]]
        for step in (1, 30)
    }
    assert np.median(alike[1]) > 0.8 > 0.6 > np.median(alike[30])
    # A group of UCF-101 holds four to seven clips.
    parts = split_by_runs(videos, 0.2, longest_group=7, seed=0)
    assert len(parts["held_out"]) == pytest.approx(0.2 * 1442, abs=15)
    assert len(parts["train"]) > 900
    for part in parts.values():
        assert part.labels is not None
        assert len(np.unique(part.labels)) == 15
    assert not set(parts["train"].places) & set(parts["held_out"].places)
