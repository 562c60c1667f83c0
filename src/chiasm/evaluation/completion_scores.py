"""How well a picture completes what an occluder hides: its silhouette, and the hidden pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.core.errors import DataError
from chiasm.core.samples import Sample
from chiasm.data.conversation import name_of
from chiasm.data.world.render import render
from chiasm.data.world.scene import scene_from_plain

DIFFERS = 24
"""From how many steps of intensity, in any channel, a pixel is no background: more than light and
noise make of it in the worlds, less than the colour of any thing."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CompletionTruth:
    """What is true of a picture in which something is hidden.

    Attributes:
        target: uint8 (H, W, 3), the picture without the occluder.
        background: uint8 (H, W, 3), the picture without the thing, too.
        whole: bool (H, W), the thing's pixels.
        hidden: bool (H, W), those of them that the occluder hides.
    """

    target: Pixels
    background: Pixels
    whole: Mask
    hidden: Mask


def completion_truth(sample: Sample) -> CompletionTruth:
    """Return the truth of a sample of the world `occluded`.

    Raises:
        DataError: The sample has no target, masks or scene.
    """
    needed = ("whole", "hidden", "scene")
    lacking = [name for name in needed if name not in sample.truth]
    if sample.pair is None or not isinstance(sample.pair.target, np.ndarray) or lacking:
        raise DataError(
            f"{name_of(sample)}: completions are scored against a target as an array and the truth "
            f"{', '.join(needed)}; missing: {', '.join(lacking) or 'the target'}. Take the world "
            "`occluded`"
        )
    scene = scene_from_plain(sample.truth["scene"])
    empty = render(replace(scene, things=(), occluders=()))
    return CompletionTruth(
        target=sample.pair.target,
        background=empty.image,
        whole=np.asarray(sample.truth["whole"], np.bool_),
        hidden=np.asarray(sample.truth["hidden"], np.bool_),
    )


def silhouette(picture: Pixels, background: Pixels) -> Mask:
    """Return the pixels bool (H, W) of a picture that are no background."""
    apart = np.abs(picture.astype(np.int16) - background.astype(np.int16))
    return apart.max(axis=2) > DIFFERS


@dataclass(frozen=True)
class Drawn:
    """A picture that is offered as the completion.

    Attributes:
        picture: uint8 (H, W, 3).
        silhouette: bool (H, W), the thing in it.
    """

    picture: Pixels
    silhouette: Mask


def score_drawn(drawn: Mapping[str, Drawn], truth: CompletionTruth) -> dict[str, dict[str, Any]]:
    """Score pictures that are offered as the completion of one sample.

    Args:
        drawn: By maker.
        truth: Of the sample.

    Returns:
        By maker `iou` of the silhouette, and `error`, the mean squared error of the hidden pixels,
        RGB in [0, 1]; None where nothing is hidden.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, one in drawn.items():
        union = (one.silhouette | truth.whole).sum()
        apart = one.picture.astype(np.float64) - truth.target.astype(np.float64)
        hidden = truth.hidden
        found[name] = {
            "iou": float((one.silhouette & truth.whole).sum() / union),
            "error": float(np.square(apart[hidden] / 255).mean()) if hidden.any() else None,
        }
    return found


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error over a range of 1."""
    return float(-10 * np.log10(max(error, 1e-10)))
