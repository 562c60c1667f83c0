"""Running a tower over images of different sizes, storing nothing where nothing can learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chiasm.core.errors import GeometryError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.grids import group_by_shape
from chiasm.encoders.transform import GridTransform


def encode_grouped(
    run: Callable[[Tensor], Tensor],
    transform: GridTransform,
    images: Sequence[Tensor],
    geometries: Sequence[ImageGeometry],
) -> VisualTokens:
    """Run a tower once for each size of image and put the results back in order.

    Args:
        run: Maps float (B, 3, height, width) to float (B, cells, D).
        transform: What the images were prepared with.
        images: For each image float (3, height, width).
        geometries: The host's geometry of each image.

    Raises:
        InputError: There is no image, or not one geometry an image.
        GeometryError: An image has not the size that its geometry asks for.
    """
    if not images or len(images) != len(geometries):
        raise InputError(
            f"encode received {len(images)} images and {len(geometries)} geometries; call it with "
            "one image or more, and one geometry each"
        )
    for index, (image, geometry) in enumerate(zip(images, geometries, strict=True)):
        expected = (3, *transform.size(geometry))
        if tuple(image.shape) != expected:
            raise GeometryError(
                f"image {index}: shape {tuple(image.shape)}, but a grid of {geometry.rows} x "
                f"{geometry.columns} cells asks for {expected}; prepare images with this "
                "encoder's own transform and the same geometry"
            )
    features: dict[int, Tensor] = {}
    for members in group_by_shape(images):
        tokens = run(torch.stack([images[index] for index in members]))
        features.update(zip(members, tokens, strict=True))
    return VisualTokens.from_images([features[i] for i in range(len(images))], geometries)


def can_learn(module: nn.Module, images: Sequence[Tensor]) -> bool:
    """Return whether a gradient can reach the module's parameters or the images."""
    return torch.is_grad_enabled() and (
        any(parameter.requires_grad for parameter in module.parameters())
        or any(image.requires_grad for image in images)
    )


@contextmanager
def learning(model: nn.Module, learns: bool, training: bool) -> Iterator[None]:
    """Run a tower with gradients only where something learns.

    A tower that cannot learn runs in evaluation mode, too: dropout and random depth would add
    noise to features that nothing adapts to.

    Args:
        model: The tower.
        learns: The answer of `can_learn`, asked anew for each call.
        training: Whether the encoder around the tower is in training mode.
    """
    model.train(training and learns)
    with torch.set_grad_enabled(learns):
        yield
