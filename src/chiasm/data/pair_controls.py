"""Controls of pairs: what a model is given in place of image and reconstruction.

They show what each of the two is worth. `original_only` and `reconstruction_only` leave one of them
out, `shuffled` and `wrong` make the reconstruction useless or misleading, `mask_known` adds what no
user has: the exact pixels that are hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from PIL import Image

from chiasm.core.config import lookup
from chiasm.core.errors import DataError, InputError
from chiasm.core.protocols import Dataset
from chiasm.core.samples import ImageSource, Pair, Sample
from chiasm.data.conversation import name_of
from chiasm.data.masks import ArrayMask
from chiasm.data.media import load_image

PairControl = Literal[
    "given", "original_only", "reconstruction_only", "shuffled", "wrong", "mask_known"
]

PAIR_CONTROLS: tuple[str, ...] = get_args(PairControl)
"""The controls; `given` is none."""

ORDER_SEED = 20240501
"""Seed of the order in which reconstructions are passed on; the same in every run."""


SHOWN = ("shown", "shown_cells")
"""What is true of a reconstruction itself, and goes where it goes."""


@dataclass(frozen=True)
class ControlledPairs:
    """Pairs of a dataset under a control.

    - `given`: as they are.
    - `original_only`: the original stands in for its reconstruction.
    - `reconstruction_only`: the reconstruction stands in for its original; the target stays, and
      dense labels are those of what the reconstruction shows.
    - `shuffled`: each sample has the reconstruction of another one, always of the same.
    - `wrong`: as they are, but each must be known to show another object (`truth["errors"]`).
    - `mask_known`: the hidden pixels are told, from the pair or from `truth["hidden"]`.

    `truth["control"]` names the control; `truth["shown"]`, what a reconstruction shows, goes with
    it, and `truth["errors"]` goes where a reconstruction was replaced.

    Args:
        dataset: Samples with pairs.
        control: A name of `PAIR_CONTROLS`.

    Raises:
        UnknownNameError: No such control.
        InputError: Reconstructions of fewer than two samples are to be shuffled.
    """

    dataset: Dataset
    control: PairControl

    def __post_init__(self) -> None:
        lookup(dict.fromkeys(PAIR_CONTROLS), self.control, "control of pairs")
        if self.control == "shuffled" and len(self.dataset) < 2:
            raise InputError(
                f"shuffled reconstructions of {len(self.dataset)} sample(s); give at least 2"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index` under the control.

        Raises:
            DataError: The sample has no pair, or lacks what the control needs.
        """
        sample = self.dataset[index]
        pair = _pair_of(sample)
        if self.control == "given":
            return sample
        if self.control == "shuffled":
            changed = _with_other(sample, pair, self.dataset[self.donor(index)])
        else:
            changed = _CHANGES[self.control](sample, pair)
        return replace(changed, truth={**changed.truth, "control": self.control})

    def donor(self, index: int) -> int:
        """Return whose reconstruction sample `index` has when they are shuffled; never itself."""
        return int(self._next[index])

    @cached_property
    def _next(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """For each sample the one after it in a random ring of all, which leaves none in place."""
        ring = np.random.default_rng(ORDER_SEED).permutation(len(self.dataset))
        following = np.empty(len(ring), np.int64)
        following[ring] = np.roll(ring, -1)
        return following


def _pair_of(sample: Sample) -> Pair:
    if sample.pair is None:
        raise DataError(
            f"{name_of(sample)} has no reconstruction, so no control of pairs changes it; take a "
            "world or a file of pairs, or leave `pair` out"
        )
    return sample.pair


def _original_only(sample: Sample, pair: Pair) -> Sample:
    box = pair.image_box
    if box is None and pair.hidden is not None:
        # The mask speaks of one picture only, and would move the image against itself.
        width, height = load_image(sample.images[0]).size
        box = (0.0, 0.0, float(width), float(height))
    alone = replace(pair, reconstruction=sample.images[0], image_box=box, reconstruction_box=box)
    return replace(sample, pair=alone, truth=_without(sample, "errors", *SHOWN))


def _reconstruction_only(sample: Sample, pair: Pair) -> Sample:
    alone = replace(
        pair,
        hidden=None,
        image_box=pair.reconstruction_box,
        target=None if pair.target is None else _fitted(pair.target, pair.reconstruction),
    )
    truth = dict(sample.truth)
    if "cells" in truth:
        # Dense labels are of the picture that is shown; without labels of that one there are none.
        del truth["cells"]
        if "shown_cells" in truth:
            truth["cells"] = truth["shown_cells"]
    return replace(sample, images=(pair.reconstruction,), pair=alone, truth=truth)


def _with_other(sample: Sample, pair: Pair, other: Sample) -> Sample:
    given = _pair_of(other)
    mixed = replace(
        pair, reconstruction=given.reconstruction, reconstruction_box=given.reconstruction_box
    )
    told = (*SHOWN, "reconstruction_box")
    truth = _without(sample, "errors", *told)
    moved = {key: other.truth[key] for key in told if key in other.truth}
    return replace(sample, pair=mixed, truth={**truth, **moved})


def _wrong(sample: Sample, pair: Pair) -> Sample:
    errors = sample.truth.get("errors", {})
    if not errors.get("wrong_object", False):
        raise DataError(
            f"{name_of(sample)}: its reconstruction is not known to show another object; `wrong` "
            "is a control of worlds, for files take `shuffled`"
        )
    return sample


def _mask_known(sample: Sample, pair: Pair) -> Sample:
    if pair.hidden is not None:
        return sample
    if "hidden" not in sample.truth:
        raise DataError(
            f"{name_of(sample)}: nobody knows which pixels are hidden; give `occlusion_mask` in "
            "each record, or take another control"
        )
    known = ArrayMask(np.asarray(sample.truth["hidden"], bool), f"{name_of(sample)}: hidden")
    return replace(sample, pair=replace(pair, hidden=known))


def _without(sample: Sample, *keys: str) -> dict[str, object]:
    return {key: value for key, value in sample.truth.items() if key not in keys}


def _fitted(target: ImageSource, frame: ImageSource) -> ImageSource:
    """Return a target in the size of the picture that stands in for the original."""
    drawn, size = load_image(target), load_image(frame).size
    return target if drawn.size == size else drawn.resize(size, Image.Resampling.BICUBIC)


_CHANGES: dict[str, Callable[[Sample, Pair], Sample]] = {
    "original_only": _original_only,
    "reconstruction_only": _reconstruction_only,
    "wrong": _wrong,
    "mask_known": _mask_known,
}
"""Control -> what it makes of a sample; `shuffled` needs a second one."""
