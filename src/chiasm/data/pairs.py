"""Pairs of a picture and a reconstruction: how they are framed, gathered and told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from chiasm.core.batch import PairBatch
from chiasm.core.errors import DataError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import ImagePreparer, PreparedImages
from chiasm.core.samples import Box, ImageSource, Pair, Sample, Turn
from chiasm.core.sampling import image_to_view
from chiasm.data.conversation import name_of
from chiasm.data.fitting import Row
from chiasm.data.formats.reader import joined
from chiasm.data.masks import read_mask

ROUNDING = 2e-3
"""How far an undone normalisation may leave [0, 1]: what half precision rounds, and no more."""

BEYOND = 0.5
"""How far a box may lie outside its picture, in pixels: what rounding leaves, and no more."""

PROBE = 32
"""Side of the black and white pictures by which a framing is tried out, in pixels."""


@dataclass(frozen=True)
class PairFraming:
    """How the pictures of a pair become views: squares as the host's tower reads them, in [0, 1].

    Attributes:
        preparer: The host's own; its tensors must be one of (N, 3, side, side).
        mean: What it subtracts from each channel of a picture in [0, 1].
        std: What it then divides by.
        target_size: Side of the picture to be drawn, in pixels.
        side: Side of a view in pixels; found out.

    Raises:
        InputError: The preparer makes something else, or normalises by other values.
    """

    preparer: ImagePreparer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    target_size: int
    side: int = field(init=False)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or self.target_size < 1:
            raise InputError(
                f"framing of pairs: mean {self.mean}, std {self.std}, target_size "
                f"{self.target_size}; give three values each, std and target_size above 0"
            )
        colours = ("black", "white")
        prepared = self.preparer.prepare([Image.new("RGB", (PROBE, PROBE), c) for c in colours])
        shapes = {name: tuple(tensor.shape) for name, tensor in prepared.tensors.items()}
        shape = next(iter(shapes.values()), ())
        geometry = prepared.geometries[0]
        side = shape[-1] if shape else 0
        whole = (geometry.rows * geometry.cell_height, geometry.columns * geometry.cell_width)
        if len(shapes) != 1 or shape != (2, 3, side, side) or whole != (side, side):
            raise InputError(
                f"{type(self.preparer).__name__} makes {shapes} of two pictures, with cells over "
                f"{whole[0]:g} x {whole[1]:g} pixels; pairs need a host whose tower reads one "
                "square for each picture, (N, 3, side, side)"
            )
        object.__setattr__(self, "side", side)
        means = self._undone(prepared).mean(dim=(1, 2, 3)).tolist()
        if max(abs(means[0]), abs(means[1] - 1)) > ROUNDING:
            raise InputError(
                f"mean {self.mean} and std {self.std} are not those of "
                f"{type(self.preparer).__name__}: undone, black is {means[0]:.3f} and white "
                f"{means[1]:.3f}; take image_mean and image_std of its image processor"
            )

    def view(self, images: Sequence[Image.Image]) -> tuple[Tensor, tuple[ImageGeometry, ...]]:
        """Frame RGB pictures, each by its own size.

        Args:
            images: At least one.

        Returns:
            float32 (N, 3, side, side) in [0, 1], and where each view lies in its picture.
        """
        prepared = self.preparer.prepare(images)
        return self.undo(prepared), prepared.geometries

    def undo(self, prepared: PreparedImages) -> Tensor:
        """Return prepared pictures as views, float32 (N, 3, side, side) in [0, 1]."""
        # What leaves the range here is rounding: the values were tried out.
        return self._undone(prepared).clamp(0, 1)

    def _undone(self, prepared: PreparedImages) -> Tensor:
        (pixels,) = prepared.tensors.values()
        std, mean = (pixels.new_tensor(v).view(1, 3, 1, 1).float() for v in (self.std, self.mean))
        return pixels.float() * std + mean

    def box(self, box: Box, geometry: ImageGeometry, name: str) -> list[float]:
        """Carry a box from a picture to its view.

        Args:
            box: XYXY in the picture's pixels.
            geometry: Of the picture.
            name: What to call the box in messages.

        Returns:
            XYXY as parts of the view's side, cut off where the view crops the picture.

        Raises:
            DataError: The view shows nothing of the box, or the box leaves the picture.
        """
        width, height = geometry.original_width, geometry.original_height
        given = (
            f"give [left, top, right, bottom] in the pixels of its picture of {width} x {height} "
            "(width x height)"
        )
        corners = torch.tensor([box[:2], box[2:]], dtype=torch.float64)
        cells = geometry.to_cells(corners) / corners.new_tensor([geometry.columns, geometry.rows])
        left, top, right, bottom = cells.clamp(0, 1).flatten().tolist()
        if not (left < right and top < bottom):
            raise DataError(f"{name}: the box {list(box)} shows nothing; {given}")
        outside = max(-box[0], -box[1], box[2] - width, box[3] - height)
        if outside > BEYOND:
            raise DataError(f"{name}: the box {list(box)} lies outside; {given}")
        return [left, top, right, bottom]


def gather_pairs(
    rows: Sequence[Row],
    prepared: PreparedImages,
    framing: PairFraming,
    loader: Callable[[ImageSource], Image.Image],
) -> PairBatch | None:
    """Gather the pairs of a batch.

    Args:
        rows: The rows of the batch.
        prepared: Their pictures as the host's preparer made them, all rows together.
        framing: How pictures become views.
        loader: Reads one picture as RGB.

    Returns:
        The pairs, one a row; None where no row has one.

    Raises:
        DataError: Some rows have a pair and others none, a row has not one picture, a mask is
            broken, or a mask or target is of another size than the picture.
        MediaError: A picture cannot be read.
    """
    pairs = [row.sample.pair for row in rows if row.sample.pair is not None]
    if not pairs:
        return None
    _check_rows(rows, len(pairs))
    shown, frames = framing.view([loader(pair.reconstruction) for pair in pairs])
    geometries = prepared.geometries
    size = (framing.side, framing.side)
    hidden = torch.zeros(len(rows), *size, dtype=torch.bool)
    boxes = torch.full((len(rows), 2, 4), torch.nan)
    for place, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        name = name_of(row.sample)
        if pair.hidden is not None:
            image = row.images[0]
            mask = read_mask(
                pair.hidden, image.height, image.width, f"{name}: hidden", may_be_empty=True
            )
            pixels = torch.from_numpy(mask.copy())[None]
            hidden[place] = image_to_view(pixels, geometries[place], size)[0]
        both = (pair.image_box, geometries[place]), (pair.reconstruction_box, frames[place])
        for side, (box, geometry) in enumerate(both):
            if box is not None:
                title = f"{name}: {('image_box', 'reconstruction_box')[side]}"
                boxes[place, side] = torch.tensor(framing.box(box, geometry, title))
    target, known = _targets(rows, pairs, framing, loader)
    return PairBatch(
        original=framing.undo(prepared),
        reconstruction=shown,
        hidden=hidden,
        hidden_known=torch.tensor([pair.hidden is not None for pair in pairs]),
        boxes=boxes,
        target=target,
        target_known=known,
        frames=frames,
    )


def _check_rows(rows: Sequence[Row], pairs: int) -> None:
    for row in rows:
        if row.sample.pair is None:
            raise DataError(
                f"{name_of(row.sample)} has no reconstruction, while {pairs} of the batch's "
                f"{len(rows)} samples have one; a batch holds pairs alone or none: keep samples "
                "without a reconstruction in a dataset of their own"
            )
        if len(row.images) != 1:
            raise DataError(
                f"{name_of(row.sample)} has {len(row.images)} images beside its reconstruction; "
                "a pair is one image, to which the text refers, and one reconstruction"
            )


def _targets(
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    framing: PairFraming,
    loader: Callable[[ImageSource], Image.Image],
) -> tuple[Tensor, Tensor]:
    """Return the pictures to be drawn, (B, 3, target_size, target_size), and which are known."""
    size = (framing.target_size, framing.target_size)
    known = torch.tensor([pair.target is not None for pair in pairs])
    target = torch.zeros(len(pairs), 3, *size)
    read = []
    for row, pair in zip(rows, pairs, strict=True):
        if pair.target is None:
            continue
        read.append(loader(pair.target))
        if read[-1].size != row.images[0].size:
            raise DataError(
                f"{name_of(row.sample)}: target of {_size(read[-1])} pixels (width x height), its "
                f"image has {_size(row.images[0])}; give the image as it is without the occluder"
            )
    if read:
        views = framing.view(read)[0]
        if size != views.shape[-2:]:
            views = functional.interpolate(views, size, mode="bilinear", antialias=True)
        target[known] = views
    return target, known


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def as_pair(sample: Sample) -> Sample:
    """Make a pair of a sample whose first user turn refers to two images.

    Args:
        sample: A sample with an image and its reconstruction, in this order; one that is a pair
            already is returned as it is.

    Returns:
        The sample with the first image alone, and the second as its reconstruction.

    Raises:
        DataError: It has not two images, or not both in the first user turn.
    """
    if sample.pair is not None:
        return sample
    place = next((i for i, turn in enumerate(sample.turns) if turn.role == "user"), None)
    parts: tuple[str | int, ...] = () if place is None else sample.turns[place].parts
    if (
        place is None
        or len(sample.images) != 2
        or [p for p in parts if isinstance(p, int)]
        != [
            0,
            1,
        ]
    ):
        raise DataError(
            f"{name_of(sample)} has {len(sample.images)} image(s), "
            f"{sum(isinstance(part, int) for part in parts)} of them in its first user turn; a "
            "pair is two: the image, and then its reconstruction"
        )
    turn = sample.turns[place]
    said = replace(turn, parts=joined([part for part in parts if part != 1]))
    turns: tuple[Turn, ...] = (*sample.turns[:place], said, *sample.turns[place + 1 :])
    pair = Pair(reconstruction=sample.images[1])
    return replace(sample, turns=turns, images=sample.images[:1], pair=pair)
