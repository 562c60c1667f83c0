"""Training and validation samples of a recipe, stage by stage."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.protocols import Dataset, ImagePreparer
from chiasm.core.samples import ImageSource, Sample, Turn
from chiasm.data.dataset import load_dataset
from chiasm.data.formats import nlvr
from chiasm.data.media import load_image
from chiasm.data.mixture import Mixture
from chiasm.data.world.worlds import WORLDS, WorldDataset
from chiasm.recipes.schema import Source

NLVR = "nlvr"
"""Form of a folder rather than of records; its splits are drawn by identifier."""

NLVR_FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


@dataclass(frozen=True)
class _First:
    """The first samples of a dataset."""

    dataset: Dataset
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}; indices go from 0")
        return self.dataset[index]


@dataclass(frozen=True)
class _Listed:
    """Samples in a list."""

    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@dataclass(frozen=True)
class _PicturesOnly:
    """A world's pictures and dense labels, with a turn that nothing scores."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        turns = (Turn("user", (0,)),)
        return Sample(
            sample.identifier, turns, sample.images, sample.group, sample.truth, sample.origin
        )


@dataclass(frozen=True)
class _Shrunk:
    """Pictures made smaller; what the samples say of them stays true."""

    dataset: Dataset
    factor: int

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return replace(sample, images=tuple(map(self._shrink, sample.images)))

    def _shrink(self, source: ImageSource) -> Image.Image:
        picture = load_image(source)
        size = (picture.width // self.factor, picture.height // self.factor)
        return picture.resize(size, Image.Resampling.BICUBIC)


class StagedSamples:
    """The samples of all stages by position: each stage reads its own mixture from its start.

    Args:
        mixtures: One a stage.
        positions: How many samples each stage reads.
    """

    def __init__(self, mixtures: Sequence[Mixture], positions: Sequence[int]) -> None:
        self.mixtures = tuple(mixtures)
        self._ends = list(accumulate(positions))

    def __len__(self) -> int:
        """Return how many samples all stages read together."""
        return self._ends[-1]

    def __getitem__(self, position: int) -> Sample:
        """Return the sample at a position of the run."""
        stage = min(bisect.bisect_right(self._ends, position), len(self.mixtures) - 1)
        start = self._ends[stage - 1] if stage else 0
        return self.mixtures[stage].sample_at(position - start)


def build_source(source: Source, preparer: ImagePreparer | None, base: Path) -> Dataset:
    """Open one source.

    Args:
        source: The recipe's entry.
        preparer: Of the host; its grid is that of dense labels.
        base: Folder that relative paths start from.

    Raises:
        DataError: A file is missing or wrong.
    """
    if source.world is not None:
        return _build_world(source, preparer)
    path = Path(source.path or "")
    path = path if path.is_absolute() else base / path
    dataset: Dataset
    if source.format == NLVR:
        dataset = _nlvr(path, source)
    else:
        root = None if source.media_root is None else base / source.media_root
        split = None if source.split == "train" else source.split
        dataset = load_dataset(path, source.format, root, split=split)
    return dataset if source.count is None else _First(dataset, source.count)


def build_mixture(
    sources: Sequence[Source], preparer: ImagePreparer | None, base: Path, seed: int
) -> Mixture:
    """Open sources and mix them by weight, or by size when none has one.

    Raises:
        ConfigError: Some sources have a weight and some have none.
        DataError: A file is missing or wrong.
    """
    names = [f"{index}: {source.world or source.path}" for index, source in enumerate(sources)]
    weighted = [source for source in sources if source.weight is not None]
    if weighted and len(weighted) != len(sources):
        lacking = [n for n, s in zip(names, sources, strict=True) if s.weight is None]
        raise ConfigError(
            f"sources {lacking} have no weight while others have; give each a weight, or none"
        )
    datasets = {
        name: build_source(source, preparer, base)
        for name, source in zip(names, sources, strict=True)
    }
    weights = {n: s.weight for n, s in zip(names, sources, strict=True) if s.weight is not None}
    return Mixture(datasets, weights or None, seed=seed)


def list_samples(
    sources: Sequence[Source], preparer: ImagePreparer | None, base: Path
) -> list[Sample]:
    """Return every sample of the sources, in order."""
    opened = [build_source(source, preparer, base) for source in sources]
    return [dataset[index] for dataset in opened for index in range(len(dataset))]


def _build_world(source: Source, preparer: ImagePreparer | None) -> Dataset:
    name = source.world or ""
    rows, columns = (0, 0)
    if source.dense and preparer is None:
        raise ConfigError(
            f"world {name!r}: `dense` labels lie on a host's grid, and there is no host; leave "
            "`dense` out"
        )
    if source.dense and preparer is not None:
        part = WORLDS[name].parts[0]
        size = (part.height // source.shrink, part.width // source.shrink, 3)
        blank = Image.fromarray(np.zeros(size, np.uint8))
        geometry = preparer.prepare([blank]).geometries[0]
        rows, columns = geometry.rows, geometry.columns
    dataset = WorldDataset(
        world=name,
        split=source.split,
        seed=source.seed,
        count=source.count or 1,
        questions_per_image=max(1, source.questions),
        dense_rows=rows,
        dense_columns=columns,
        phrases=source.phrases,
        supervise_phrases=source.supervise,
    )
    drawn: Dataset = dataset if source.questions or source.phrases else _PicturesOnly(dataset)
    return drawn if source.shrink == 1 else _Shrunk(drawn, source.shrink)


def _nlvr(path: Path, source: Source) -> Dataset:
    parts = nlvr.split(nlvr.read(path), NLVR_FRACTIONS, source.seed)
    if source.split not in parts:
        raise DataError(
            f"{path}: split {source.split!r} is not one of {', '.join(NLVR_FRACTIONS)}; "
            "choose one of these"
        )
    return _Listed(parts[source.split])


def world_corpus(names: Sequence[str], count: int = 500) -> list[str]:
    """Return what worlds say, for a tokenizer: the turns of `count` samples of each world."""
    texts = ["user\n", "assistant\n", "system\n"] * count
    for name in names:
        dataset = WorldDataset(world=name, count=count, questions_per_image=4)
        for index in range(count):
            sample = dataset[index]
            texts += [turn.text for turn in sample.turns]
    return texts
