"""timm's towers as extra encoders, where timm is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest
import torch

from chiasm.core.errors import ConfigError, MissingExtraError
from chiasm.encoders import ENCODERS
from tests.tiny import picture
from tests.tiny_eyes import stretched

INSTALLED = importlib.util.find_spec("timm") is not None
ARCHITECTURE = {"embed_dim": 46, "depth": 3, "num_heads": 2, "patch_size": 7, "img_size": 35}
GEOMETRIES = [stretched(61, 83, 3, 5), stretched(97, 43, 7, 2)]
needs_timm = pytest.mark.skipif(not INSTALLED, reason="needs the extra timm")


def tiny(**settings: Any) -> Any:
    torch.manual_seed(0)
    values = {"model": "vit_tiny_patch16_224", "architecture": ARCHITECTURE, **settings}
    return ENCODERS["timm"](**values).build().eval()


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[timm\]'"):
        tiny()


@needs_timm
@pytest.mark.parametrize("layer", [-1, -2])
def test_a_mixture_of_sizes_equals_single_runs(layer: int) -> None:
    encoder = tiny(layer=layer)
    images = [picture(61, 83, 1), picture(97, 43, 2)]
    ready = [encoder.transform(i, g) for i, g in zip(images, GEOMETRIES, strict=True)]
    tokens = encoder.encode(ready, GEOMETRIES)
    assert tokens.mask.sum(1).tolist() == [15, 14]
    assert tokens.width == encoder.width == 46
    for row, image, geometry in zip(tokens.rows(), ready, GEOMETRIES, strict=True):
        single = encoder.encode([image], [geometry]).features[0]
        torch.testing.assert_close(row, single, rtol=1e-5, atol=1e-5)
    tokens.features.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@needs_timm
def test_tokens_are_those_of_timm() -> None:
    encoder = tiny()
    pixels = encoder.transform(picture(35, 35, 3), stretched(35, 35, 5, 5))
    with torch.no_grad():
        found = encoder.encode([pixels], [stretched(35, 35, 5, 5)]).features[0]
        assert torch.equal(found, encoder.model.forward_features(pixels[None])[0, 1:])


@needs_timm
def test_models_without_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        tiny(model="resnet18", architecture={})
    with pytest.raises(ConfigError, match="cannot build the model 'no_such'"):
        tiny(model="no_such", architecture={})
