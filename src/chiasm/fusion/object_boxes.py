"""Where the same thing lies in an image and in its reconstruction: one box in each, row by row.

For the box in the *original*, the first rule that speaks decides:

1. `given`: the box that came with the pair.
2. `mask`: the occlusion mask. White means: this pixel of the thing is hidden. So its box is a lower
   bound of the thing's: the thing reaches at least as far, and how much farther its visible part
   reaches, no mask of what is hidden can say. Taken as the thing's own box it would squeeze a whole
   reconstruction into the hidden part. The reading here is the smallest change that does not
   contradict the mask: the box in the reconstruction, grown along an axis only if the hidden part
   is longer, and moved only as far as needed to hold the hidden part.
3. `background`: the box of all pixels that differ from a plain background.
4. `identity`.

For the box in the *reconstruction*: `given`, `background`, `identity`. Where either picture is left
with `identity`, both boxes are the whole view, so that no alignment happens.

A box from the background that covers nearly the whole picture is no box: that is a photo, whose
background is not plain. The source of the method read the background on normalised pixels of the
first image of a batch, found such boxes in every photo, and aligned nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chiasm.core.batch import PairBatch
from chiasm.core.errors import GeometryError
from chiasm.core.grid import ImageGeometry

Rule = Literal["given", "mask", "background", "identity"]

Parts = tuple[float, float, float, float]
"""XYXY as parts of a view's side."""

WHOLE: Parts = (0.0, 0.0, 1.0, 1.0)
"""The box of a whole view."""

_GIVEN: Rule = "given"
_MASK: Rule = "mask"
_BACKGROUND: Rule = "background"
_IDENTITY: Rule = "identity"


@dataclass(frozen=True)
class ObjectBoxes:
    """Boxes of one thing in both pictures of each pair.

    Attributes:
        boxes: float32 (B, 2, 4), XYXY as parts of the view's side in [0, 1]: in the original and
            in the reconstruction. Every box has an area.
        rules: For each row which rule gave the box in the original and in the reconstruction.
    """

    boxes: Tensor
    rules: tuple[tuple[Rule, Rule], ...]


@torch.no_grad()
def object_boxes(
    pairs: PairBatch,
    frames: Sequence[ImageGeometry] = (),
    *,
    threshold: float = 0.05,
    nearly_whole: float = 0.95,
) -> ObjectBoxes:
    """Find the boxes of each pair by the rules above.

    Args:
        pairs: The pairs, with pixels in [0, 1] before any normalisation.
        frames: For each row the geometry that carries its *original* to the view, so that padding
            is not mistaken for background; empty where views have no padding.
        threshold: How far a colour channel must be from the background's to be of the thing, as a
            part of its range. Smaller values find darker things and the noise of JPEG.
        nearly_whole: Part of each of the picture's sides from which on a box from the background
            counts as the whole picture.

    Raises:
        GeometryError: A given box has no area, or `frames` has not one geometry a row.
    """
    inside, around = (_areas(given, len(pairs)) for given in (frames, pairs.frames))
    boxes: list[tuple[Parts, Parts]] = []
    rules: list[tuple[Rule, Rule]] = []
    for row in range(len(pairs)):
        here, here_rule = _given(pairs.boxes[row, 0], row, "original"), _GIVEN
        there, there_rule = _given(pairs.boxes[row, 1], row, "reconstruction"), _GIVEN
        if there is None:
            picture = pairs.reconstruction[row]
            there = _foreground(picture, around[row], threshold, nearly_whole)
            there_rule = _BACKGROUND
        hidden = _extent(pairs.hidden[row]) if bool(pairs.hidden_known[row]) else None
        if here is None and there is not None and hidden is not None:
            here, here_rule = _holding(there, hidden), _MASK
        elif here is None:
            here = _foreground(pairs.original[row], inside[row], threshold, nearly_whole)
            here_rule = _BACKGROUND
        if here is None or there is None:
            boxes.append((WHOLE, WHOLE))
            rules.append((_IDENTITY, _IDENTITY))
        else:
            boxes.append((here, there))
            rules.append((here_rule, there_rule))
    found = torch.tensor(boxes, dtype=torch.float32, device=pairs.original.device)
    return ObjectBoxes(boxes=found.reshape(-1, 2, 4), rules=tuple(rules))


