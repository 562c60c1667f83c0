"""The null eye: an encoder that sees another image. A control, not a sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
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

    Each image gets the view of the next image of its size, in a circle, that differs from it; an
    image that is alone with its size gets the next one of another size, stretched. Where a batch
    holds one picture only, an even field of the encoder's mean colour stands for the other view:
    one remembered from before would make answers depend on what was asked earlier.

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
        """Encode, each image with another one's pixels; see the class."""
        tokens: VisualTokens = self.encoder.encode(exchange_views(images), geometries)
        return tokens


def exchange_views(images: Sequence[Tensor]) -> list[Tensor]:
    """Give each prepared image the pixels of another one of the batch; see `NullEye`.

    Args:
        images: For each image float (3, height, width), normalised to mean zero.

    Returns:
        As many images of the same sizes.
    """
    return [_other_view(images, index) for index in range(len(images))]


def _other_view(images: Sequence[Tensor], index: int) -> Tensor:
    own = images[index]
    following = [*images[index + 1 :], *images[:index]]
    alike = [image for image in following if image.shape == own.shape]
    unlike = [image for image in following if image.shape != own.shape]
    for image in alike:
        # Several questions on one picture stand in a batch: the same picture is no other view.
        if not torch.equal(image, own):
            return image
    if unlike:
        return nn.functional.interpolate(
            unlike[0][None], size=own.shape[1:], mode="bilinear", antialias=True
        )[0]
    return torch.zeros_like(own)
