"""What encoders share that run a vision tower on the host's grid: source, identity, running."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.fingerprint import fingerprint
from chiasm.encoders.running import can_learn, encode_grouped, learning
from chiasm.encoders.transform import GridTransform


class GridTower(nn.Module, ABC):
    """A vision tower with its own preprocessing; how it reads pixels is left to its kinds.

    Args:
        model: The tower, as it is built on: identity is taken now, and training moves the weights.
        transform: Its preprocessing.
        source: Where the weights come from: `name`, and for a checkpoint `path` and `revision`.
    """

    def __init__(
        self, *, model: nn.Module, transform: GridTransform, source: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.source = dict(source)
        self._transform = transform
        # Random weights are saved with the model, so where they began is of no account.
        # The hash says which checkpoint it was; where it lay differs between machines.
        self._identity = {
            **{name: value for name, value in self.source.items() if name != "path"},
            "weights": fingerprint(model) if "path" in self.source else "random",
        }

    @abstractmethod
    def _run(self, pixels: Tensor) -> Tensor:
        """Run the tower: (B, 3, height, width) to (B, rows * columns, width)."""

    @property
    def transform(self) -> GridTransform:
        """The encoder's own preprocessing."""
        return self._transform

    @property
    def pretrained(self) -> bool:
        """Whether a checkpoint holds these weights; if not, they must be saved with the model."""
        return "path" in self.source

    @property
    def identity(self) -> dict[str, str]:
        """The encoder's source and a hash of its weights as they were when it was built."""
        return dict(self._identity)

    def encode(self, images: Sequence[Tensor], geometries: Sequence[ImageGeometry]) -> VisualTokens:
        """Encode prepared images into one token a cell of their geometry.

        Images of equal size run together; the order is kept, and what an image's tokens are does
        not depend on its neighbours.

        Args:
            images: For each image float (3, height, width), as `transform` returns it.
            geometries: The host's geometry of each image.

        Raises:
            InputError: There is no image, or not one geometry an image.
            GeometryError: An image has not the size that its geometry asks for.
        """
        with learning(self.model, can_learn(self, images), self.training):
            return encode_grouped(self._run, self._transform, images, geometries)
