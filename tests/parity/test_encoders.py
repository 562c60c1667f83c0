"""Our towers against the library's own models on its own processors' pixels, in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    Siglip2ImageProcessor,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tests.tiny import picture
from tests.tiny_eyes import ARCHITECTURES, stretched, tiny_encoder

SIDE = {name: 5 * values["patch_size"] for name, values in ARCHITECTURES.items()}


def _square(side: int) -> dict[str, Any]:
    size = {"height": side, "width": side}
    return {"size": size, "crop_size": size}


LIBRARY: dict[str, tuple[Any, Any, Any, int]] = {
    # The processor that the published DINOv2 checkpoints name, with their mean and deviation.
    "dinov2": (
        Dinov2Model,
        Dinov2Config,
        BitImageProcessor(
            **_square(35), image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
        ),
        1,
    ),
    "dinov2_registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig,
        BitImageProcessor(
            **_square(35), image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
        ),
        1 + 3,
    ),
    "dinov3": (
        DINOv3ViTModel,
        DINOv3ViTConfig,
        DINOv3ViTImageProcessor(size={"height": 55, "width": 55}),
        1 + 3,
    ),
    "siglip": (SiglipVisionModel, SiglipVisionConfig, SiglipImageProcessor(**_square(35)), 0),
    "siglip2": (
        Siglip2VisionModel,
        Siglip2VisionConfig,
        Siglip2ImageProcessor(patch_size=7, max_num_patches=25),
        0,
    ),
    "clip": (CLIPVisionModel, CLIPVisionConfig, CLIPImageProcessor(**_square(35)), 1),
}
"""By encoder: model, configuration, processor, and how many tokens stand before the patches."""


def _last_block(name: str) -> list[str]:
    state = LIBRARY[name][0](LIBRARY[name][1](**ARCHITECTURES[name])).state_dict()
    return [key for key in state if ".layer.2." in key or ".layers.2." in key]


def library_model(name: str, encoder: Any) -> Any:
    """The library's model, whole, with the encoder's weights where both have them."""
    model_class, config_class, _, _ = LIBRARY[name]
    model = model_class(config_class(**ARCHITECTURES[name])).eval()
    report = model.load_state_dict(encoder.model.state_dict(), strict=False)
    assert report.unexpected_keys == []
    # Only what patch tokens never depend on may be missing, and the last block and norm of a tower
    # that was cut behind the second last.
    never = ("embeddings.mask_token", "head.", "post_layernorm.")
    behind = ("encoder.layer.2.", "encoder.layers.2.", "model.layer.2.", "layernorm.", "norm.")
    allowed = (
        never if encoder.model.state_dict().keys() & set(_last_block(name)) else never + behind
    )
    assert [key for key in report.missing_keys if not key.startswith(allowed)] == []
    return model


def library_tokens(name: str, encoder: Any, image: Image.Image, layer: int) -> Tensor:
    processor, prefix = LIBRARY[name][2:]
    inputs = processor(images=[image], return_tensors="pt")
    with torch.no_grad():
        output = library_model(name, encoder)(**inputs, output_hidden_states=True)
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return states[0, prefix:]


def our_tokens(encoder: Any, image: Image.Image) -> Tensor:
    geometry = stretched(image.height, image.width, 5, 5)
    with torch.no_grad():
        return encoder.encode([encoder.transform(image, geometry)], [geometry]).features[0]


@pytest.mark.parametrize("name", sorted(LIBRARY))
@pytest.mark.parametrize("layer", [-1, -2])
def test_tokens_equal_the_library_where_nothing_is_resized(name: str, layer: int) -> None:
    encoder = tiny_encoder(name, layer=layer)
    image = picture(SIDE[name], SIDE[name], 7)
    found = our_tokens(encoder, image)
    expected = library_tokens(name, encoder, image, layer)
    # Measured: at most 8e-6 of values around 5; the library multiplies by 1 / 255, we divide.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.std() > 0.1


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_pixels_of_a_resized_image_are_the_library_pixels_to_one_level(name: str) -> None:
    encoder = tiny_encoder(name)
    image = picture(131, 131, 11)
    found = encoder.transform(image, stretched(131, 131, 5, 5))
    expected = LIBRARY[name][2](images=[image], return_tensors="pt")["pixel_values"][0]
    if name == "siglip2":
        patches = expected.reshape(5, 5, 7, 7, 3)
        expected = patches.permute(4, 0, 2, 1, 3).reshape(3, 35, 35)
    levels = (found - expected).abs() * torch.tensor(encoder.transform.deviation)[:, None, None]
    # Pillow and torchvision round to whole levels at other moments: one of 255 apart, or, for
    # DINOv3, whose processor does not round at all, at most half a level and a little.
    assert levels.max() * 255 < 1.01


def test_positions_of_another_grid_are_the_library_own() -> None:
    encoder = tiny_encoder("dinov2")
    image = picture(3 * 7, 4 * 7, 13)
    geometry = stretched(21, 28, 3, 4)
    pixels = encoder.transform(image, geometry)
    with torch.no_grad():
        found = encoder.encode([pixels], [geometry]).features[0]
        expected = library_model("dinov2", encoder)(pixels[None]).last_hidden_state[0, 1:]
    assert torch.equal(found, expected)