def _areas(frames: Sequence[ImageGeometry], count: int) -> list[Parts]:
    if len(frames) not in (0, count):
        raise GeometryError(
            f"object_boxes: {len(frames)} geometries for {count} pairs; give one a pair, or none "
            "where the views have no padding"
        )
    return [_picture_area(frame) for frame in frames] or [WHOLE] * count


def _picture_area(frame: ImageGeometry) -> Parts:
    """Return the part of the view that shows the picture, without padding."""
    left, top, right, bottom = frame.view_box()
    width, height = right - left, bottom - top
    return (
        max(0.0, -left / width),
        max(0.0, -top / height),
        min(1.0, (frame.original_width - left) / width),
        min(1.0, (frame.original_height - top) / height),
    )


def _given(values: Tensor, row: int, picture: str) -> Parts | None:
    """Return a box that came with the pair; None where all four values are not numbers."""
    left, top, right, bottom = (float(value) for value in values.tolist())
    if bool(values.isnan().all()):
        return None
    if not (left < right and top < bottom):
        raise GeometryError(
            f"pair {row}: the box {[left, top, right, bottom]} in the {picture} has no area; give "
            "left < right and top < bottom, or leave the box out"
        )
    return left, top, right, bottom


def _extent(marked: Tensor) -> Parts | None:
    """Return the box of all marked pixels, bool (H, W), as parts of its sides."""
    if not bool(marked.any()):
        return None
    height, width = marked.shape
    down = marked.any(dim=1).nonzero()[:, 0].tolist()
    across = marked.any(dim=0).nonzero()[:, 0].tolist()
    right, bottom = (across[-1] + 1) / width, (down[-1] + 1) / height
    return across[0] / width, down[0] / height, right, bottom


def _foreground(view: Tensor, area: Parts, threshold: float, nearly_whole: float) -> Parts | None:
    """Return the box of what stands before a plain background, or None.

    The background's colour is the median along the edge of the picture, so that it may be of any
    colour and the thing may touch the edge with less than half of it.

    Args:
        view: float (3, H, W), RGB in [0, 1].
        area: The part of the view that shows the picture.
        threshold: As in `object_boxes`.
        nearly_whole: As in `object_boxes`.
    """
    height, width = view.shape[1:]
    x_start, x_stop = round(area[0] * width), round(area[2] * width)
    y_start, y_stop = round(area[1] * height), round(area[3] * height)
    picture = view[:, y_start:y_stop, x_start:x_stop].float()
    sides = [picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]]
    background = torch.cat(sides, dim=1).median(dim=1).values
    differs = (picture - background[:, None, None]).abs().amax(dim=0) > threshold
    box = _extent(differs)
    if box is None or min(box[2] - box[0], box[3] - box[1]) >= nearly_whole:
        return None
    wide, high = x_stop - x_start, y_stop - y_start
    return (
        (x_start + box[0] * wide) / width,
        (y_start + box[1] * high) / height,
        (x_start + box[2] * wide) / width,
        (y_start + box[3] * high) / height,
    )


def _holding(box: Parts, hidden: Parts) -> Parts:
    """Return `box`, moved as little as possible and grown only if needed, to hold `hidden`."""
    left, right = _hold(box[0], box[2], hidden[0], hidden[2])
    top, bottom = _hold(box[1], box[3], hidden[1], hidden[3])
    return left, top, right, bottom


def _hold(
    start: float, stop: float, hidden_start: float, hidden_stop: float
) -> tuple[float, float]:
    if start <= hidden_start and hidden_stop <= stop:
        return start, stop
    length = stop - start
    if hidden_stop - hidden_start >= length:
        return hidden_start, hidden_stop
    if hidden_start < start:
        return hidden_start, hidden_start + length
    return hidden_stop - length, hidden_stop
