"""Parts of a dataset that share no image or video, for data that comes without a split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.protocols import Dataset
from chiasm.core.samples import ImageSource, Sample

_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Part:
    """Some samples of a dataset, in its order.

    Attributes:
        dataset: The dataset.
        places: Indices of the samples of this part, ascending.
    """

    dataset: Dataset
    places: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index` of the part.

        Raises:
            IndexError: The index is not in [0, length).
        """
        if not 0 <= index < len(self.places):
            raise IndexError(f"sample {index} of {len(self.places)}; indices go from 0")
        return self.dataset[self.places[index]]


def split_by_image(
    dataset: Dataset, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, Part]:
    """Split a dataset so that no image lies on two sides.

    The side of an image is a hash of `seed` and its name alone: it does not depend on the other
    images or their order, and is the same for all data sets that name the image alike (COCO's
    instances, panoptic segments and RefCOCO of one image). Samples that share an image directly or
    through others stay together, and so do all samples of a video. Parts only come near their
    fractions.

    Args:
        dataset: Samples with images; the images are not opened.
        fractions: Share of each part by name; they must sum to 1.
        seed: Another seed gives another split.

    Returns:
        The parts by name.

    Raises:
        InputError: The fractions do not sum to 1.
    """
    check_fractions(fractions)
    names = [_image_names(dataset[index]) for index in range(len(dataset))]
    first = tied(names)
    places: dict[str, list[int]] = {name: [] for name in fractions}
    for index, found in enumerate(names):
        places[draw_part(first[found[0]], fractions, seed)].append(index)
    return {name: Part(dataset, tuple(found)) for name, found in places.items()}


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Check shares of parts.

    Raises:
        InputError: There is none, one is negative, or they do not sum to 1.
    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise InputError(
            f"fractions {dict(fractions)} sum to {sum(fractions.values())}; give parts of at least "
            "0 that sum to 1, for example train 0.8, held_out 0.2"
        )


def draw_part(key: str, fractions: Mapping[str, float], seed: int) -> str:
    """Return the part a key falls into: a hash of seed and key, uniform in [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, fraction in fractions.items():
        edge += fraction
        if place < edge:
            return name
    # Rounding of the sum can leave a sliver at the end.
    return [name for name, fraction in fractions.items() if fraction > 0][-1]


def image_name(source: ImageSource) -> str:
    """Return what an image is told from others by.

    The number at the end of its file name ("COCO_train2014_000000000009.jpg" and
    "000000000009.jpg" are image 9 of COCO), else the file name without suffix, else a digest of
    its content.
    """
    if isinstance(source, str) and source[:5].lower() == "data:":
        source = source.encode()
    if isinstance(source, str | Path):
        stem = Path(source).stem
        number = _NUMBER.search(stem)
        return f"{int(number.group(1))}" if number else stem
    if isinstance(source, Image.Image):
        source = np.asarray(source)
    content = source if isinstance(source, bytes) else np.ascontiguousarray(source).tobytes()
    return hashlib.sha256(content).hexdigest()


def _image_names(sample: Sample) -> list[str]:
    """Return the names of a sample's images and video; that of the sample where it has none."""
    names = [image_name(source) for source in sample.images]
    # Clips of one recording often end in the same number, so a video is known by its whole name.
    if isinstance(sample.video, str | Path):
        names.append(f"video {Path(sample.video).stem}")
    return names or [f"sample {sample.identifier}"]


def tied(names: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return for each name the smallest among those it is tied to (union-find).

    Args:
        names: For each sample what it is known by; names of one sample are tied to each other.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for first, *others in names:
        # The smaller name becomes the root, whatever the order of the samples.
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
        root(first)
    return {key: root(key) for key in parent}
