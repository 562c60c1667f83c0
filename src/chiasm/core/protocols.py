"""The borders between stages. Parts implement these; nothing else is assumed about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from chiasm.core.batch import Batch
from chiasm.core.grid import ImageGeometry
from chiasm.core.outputs import Outputs
from chiasm.core.samples import Sample
from chiasm.core.tokens import VisualTokens


@dataclass(frozen=True)
class PreparedImages:
    """Images as a host's tower reads them.

    Attributes:
        tensors: By the argument names of the tower (`pixel_values`, `image_grid_thw`, ...).
        geometries: The geometry of each image, in order.
        token_counts: How many placeholders each image takes in the text.
    """

    tensors: Mapping[str, Tensor]
    geometries: tuple[ImageGeometry, ...]
    token_counts: tuple[int, ...]


class ImagePreparer(Protocol):
    """Turns RGB images into the host tower's input. Needs no weights."""

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare images in the order given; an empty sequence gives empty tensors."""
        ...


class EncoderTransform(Protocol):
    """Turns one RGB image into an extra encoder's input, on the grid of the host's geometry."""

    def __call__(self, image: Image.Image, geometry: ImageGeometry) -> Tensor:
        """Return float32 (3, height, width) whose patch grid covers `geometry` cell for cell."""
        ...


class VisionEncoder(Protocol):
    """An extra encoder: its own transform, its own width, one token a cell."""

    @property
    def width(self) -> int:
        """Width of a token."""
        ...

    @property
    def transform(self) -> EncoderTransform:
        """The encoder's own preprocessing."""
        ...

    def encode(self, images: Sequence[Tensor], geometries: Sequence[ImageGeometry]) -> VisualTokens:
        """Encode prepared images into one token a cell of their geometry."""
        ...


@dataclass(frozen=True)
class Fused:
    """One stream out of several.

    Attributes:
        tokens: The fused tokens, in the host's width.
        named: Intermediates by name, `gate` and `gate_map` where there is a gate.
        tokens_per_cell: 1, or more when a fusion writes several tokens for each cell
            (interleaving); the splice then repeats placeholders and positions.
    """

    tokens: VisualTokens
    named: Mapping[str, Tensor]
    tokens_per_cell: int = 1


class Fusion(Protocol):
    """Makes one stream of the host's tokens and those of the extra encoders."""

    def fuse(self, host: VisualTokens, extra: Mapping[str, VisualTokens]) -> Fused:
        """Fuse streams that share the host's cells; all have the same rows and masks."""
        ...


@runtime_checkable
class Model(Protocol):
    """What the trainer knows of a model: an `nn.Module` made of named, disjoint parts."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The parts by name. Each parameter of the model lies in exactly one part."""
        ...

    @property
    def new_parts(self) -> frozenset[str]:
        """Names of the parts that no pretrained checkpoint holds; they are always saved."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the model was built on, for `host.json`: name, revision, hash of the weights."""
        ...

    def __call__(self, batch: Batch) -> Outputs:
        """Run the model on a batch."""
        ...

    def probe(self) -> Mapping[str, Tensor]:
        """Return the logits of two fixed inputs, in evaluation mode and float32, by name."""
        ...


class Objective(Protocol):
    """Scores outputs. Sums, never means: the trainer divides by counts over the whole batch."""

    def count(self, batch: Batch) -> Mapping[str, float]:
        """Return, by term, how many items the batch holds (tokens, images, cells)."""
        ...

    def score(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Return, by term, the loss summed over the batch's items: scalars."""
        ...


class Dataset(Protocol):
    """A finite, indexable set of samples; item i is the same each time it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


Collate = Callable[[Sequence[Sample]], Batch]
"""Turns samples into a batch."""

Evaluate = Callable[[], Mapping[str, float]]
"""Evaluates the model being trained; returns numbers by name. Given to the trainer."""
