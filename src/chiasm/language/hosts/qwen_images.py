"""Images for the Qwen-VL towers: any size, stretched to whole merged cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from chiasm.core.errors import ConfigError, MediaError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages


@dataclass(frozen=True)
class QwenImages:
    """Prepares images through the library's own processor and reads the geometry off its grid.

    Attributes:
        image_processor: The checkpoint's image processor.
        patch: Side of a patch in resized pixels.
        merge: Patches along one side of a cell, which is one token of the language model.
    """

    image_processor: Any
    patch: int
    merge: int

    @classmethod
    def from_config(cls, vision: Any, image_processor: Any) -> QwenImages:
        """Take the sizes from the model and check that the processor agrees.

        Raises:
            ConfigError: The processor cuts patches that the tower does not read.
        """
        faults = [
            f"{name}: the image processor has {found}, the vision tower {wanted}"
            for name, found, wanted in (
                ("patch size", image_processor.patch_size, vision.patch_size),
                ("merge size", image_processor.merge_size, vision.spatial_merge_size),
                (
                    "temporal patch size",
                    image_processor.temporal_patch_size,
                    vision.temporal_patch_size,
                ),
            )
            if found != wanted
        ]
        if faults:
            raise ConfigError("image processor and model come from different checkpoints", faults)
        return cls(image_processor, int(vision.patch_size), int(vision.spatial_merge_size))

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare RGB images; see `ImagePreparer`.

        Raises:
            MediaError: The processor refuses an image, for example for its proportions.
        """
        if not images:
            return PreparedImages({}, (), ())
        try:
            prepared = self.image_processor(images=list(images), return_tensors="pt")
        except ValueError as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
            raise MediaError(
                f"the host's image processor refuses one of the images ({sizes}): {error}; "
                "crop or scale it first"
            ) from error
        cell = float(self.patch * self.merge)
        geometries = tuple(
            ImageGeometry.from_resize(
                (image.height, image.width),
                (rows * self.patch, columns * self.patch),
                (cell, cell),
            )
            for image, (_, rows, columns) in zip(
                images, prepared["image_grid_thw"].tolist(), strict=True
            )
        )
        return PreparedImages(
            tensors={name: prepared[name] for name in ("pixel_values", "image_grid_thw")},
            geometries=geometries,
            token_counts=tuple(geometry.count for geometry in geometries),
        )
