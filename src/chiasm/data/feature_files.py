"""Feature files: videos whose frames an encoder has seen already.

    one video      .npy, or .npz and .safetensors with one array: float (frames, width)
    many videos    .npz or .safetensors with features (videos, frames, width) or (videos, width),
                   and, where known, labels and groups (videos,)

Clips cut from one recording look alike, so a split that tears them apart measures memory. A split
goes by group; where a file names no groups but keeps the clips in the order of their names, it goes
by runs of neighbours, and leaves out as many clips at each seam as one group may hold.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from chiasm.core.errors import DataError, InputError, MediaError
from chiasm.data.splitting import check_fractions, draw_part
from chiasm.data.video_index import check_file

FEATURE_SUFFIXES = (".npy", ".npz", ".safetensors")

FEATURES = ("features", "X", "x")
LABELS = ("labels", "Y", "y")
GROUPS = ("groups", "group")
"""Names of the arrays of a file of many videos, the usual ones first."""


def load_features(path: Path) -> NDArray[np.float32]:
    """Read the features of one video.

    Returns:
        float32 (frames, width).

    Raises:
        MediaError: The file is missing, empty, damaged, holds no or several arrays, or features of
            another shape.
    """
    arrays = _load(path)
    if len(arrays) != 1:
        raise MediaError(
            f"{path}: holds the arrays {sorted(arrays)}; a file of one video holds one, features "
            "(frames, width)"
        )
    (found,) = arrays.values()
    return check_features(found, str(path))


def check_features(found: NDArray[Any], name: str = "feature array") -> NDArray[np.float32]:
    """Return the features of one video as float32 (frames, width).

    Args:
        found: The features.
        name: What messages call them.

    Raises:
        MediaError: They are no floats of this shape, there are none, or some are no finite numbers
            in float32.
    """
    if found.ndim != 2 or found.dtype.kind != "f" or 0 in found.shape:
        raise MediaError(
            f"{name}: holds {found.dtype} {found.shape}; allowed: floats (frames, width)"
        )
    # What overflows is found below.
    with np.errstate(over="ignore"):
        features = found.astype(np.float32)
    _check_finite(features, name)
    return features


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of many videos.

    Attributes:
        features: float32 (N, frames, width), or (N, width) where one vector stands for a video.
        labels: int64 (N,); None where the file has none.
        groups: What each video was cut from, text (N,); None where nobody said.
        places: Row of each video in the file, int64 (N,).
        left_out: How many videos of the file are in no part, by reason.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    groups: NDArray[np.str_] | None
    places: NDArray[np.int64]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.features)

    def take(self, rows: NDArray[np.int64], left_out: Mapping[str, int]) -> FeatureSet:
        """Return some of the videos."""
        return FeatureSet(
            features=self.features[rows],
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            places=self.places[rows],
            left_out=left_out,
        )


def load_feature_set(path: Path) -> FeatureSet:
    """Read a file of features of many videos.

    Raises:
        MediaError: The file is missing, empty or damaged.
        DataError: It holds no features, or arrays that do not fit together: all faults at once.
    """
    arrays = _load(path)
    features = _named(arrays, FEATURES)
    faults: list[str] = []
    if features is None or features.ndim not in (2, 3) or features.dtype.kind != "f":
        shown = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
        raise DataError(
            f"{path}: holds {shown}; needed: floats (videos, frames, width) or (videos, width) "
            f"under one of the names {', '.join(FEATURES)}"
        )
    _check_finite(features, path)
    labels, groups = _named(arrays, LABELS), _named(arrays, GROUPS)
    for name, array, kinds in (("labels", labels, "iu"), ("groups", groups, "iuU")):
        if array is not None and (
            array.shape != features.shape[:1] or array.dtype.kind not in kinds
        ):
            faults.append(
                f"{name}: {array.dtype} {array.shape}; one whole number"
                f"{' or text' if 'U' in kinds else ''} for each of {len(features)} videos is needed"
            )
    if faults:
        raise DataError(f"{path}: {len(faults)} fault(s)", faults)
    return FeatureSet(
        features=features.astype(np.float32),
        labels=None if labels is None else labels.astype(np.int64),
        groups=None if groups is None else groups.astype(np.str_),
        places=np.arange(len(features)),
    )


def split_by_group(
    videos: FeatureSet, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, FeatureSet]:
    """Split videos so that no group lies on two sides.

    The side of a group is a hash of `seed` and its name: it does not depend on the other groups or
    their order.

    Args:
        videos: With groups.
        fractions: Share of each part by name; they must sum to 1. Parts only come near them.
        seed: Another seed gives another split.

    Raises:
        InputError: The videos have no groups, or the fractions do not sum to 1.
    """
    check_fractions(fractions)
    if videos.groups is None:
        raise InputError(
            "the file names no groups; give it an array 'groups', or, if its videos are in the "
            "order of their names, split with split_by_runs"
        )
    sides = np.array([draw_part(str(group), fractions, seed) for group in videos.groups])
    return {name: videos.take(np.flatnonzero(sides == name), {}) for name in fractions}


def split_by_runs(
    videos: FeatureSet, held_out: float, longest_group: int, seed: int = 0
) -> dict[str, FeatureSet]:
    """Split videos that are in the order of their names, without knowing their groups.

    Of each label one run of neighbours is held out, somewhere in the label's list. As many videos
    as a group may hold, less one, are left out on each side of the run, so that no group can lie on
    two sides wherever its borders are.

    Args:
        videos: With labels; videos of one label stand together, those of one group within it.
        held_out: Share of each label's videos that are held out, in (0, 1).
        longest_group: Most videos of one group.
        seed: Places the runs.

    Returns:
        `train` and `held_out`; `FeatureSet.left_out` of both counts the videos at the seams.

    Raises:
        InputError: There are no labels, a label is scattered, or a number is out of range.
    """
    if not 0 < held_out < 1 or longest_group < 1:
        raise InputError(
            f"held_out={held_out}, longest_group={longest_group}; allowed: a share in (0, 1), and "
            "at least 1"
        )
    if videos.labels is None:
        raise InputError("the file has no labels, so its runs are not known; give it 'labels'")
    train: list[int] = []
    tested: list[int] = []
    for number, rows in enumerate(_runs(videos.labels)):
        count = round(len(rows) * held_out)
        gap = longest_group - 1
        if count < 1 or len(rows) - count - 2 * gap < 1:
            raise InputError(
                f"label {videos.labels[rows[0]]} has {len(rows)} videos, of which {count} would be "
                f"held out and up to {2 * gap} left out; hold out another share"
            )
        first = int(np.random.default_rng([seed, number]).integers(len(rows) - count + 1))
        tested += rows[first : first + count].tolist()
        # At an end of the list there is no neighbour to be careful of.
        train += rows[: max(0, first - gap)].tolist()
        train += rows[first + count + gap :].tolist()
    told = {"beside a held-out run": len(videos) - len(train) - len(tested)}
    return {
        "train": videos.take(np.array(train, np.int64), told),
        "held_out": videos.take(np.array(tested, np.int64), told),
    }


def _runs(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    seams = np.flatnonzero(np.diff(labels)) + 1
    runs = np.split(np.arange(len(labels)), seams)
    if len(runs) > len(np.unique(labels)):
        raise InputError(
            f"the videos of {len(np.unique(labels))} labels stand in {len(runs)} runs; sort them "
            "by label and name, or split by group"
        )
    return runs


def _load(path: Path) -> dict[str, NDArray[Any]]:
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in FEATURE_SUFFIXES:
        raise MediaError(
            f"{path}: is no file of features; allowed suffixes: {', '.join(FEATURE_SUFFIXES)}"
        )
    try:
        if suffix == ".safetensors":
            return dict(load_file(path))
        # A pickle could run anything; arrays of numbers and texts need none.
        loaded = np.load(path, allow_pickle=False)
        if suffix == ".npy":
            return {"features": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise MediaError(
            f"{path}: cannot be read: {error}; write it again, as arrays of numbers"
        ) from error


def _named(arrays: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _check_finite(features: NDArray[Any], path: Path | str) -> None:
    broken = int((~np.isfinite(features)).sum())
    if broken:
        raise MediaError(
            f"{path}: {broken} of its {features.size} features are infinite or no numbers; encode "
            "the videos again"
        )
