"""The batch: typed tensors for one step, and how they move to a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Sample

IGNORE = -100
"""Label of a position that no loss reads."""

TEXT_TOKEN, IMAGE_TOKEN, VIDEO_TOKEN = 0, 1, 2
"""Values of `Batch.token_types`."""


@dataclass(frozen=True)
class PhraseBatch:
    """P phrases of a batch, in the order of its rows.

    Attributes:
        rows: int64 (P,), the row of the batch each phrase stands in, ascending.
        images: int64 (P,), the image it means, an index into all images of the batch.
        tokens: int64 (T, 2), pairs (phrase, position in `Batch.input_ids`), ascending; each phrase
            has at least one, and a token may belong to several phrases.
        masks: For each phrase bool (H, W) in original pixels; empty where no mask is known.
        names: For each phrase what names it in messages and predictions.
    """

    rows: Tensor
    images: Tensor
    tokens: Tensor
    masks: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.rows.shape[0]


@dataclass(frozen=True)
class PairBatch:
    """The pairs of a batch, one a row, as the host's tower frames pictures.

    A view is the square the tower reads, padding included, before its normalisation. Original,
    reconstruction and target are framed each by its own size; original and target agree.

    Attributes:
        original: float32 (B, 3, side, side), RGB in [0, 1].
        reconstruction: float32 (B, 3, side, side), RGB in [0, 1].
        hidden: bool (B, side, side), True where the original is occluded; all False in rows where
            nobody said.
        hidden_known: bool (B,).
        boxes: float32 (B, 2, 4), XYXY as parts of the view's side in [0, 1]: the box of the whole
            thing in the original, and in the reconstruction. NaN where a box was not given.
        target: float32 (B, 3, height, width), RGB in [0, 1]: the picture to be drawn, at the size
            that the tokenizer of pictures reads; zeros where it is not known.
        target_known: bool (B,).
        frames: For each row the geometry that carries its reconstruction to the view.
    """

    original: Tensor
    reconstruction: Tensor
    hidden: Tensor
    hidden_known: Tensor
    boxes: Tensor
    target: Tensor
    target_known: Tensor
    frames: tuple[ImageGeometry, ...]

    def __len__(self) -> int:
        return self.original.shape[0]


@dataclass(frozen=True)
class VideoBatch:
    """The V videos of a batch: frames or features, and what happens in them.

    Videos may differ in length. All of a batch are given by frames, or all by features. The rows of
    `Batch.input_ids` are Q questions, at least one a video; a question without words is all zeros.

    Attributes:
        frames: For each video uint8 (T, H, W, 3) RGB in [0, 255]; empty where features are given.
        features: For each video float32 (T, width); empty where frames are given.
        times: For each video float32 (T,), seconds from its start, ascending.
        durations: float32 (V,), seconds.
        segments: float32 (S, 2), start and end in seconds from the start of the video, all videos'
            one after another.
        segment_rows: int64 (S,), the video of each segment, ascending.
        segment_labels: int64 (S,), its place in the model's list of actions.
        segments_known: bool (V,), False where nobody said what happens.
        asked: int64 (Q,), the video of each row of `Batch.input_ids`, ascending.
        answers: int64 (Q,), place in the model's closed set of answers, or `IGNORE`.
        domains: int64 (V,), place in the model's list of domains, or `IGNORE`.
        captions: For each of C captions int64 (n,), its words, ids of the model's vocabulary of
            captions; all videos' one after another.
        captioned: int64 (C,), the video of each caption, ascending.
    """

    frames: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    times: tuple[Tensor, ...]
    durations: Tensor
    segments: Tensor
    segment_rows: Tensor
    segment_labels: Tensor
    segments_known: Tensor
    asked: Tensor
    answers: Tensor
    domains: Tensor
    captions: tuple[Tensor, ...] = ()
    captioned: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def __len__(self) -> int:
        return self.durations.shape[0]


@dataclass(frozen=True)
class Batch:
    """One batch of B conversations with I images in all.

    Attributes:
        input_ids: int64 (B, S). Each image is already written as one placeholder a visual token of
            the host's own grid.
        attention_mask: int64 (B, S), 1 for a real token.
        labels: int64 (B, S), the token itself where it is supervised, else `IGNORE`. Not shifted.
        token_types: int64 (B, S), TEXT_TOKEN, IMAGE_TOKEN or VIDEO_TOKEN.
        host_images: What the host's own tower reads, by the argument names of that tower (for
            Qwen: `pixel_values`, `image_grid_thw`). Empty when there is no image.
        encoder_images: For each extra encoder, by name, one input tensor an image: float32
            (3, height, width), or cached features float (tokens, width).
        image_rows: int64 (I,), the row of the batch each image belongs to, ascending.
        geometries: One geometry an image: the host's own grid in the original image.
        targets: Dense truth by name (`cells.shape` int64 (I, rows, columns), ...).
        samples: The samples themselves, for evaluation and messages.
        phrases: The phrases that mean pixels; None when there is none.
        pairs: What completes the image of each row; None unless every row has a pair.
        videos: The videos that the rows ask about; None where they ask about images.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    token_types: Tensor
    host_images: Mapping[str, Tensor] = field(default_factory=dict)
    encoder_images: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    image_rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    geometries: tuple[ImageGeometry, ...] = ()
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    phrases: PhraseBatch | None = None
    pairs: PairBatch | None = None
    videos: VideoBatch | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def supervised_tokens(self) -> int:
        """How many positions carry a label that some earlier position predicts."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on `device`."""
        moved = {entry.name: _move(getattr(self, entry.name), device) for entry in fields(self)}
        return replace(self, **moved)


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _move(inner, device) for name, inner in value.items()}
    if isinstance(value, PhraseBatch | PairBatch | VideoBatch):
        moved = {entry.name: _move(getattr(value, entry.name), device) for entry in fields(value)}
        return replace(value, **moved)
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return tuple(inner.to(device) for inner in value)
    return value
