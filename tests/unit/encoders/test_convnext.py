"""ConvNeXt as a fine eye: stages, cells and features against the library's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import interpolate
from transformers import ConvNextModel

from chiasm.core.errors import ConfigError
from chiasm.encoders import ENCODERS
from tests.tiny import picture
from tests.tiny_eyes import stretched

TINY = {"hidden_sizes": [5, 7, 11], "depths": [1, 2, 1], "num_stages": 3, "patch_size": 2}
GEOMETRIES = (stretched(61, 83, 3, 5), stretched(97, 43, 7, 2))
PICTURES = (picture(61, 83, 1), picture(97, 43, 2))


def encoder(**settings: Any) -> Any:
    torch.manual_seed(0)
    built = ENCODERS["convnext"](**{"architecture": TINY, "oversample": 4, **settings}).build()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built.eval()


@torch.no_grad()
def test_features_are_the_librarys_stages_at_the_finest_resolution() -> None:
    eye = encoder()
    prepared = [eye.transform(p, g) for p, g in zip(PICTURES, GEOMETRIES, strict=True)]
    assert [tuple(image.shape) for image in prepared] == [(3, 24, 40), (3, 56, 16)]
    tokens = eye.encode(prepared, GEOMETRIES)
    assert tokens.width == eye.width == 16 * (5 + 7 + 11)
    for image, geometry, row in zip(prepared, GEOMETRIES, tokens.rows(), strict=True):
        states = eye.model(image[None], output_hidden_states=True).hidden_states[-3:]
        assert [state.shape[1] for state in states] == [5, 7, 11]
        size = states[0].shape[-2:]
        whole = torch.cat([interpolate(s, size, mode="bilinear") for s in states], dim=1)[0]
        for cell in range(geometry.count):
            down, right = divmod(cell, geometry.columns)
            square = whole[:, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4]
            expected = square.permute(1, 2, 0).flatten()
            # Two images of unequal size run apart; alone the sums are the same. Measured: 0.
            torch.testing.assert_close(row[cell], expected, atol=1e-6, rtol=0)


def test_the_default_is_mini_geminis_768_pixels() -> None:
    config = ENCODERS["convnext"](architecture={"depths": [1, 1, 1, 1]})
    assert config.build().transform.size(stretched(50, 50, 24, 24)) == (768, 768)


def test_gradients_flow_where_the_tower_trains_and_nowhere_else() -> None:
    eye = encoder()
    prepared = [eye.transform(PICTURES[0], GEOMETRIES[0])]
    eye.encode(prepared, GEOMETRIES[:1]).features.square().sum().backward()
    assert all(parameter.grad is not None for parameter in eye.parameters())
    eye.requires_grad_(False)
    assert not eye.encode(prepared, GEOMETRIES[:1]).features.requires_grad


def test_a_checkpoint_of_the_library_gives_the_same_tokens(tmp_path: Path) -> None:
    eye = encoder()
    whole = ConvNextModel(eye.model.config)
    whole.load_state_dict(eye.model.state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    loaded = ENCODERS["convnext"](path=str(tmp_path), oversample=4).build().eval()
    prepared = [eye.transform(PICTURES[0], GEOMETRIES[0])]
    with torch.no_grad():
        ours, theirs = (e.encode(prepared, GEOMETRIES[:1]).features for e in (loaded, eye))
    assert torch.equal(ours, theirs)
    assert loaded.pretrained and not eye.pretrained
    assert loaded.identity["weights"] != "random" and eye.identity["weights"] == "random"
    assert "convnext" in loaded.description


def test_faults() -> None:
    with pytest.raises(ConfigError, match=r"oversample 6: .* take a multiple of 4"):
        encoder(oversample=6)
    with pytest.raises(ValidationError, match="either `path`"):
        ENCODERS["convnext"]()
