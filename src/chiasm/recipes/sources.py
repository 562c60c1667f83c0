"""Training and validation samples of a recipe, stage by stage."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.protocols import Dataset, ImagePreparer
from chiasm.core.samples import ImageSource, Phrase, Sample, Turn
from chiasm.data.balancing import domain_weights, parts_by_domain
from chiasm.data.dataset import load_dataset
from chiasm.data.formats import nlvr
from chiasm.data.formats.grounding import GroundingOptions
from chiasm.data.masks import ArrayMask
from chiasm.data.media import load_image
from chiasm.data.mixture import Mixture
from chiasm.data.pair_controls import ControlledPairs
from chiasm.data.world.motion_worlds import MOTION_WORLDS, MotionDataset
from chiasm.data.world.worlds import WORLDS, WorldDataset
from chiasm.recipes.data_choice import Source

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
        return replace(sample, turns=(Turn("user", (0,)),), phrases=())


@dataclass(frozen=True)
class Shrunk:
    """Pictures made smaller, with the masks of their phrases and the boxes of their things."""

    dataset: Dataset
    factor: int

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`, smaller; a mask that would vanish keeps its fullest pixels."""
        sample = self.dataset[index]
        return replace(
            sample,
            images=tuple(map(self._shrink, sample.images)),
            truth={**sample.truth, "boxes": [self._shrink_box(b) for b in sample.truth["boxes"]]},
            phrases=tuple(map(self._shrink_mask, sample.phrases)),
        )

    def _shrink(self, source: ImageSource) -> Image.Image:
        picture = load_image(source)
        return picture.resize(self._smaller(picture), Image.Resampling.BICUBIC)

    def _shrink_mask(self, phrase: Phrase) -> Phrase:
        if phrase.mask is None:
            return phrase
        whole = Image.fromarray(phrase.mask.read().astype(np.float32))
        shares = np.asarray(whole.resize(self._smaller(whole), Image.Resampling.BOX))
        # Half of a pixel or more; of what is too thin for that, the fullest pixels.
        smaller = (shares >= min(0.5, float(shares.max()))) & (shares > 0)
        return replace(phrase, mask=ArrayMask(smaller, f"shrunk mask of {phrase.identifier!r}"))

    def _shrink_box(self, box: Sequence[int]) -> list[float]:
        return [side / self.factor for side in box]

    def _smaller(self, picture: Image.Image) -> tuple[int, int]:
        return picture.width // self.factor, picture.height // self.factor


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
    dataset = _build_world(source, preparer) if source.world else _open_file(source, base)
    return dataset if source.pair is None else ControlledPairs(dataset, source.pair)


def _open_file(source: Source, base: Path) -> Dataset:
    path = Path(source.path or "")
    path = path if path.is_absolute() else base / path
    dataset: Dataset
    if source.format == NLVR:
        dataset = _nlvr(path, source)
    else:
        root = None if source.media_root is None else base / source.media_root
        dataset = load_dataset(
            path,
            source.format,
            root,
            split=source.split,
            grounding=located(source.grounding, base),
        )
    return dataset if source.count is None else _First(dataset, source.count)


def build_mixture(
    sources: Sequence[Source], preparer: ImagePreparer | None, base: Path, seed: int
) -> Mixture:
    """Open sources and mix them by weight, or by size when none has one.

    Within a source whose domains are balanced these share its weight; see `domain_weights`.

    Raises:
        ConfigError: Some sources have a weight and some have none.
        DataError: A file is missing or wrong.
        InputError: A sample of a source that is to be balanced has no domain.
    """
    names = [f"{index}: {source.world or source.path}" for index, source in enumerate(sources)]
    weighted = [source for source in sources if source.weight is not None]
    if weighted and len(weighted) != len(sources):
        lacking = [n for n, s in zip(names, sources, strict=True) if s.weight is None]
        raise ConfigError(
            f"sources {lacking} have no weight while others have; give each a weight, or none"
        )
    datasets: dict[str, Dataset] = {}
    weights: dict[str, float] = {}
    for name, source in zip(names, sources, strict=True):
        dataset = build_source(source, preparer, base)
        weight = float(len(dataset)) if source.weight is None else source.weight
        if source.balance is None:
            datasets[name], weights[name] = dataset, weight
            continue
        domain_at = dataset.domain_at if isinstance(dataset, MotionDataset) else None
        parts = parts_by_domain(dataset, domain_at)
        shares = domain_weights(
            {domain: len(part) for domain, part in parts.items()}, source.balance
        )
        datasets |= {f"{name}: {domain}": part for domain, part in parts.items()}
        weights |= {f"{name}: {domain}": weight * share for domain, share in shares.items()}
    given = weighted or any(source.balance is not None for source in sources)
    return Mixture(datasets, weights if given else None, seed=seed)


def list_samples(
    sources: Sequence[Source], preparer: ImagePreparer | None, base: Path
) -> list[Sample]:
    """Return every sample of the sources, in order."""
    opened = [build_source(source, preparer, base) for source in sources]
    return [dataset[index] for dataset in opened for index in range(len(dataset))]


def _build_motion(source: Source) -> Dataset:
    return MotionDataset(
        world=source.world or "",
        split=source.split or "train",
        seed=source.seed,
        count=source.count or 1,
        task=source.task or "questions",
        questions_per_video=source.questions,
    )


def _build_world(source: Source, preparer: ImagePreparer | None) -> Dataset:
    name = source.world or ""
    if name in MOTION_WORLDS:
        return _build_motion(source)
    if source.shrink > 1 and WORLDS[name].occlusion is not None:
        raise ConfigError(
            f"shrink={source.shrink} in the world {name!r}: pairs are drawn in the size they are "
            "read in; leave `shrink` out"
        )
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
        split=source.split or "train",
        seed=source.seed,
        count=source.count or 1,
        questions_per_image=max(1, source.questions),
        dense_rows=rows,
        dense_columns=columns,
        phrases=source.phrases,
        supervise_phrases=source.supervise,
        wrong_objects=source.pair == "wrong",
    )
    drawn: Dataset = dataset if source.questions or source.phrases else _PicturesOnly(dataset)
    return drawn if source.shrink == 1 else Shrunk(drawn, source.shrink)


def _nlvr(path: Path, source: Source) -> Dataset:
    parts = nlvr.split(nlvr.read(path), NLVR_FRACTIONS, source.seed)
    split = source.split or "train"
    if split not in parts:
        raise DataError(
            f"{path}: split {split!r} is not one of {', '.join(NLVR_FRACTIONS)}; "
            "choose one of these"
        )
    return _Listed(parts[split])


def located(grounding: GroundingOptions, base: Path) -> GroundingOptions:
    """Return options whose relative paths start from a folder."""
    if grounding.panoptic is None:
        return grounding
    return grounding.model_copy(update={"panoptic": base / grounding.panoptic})


@functools.cache
def world_corpus(names: tuple[str, ...], count: int = 500) -> tuple[str, ...]:
    """Return what worlds say, for a tokenizer: the turns of `count` samples of each world."""
    texts = ["user\n", "assistant\n", "system\n"] * count
    for name in names:
        dataset = WorldDataset(world=name, count=count, questions_per_image=4)
        for index in range(count):
            sample = dataset[index]
            texts += [turn.text for turn in sample.turns]
    return tuple(texts)
