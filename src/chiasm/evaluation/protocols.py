"""What evaluation asks of a model. Families and the inference session implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Sample

HOST = "host"
"""Name of the host's own stream."""

Force = str | Sequence[float] | None
"""How to set the gate: None as learned; the name of a stream for that stream alone (`"host"`: the
extra encoders contribute nothing); or one share a stream, host first, summing to 1."""


SUM_TOLERANCE = 0.01
"""How far shares may sum from 1: bfloat16 keeps three digits."""

REQUIRED_SETTINGS = ("model", "prompt", "dtype", "attention", "pixels")
"""Keys that `Answerer.describe` must give, so that no report lacks what shaped its numbers."""


class Described(Protocol):
    """Says what shaped its results."""

    def describe(self) -> Mapping[str, Any]:
        """Return what shaped the results beside the weights, as plain values.

        At least `model` (name or directory of the run), `prompt` (the chat template's rendering of
        one question, placeholders unexpanded), `dtype` of the weights, `attention` backend,
        `pixels` (the image budget, by the preparer's own names); `generation` options as well.
        """
        ...


class Answerer(Described, Protocol):
    """Answers questions in text."""

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the last user turn of each sample, greedily, one text a sample, in order.

        The samples end with that user turn: no assistant turn follows, and `truth` is empty.
        Earlier assistant turns, if any, are given history.
        """
        ...


class GateReadout(Protocol):
    """What a model returns about its gate, for I images and S streams, the host first."""

    @property
    def weights(self) -> NDArray[np.floating[Any]]:
        """Float (I, S): the share of each stream, averaged over tokens and channels."""
        ...

    @property
    def contributions(self) -> NDArray[np.floating[Any]]:
        """Float (I, S): mean over tokens of the norm of share times projected feature."""
        ...

    @property
    def maps(self) -> Sequence[NDArray[np.floating[Any]]]:
        """For each image float (rows, columns, S): the share at each cell."""
        ...

    @property
    def geometries(self) -> Sequence[ImageGeometry]:
        """The cells of each image in its original pixels."""
        ...


@dataclass(frozen=True)
class GateReading:
    """A checked `GateReadout`: what a gate did with I images and S streams (the host first).

    Attributes:
        weights: float (I, S), the share of each stream, averaged over tokens and channels; at
            least 0, a row sums to 1.
        contributions: float (I, S), the mean over tokens of the norm of share times projected
            feature: what each stream adds to the fused tokens. At least 0, no unit.
        maps: For each image float (rows, columns, S), the share at each cell.
        geometries: The cells of each image in its original pixels.
    """

    weights: NDArray[np.float64]
    contributions: NDArray[np.float64]
    maps: tuple[NDArray[np.float64], ...]
    geometries: tuple[ImageGeometry, ...]

    def __post_init__(self) -> None:
        images, streams = self.weights.shape
        counts = (len(self.contributions), len(self.maps), len(self.geometries))
        if counts != (images, images, images):
            raise InputError(
                f"gate reading: {images} rows of weights, but {counts[0]} of contributions, "
                f"{counts[1]} maps, {counts[2]} geometries; give each once an image"
            )
        for index, (row, cells, geometry) in enumerate(
            zip(self.weights, self.maps, self.geometries, strict=True)
        ):
            if not (row >= 0).all() or abs(row.sum() - 1) > SUM_TOLERANCE:
                raise InputError(
                    f"gate reading: image {index}: weights {row.tolist()}; shares must be at "
                    "least 0 and sum to 1"
                )
            if cells.shape != (geometry.rows, geometry.columns, streams):
                raise InputError(
                    f"gate reading: image {index}: map of shape {cells.shape} for a grid of "
                    f"{geometry.rows} x {geometry.columns} and {streams} streams"
                )


class GatedModel(Answerer, Protocol):
    """A model with several eyes that can be looked into and intervened on."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams, "host" first, then the extra encoders."""
        ...

    @property
    def gated(self) -> bool:
        """Whether the fusion has a gate; without one `gates` is never called."""
        ...

    def gates(self, samples: Sequence[Sample]) -> GateReadout:
        """Read the gate for all images of the samples, in the order of samples and images."""
        ...

    def answers(
        self, samples: Sequence[Sample], force: Force = None, shuffle: bool = False
    ) -> list[str]:
        """Answer as `Answerer.answers` does, with an intervention.

        Args:
            samples: Questions; see `Answerer.answers`.
            force: How to set the gate. A fusion without gate takes None and "host" only, the
                latter meaning that its contribution to the host's tokens is zero.
            shuffle: Give each image the extra encoders' features of the next image of the batch
                (the last one those of the first). The host's own features stay in place.
        """
        ...


def settings_of(model: Described) -> dict[str, Any]:
    """Return what a model says about itself, with nothing that a report needs missing.

    Raises:
        InputError: A required setting is missing.
    """
    settings = dict(model.describe())
    missing = [name for name in REQUIRED_SETTINGS if name not in settings]
    if missing:
        raise InputError(
            f"the model describes itself by {', '.join(sorted(settings)) or 'nothing'}; a report "
            f"also needs {', '.join(missing)}"
        )
    return settings
