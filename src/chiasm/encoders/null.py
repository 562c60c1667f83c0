"""The null eye: an encoder that sees another image. A control, not a sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import EncoderTransform
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.protocol import Encoder


class NullEye(nn.Module):
    """Gives each image the view that the encoder has of another image of the batch.

    Parameters, compute and the statistics of the features are those of the encoder inside; what is
    missing is the information about this image. A gain that a model trained with the null eye also
    shows is a gain from capacity or from training, not from the second eye.

    Images of equal size change places in a circle, each getting the next one's view. An image that
    is alone with its size gets the last one of that size from an earlier batch; the very first has
    nothing to change with, which is an error.

    Args:
        encoder: The encoder to blind.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise InputError(
                f"the null eye needs an encoder that is an nn.Module, not {type(encoder).__name__}"
            )
        self.encoder: Any = encoder
        self._before: dict[tuple[int, ...], Tensor] = {}

    @property
    def width(self) -> int:
        """Width of a token."""
        return int(self.encoder.width)

    @property
    def transform(self) -> EncoderTransform:
        """The preprocessing of the encoder inside."""
        transform: EncoderTransform = self.encoder.transform
        return transform

    @property
    def pretrained(self) -> bool:
        """As of the encoder inside."""
        return bool(self.encoder.pretrained)

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the encoder inside, and that it is a null eye."""
        return {**self.encoder.identity, "control": "null_eye"}

    @property
    def description(self) -> str:
        """That of the encoder inside, and that it is a null eye."""
        return f"null eye of {self.encoder.description}"

    def encode(self, images: Sequence[Tensor], geometries: Sequence[ImageGeometry]) -> VisualTokens:
        """Encode, each image with another one's pixels; see the class.

        Raises:
            InputError: An image has no other of its size, now or before.
        """
        tokens: VisualTokens = self.encoder.encode(self._exchange(images), geometries)
        return tokens

    def _exchange(self, images: Sequence[Tensor]) -> list[Tensor]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(index)
        exchanged = list(images)
        for shape, members in groups.items():
            if len(members) == 1 and shape not in self._before:
                raise InputError(
                    f"the null eye has one image of shape {shape} and none before it to change "
                    "places with; use batches of at least two images of a size"
                )
            views = [images[index] for index in members]
            views = [self._before[shape]] if len(views) == 1 else [*views[1:], views[0]]
            self._before[shape] = images[members[-1]].detach()
            for index, view in zip(members, views, strict=True):
                exchanged[index] = view
        return exchanged
