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
from chiasm.data.media import load_image
from chiasm.data.world.render import render
from chiasm.data.world.scene import scene_from_plain

DIFFERS = 24
"""From how many steps of intensity, in any channel, a pixel is no background: more than light and
noise make of it in the worlds, less than the colour of any thing."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outline:
    """What makes silhouettes comparable.

    Attributes:
        background: uint8 (H, W, 3), the picture without occluder and thing.
        whole: bool (H, W), the thing's pixels.
    """

    background: Pixels
    whole: Mask


@dataclass(frozen=True)
class CompletionTruth:
    """What is true of a picture in which something is hidden.

    Attributes:
        target: uint8 (H, W, 3), the picture without the occluder.
        hidden: bool (H, W), the pixels of the thing that the occluder hides.
        outline: What silhouettes are compared with; None where only pixels are known.
    """

    target: Pixels
    hidden: Mask
    outline: Outline | None = None


def completion_truth(sample: Sample) -> CompletionTruth:
    """Return the truth of a sample.

    The hidden pixels are those of `truth["hidden"]`, else the pair's own. Silhouettes need
    `truth["whole"]` and the scene of a world under `truth["scene"]`.

    Raises:
        DataError: The target or the hidden pixels are not known, what is known differs in size, or
            the scene is none of a world.
    """
    pair, truth = sample.pair, sample.truth
    hidden = truth.get("hidden")
    if hidden is None and pair is not None and pair.hidden is not None:
        hidden = pair.hidden.read()
    if pair is None or pair.target is None or hidden is None:
        lacking = "target picture" if pair is None or pair.target is None else "hidden pixels"
        raise DataError(
            f"{name_of(sample)}: no {lacking}; a completion is scored against `image_target` where "
            "`truth.hidden` or `occlusion_mask` says that the picture hides something"
        )
    target = np.asarray(load_image(pair.target), np.uint8)
    hidden = np.asarray(hidden, np.bool_)
    _check_size(sample, target, "hidden pixels are a mask", hidden)
    if "whole" not in truth or "scene" not in truth:
        return CompletionTruth(target, hidden)
    whole = np.asarray(truth["whole"], np.bool_)
    _check_size(sample, target, "pixels of the whole thing are a mask", whole)
    try:
        scene = scene_from_plain(truth["scene"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name_of(sample)}: truth.scene is no scene of a world ({type(error).__name__}: "
            f"{error}); leave it out, and the hidden pixels alone are scored"
        ) from error
    empty = render(replace(scene, things=(), occluders=())).image
    _check_size(sample, target, "pixels of truth.scene are a picture", empty)
    return CompletionTruth(target, hidden, Outline(empty, whole))


def _check_size(sample: Sample, target: Pixels, what: str, other: NDArray[Any]) -> None:
    if target.shape[:2] != other.shape[:2]:
        raise DataError(
            f"{name_of(sample)}: the target has {target.shape[0]} x {target.shape[1]} pixels, the "
            f"{what} of {' x '.join(map(str, other.shape[:2]))}; they must agree"
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
        silhouette: bool (H, W), the thing in it; None where nobody can tell.
    """

    picture: Pixels
    silhouette: Mask | None


def score_drawn(drawn: Mapping[str, Drawn], truth: CompletionTruth) -> dict[str, dict[str, Any]]:
    """Score pictures that are offered as the completion of one sample.

    Args:
        drawn: By maker.
        truth: Of the sample.

    Returns:
        By maker `iou` of the silhouette, None where silhouettes are not known, and `error`, the
        mean squared error of the hidden pixels, RGB in [0, 1]; None where nothing is hidden.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, one in drawn.items():
        apart = one.picture.astype(np.float64) - truth.target.astype(np.float64)
        hidden = truth.hidden
        found[name] = {
            "iou": _overlap(one, truth),
            "error": float(np.square(apart[hidden] / 255).mean()) if hidden.any() else None,
        }
    return found


def _overlap(one: Drawn, truth: CompletionTruth) -> float | None:
    if one.silhouette is None or truth.outline is None:
        return None
    whole = truth.outline.whole
    return float((one.silhouette & whole).sum() / (one.silhouette | whole).sum())


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error over a range of 1."""
    return float(-10 * np.log10(max(error, 1e-10)))
