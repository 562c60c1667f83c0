"""Two fixed inputs, the same on every machine: what a receipt is taken of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from chiasm.core.samples import Pair, Phrase, Sample, Turn

PROBE_QUESTION = "What do you see?"
PROBE_ANSWER = "yes"


def build_probe_samples() -> tuple[Sample, Sample]:
    """Return two samples, `gradient` (56 x 84) and `checker` (84 x 56), height x width."""
    images = {"gradient": _gradient(56, 84), "checker": _checker(84, 56)}
    gradient, checker = (
        Sample(
            identifier=name,
            turns=(
                Turn("user", (0, PROBE_QUESTION)),
                Turn("assistant", (PROBE_ANSWER,), supervised=True),
            ),
            images=(image,),
        )
        for name, image in images.items()
    )
    return gradient, checker


def build_mask_probe_samples() -> tuple[Sample, Sample]:
    """Return the images of `build_probe_samples` with a mask of a quarter of each, low left."""
    gradient, checker = (_with_mask(sample) for sample in build_probe_samples())
    return gradient, checker


def build_phrase_probe_samples() -> tuple[Sample, Sample]:
    """Return the two probe samples with the whole answer, `yes`, as a phrase."""
    gradient, checker = (
        replace(sample, phrases=(Phrase(turn=1, start=0, stop=len(PROBE_ANSWER)),))
        for sample in build_probe_samples()
    )
    return gradient, checker


def build_pair_probe_samples() -> tuple[Sample, Sample]:
    """Return the two probe samples, each with the other's image as its reconstruction."""
    gradient, checker = build_probe_samples()
    one, other = gradient.images[0], checker.images[0]
    return (
        replace(gradient, pair=Pair(reconstruction=other)),
        replace(checker, pair=Pair(reconstruction=one)),
    )


class probing:  # noqa: N801 - reads as a verb in `with probing(model):`
    """Evaluation mode, no gradient and no autocast inside; the former modes come back outside."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._grad = torch.no_grad()

    def __enter__(self) -> None:
        self._training = {module for module in self._model.modules() if module.training}
        self._model.eval()
        self._grad.__enter__()
        device = next(self._model.parameters()).device.type
        self._autocast = torch.autocast(device, enabled=False)
        self._autocast.__enter__()

    def __exit__(self, *error: object) -> None:
        self._autocast.__exit__(None, None, None)
        self._grad.__exit__(None, None, None)
        for module in self._training:
            module.training = True


def _with_mask(sample: Sample) -> Sample:
    (image,) = sample.images
    assert isinstance(image, Image.Image)
    mask = np.zeros((1, image.height, image.width), np.bool_)
    mask[0, image.height // 2 :, : image.width // 2] = True
    return replace(sample, truth={"masks": mask})


def _gradient(height: int, width: int) -> Image.Image:
    across = np.arange(width) * 255 // (width - 1)
    down = np.arange(height) * 255 // (height - 1)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = across[None, :]
    pixels[..., 1] = down[:, None]
    pixels[..., 2] = 127
    return Image.fromarray(pixels)


def _checker(height: int, width: int) -> Image.Image:
    tile = (np.arange(height)[:, None] // 7 + np.arange(width)[None, :] // 7) % 2
    pixels = np.where(tile[..., None] == 1, (230, 60, 20), (15, 90, 200)).astype(np.uint8)
    return Image.fromarray(pixels)
