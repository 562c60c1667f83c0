"""Encoders through transformers: grids, order, layers, freezing, loading, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from chiasm.core.errors import CheckpointError, ConfigError, GeometryError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.encoders import ENCODERS
from tests.tiny import picture
from tests.tiny_eyes import ARCHITECTURES, stretched, tiny_encoder

FAMILIES = sorted(ARCHITECTURES)
IMAGES = [picture(61, 83, 1), picture(97, 43, 2), picture(61, 83, 3)]
GEOMETRIES = [stretched(61, 83, 3, 5), stretched(97, 43, 7, 2), stretched(61, 83, 3, 5)]


def prepared(encoder: Any) -> list[Tensor]:
    return [
        encoder.transform(image, geometry)
        for image, geometry in zip(IMAGES, GEOMETRIES, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"oversample": 2}, {"layer": -2}], ids=str)
def test_a_mixture_of_sizes_equals_single_runs(family: str, settings: dict[str, Any]) -> None:
    encoder = tiny_encoder(family, **settings)
    images = prepared(encoder)
    with torch.no_grad():
        together = encoder.encode(images, GEOMETRIES)
        singles = [
            encoder.encode([image], [geometry])
            for image, geometry in zip(images, GEOMETRIES, strict=True)
        ]
    assert together.mask.sum(1).tolist() == [15, 14, 15]
    assert together.width == encoder.width
    for row, single in zip(together.rows(), singles, strict=True):
        # Measured: at most 1e-6 of values around 1, sums of another batch size.
        torch.testing.assert_close(row, single.features[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together.features[0], together.features[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_stand_row_by_row_on_the_host_cells(family: str) -> None:
    """A change inside one cell moves that cell's token the most."""
    encoder = tiny_encoder(family)
    images = prepared(encoder)[:1]
    changed = images[0].clone()
    patch = encoder.transform.patch
    changed[:, 2 * patch : 3 * patch, patch : 2 * patch] += 3.0
    with torch.no_grad():
        before = encoder.encode(images, GEOMETRIES[:1]).features[0]
        after = encoder.encode([changed], GEOMETRIES[:1]).features[0]
    assert (after - before).norm(dim=-1).argmax() == 2 * 5 + 1


def test_oversampled_cells_are_means_or_neighbours_of_patches() -> None:
    mean, beside = (
        tiny_encoder("dinov2", oversample=2, pooling=pooling) for pooling in ("mean", "unshuffle")
    )
    fine = tiny_encoder("dinov2")
    images = [mean.transform(IMAGES[0], GEOMETRIES[0])]
    with torch.no_grad():
        pooled = mean.encode(images, GEOMETRIES[:1]).features[0]
        unshuffled = beside.encode(images, GEOMETRIES[:1]).features[0]
        patches = fine.encode(images, [stretched(61, 83, 6, 10)]).features[0].unflatten(0, (6, 10))
    # Cell (1, 2) holds the patches of rows 2 and 3, columns 4 and 5.
    square = [patches[2, 4], patches[2, 5], patches[3, 4], patches[3, 5]]
    torch.testing.assert_close(pooled[1 * 5 + 2], torch.stack(square).mean(0))
    assert torch.equal(unshuffled[1 * 5 + 2], torch.cat(square))
    assert (mean.width, beside.width) == (46, 4 * 46)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, -2])
def test_every_parameter_gets_a_gradient(family: str, layer: int) -> None:
    encoder = tiny_encoder(family, layer=layer).train()
    tokens = encoder.encode(prepared(encoder), GEOMETRIES)
    (tokens.features * torch.randn(tokens.features.shape)).sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert without == []


def test_a_frozen_encoder_stores_nothing_and_rests() -> None:
    encoder = tiny_encoder("dinov2").train()
    images = prepared(encoder)
    assert encoder.encode(images, GEOMETRIES).features.requires_grad
    assert encoder.model.training
    encoder.requires_grad_(False)
    assert not encoder.encode(images, GEOMETRIES).features.requires_grad
    assert not encoder.model.training
    # Asked anew at each call: thawing one weight is enough.
    next(encoder.parameters()).requires_grad_(True)
    assert encoder.encode(images, GEOMETRIES).features.requires_grad
    assert encoder.model.training


def test_no_grad_outside_holds_inside() -> None:
    encoder = tiny_encoder("dinov2").train()
    with torch.no_grad():
        tokens = encoder.encode(prepared(encoder), GEOMETRIES)
    assert not tokens.features.requires_grad
    assert torch.is_grad_enabled()


def test_a_frozen_encoder_passes_gradients_to_its_images() -> None:
    encoder = tiny_encoder("dinov2").requires_grad_(False)
    images = [image.requires_grad_(True) for image in prepared(encoder)]
    encoder.encode(images, GEOMETRIES).features.sum().backward()
    assert all(image.grad is not None and image.grad.abs().max() > 0 for image in images)


def test_building_sets_no_requires_grad() -> None:
    assert all(p.requires_grad for p in tiny_encoder("clip").parameters())


def test_weights_may_be_of_another_type() -> None:
    encoder = tiny_encoder("dinov2", dtype="bfloat16")
    assert encoder.encode(prepared(encoder), GEOMETRIES).features.dtype == torch.bfloat16


def test_an_image_of_another_size_is_refused() -> None:
    encoder = tiny_encoder("dinov2")
    with pytest.raises(GeometryError, match=r"image 1: shape \(3, 49, 14\).*7 x 3 cells.*49, 21"):
        encoder.encode(prepared(encoder)[:2], [GEOMETRIES[0], stretched(97, 43, 7, 3)])


def test_no_image_is_refused() -> None:
    with pytest.raises(InputError, match="0 images and 0 geometries"):
        tiny_encoder("dinov2").encode([], [])
    with pytest.raises(InputError, match="3 images and 1 geometries"):
        encoder = tiny_encoder("dinov2")
        encoder.encode(prepared(encoder), GEOMETRIES[:1])


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer -4 asked of a tower with 3 blocks; choose -1 to"):
        tiny_encoder("dinov2", layer=-4)


def test_configuration_wants_one_source() -> None:
    for values in ({}, {"path": "x", "architecture": {}}):
        with pytest.raises(ValidationError, match="either `path`"):
            ENCODERS["dinov2"](**values)


def test_unknown_values_of_an_architecture_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ENCODERS["dinov2"](architecture={"hiden_size": 4, "depth": 3}).build()
    assert caught.value.faults == (
        "hiden_size: unknown to Dinov2Config",
        "depth: unknown to Dinov2Config",
    )


def test_siglip2_builds_both_kinds_of_tower() -> None:
    flexible = tiny_encoder("siglip2")
    torch.manual_seed(0)
    fixed = ENCODERS["siglip2"](
        architecture={"model_type": "siglip_vision_model", **ARCHITECTURES["siglip"]}
    ).build()
    assert type(flexible.model).__name__ == "Siglip2VisionModel"
    assert type(fixed.model).__name__ == "SiglipVisionModel"
    with pytest.raises(ConfigError, match="unknown model_type of encoder siglip2 'clip'"):
        ENCODERS["siglip2"](architecture={"model_type": "clip"}).build()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_encoder_loads_as_a_checkpoint(family: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(family, seed=3)
    encoder.save(tmp_path)
    again = ENCODERS[family](path=str(tmp_path)).build()
    images = prepared(encoder)
    with torch.no_grad():
        assert torch.equal(
            encoder.encode(images, GEOMETRIES).features,
            again.eval().encode(images, GEOMETRIES).features,
        )
    assert again.transform == encoder.transform
    assert (encoder.pretrained, again.pretrained) == (False, True)
    assert "path" not in again.identity
    assert len(again.identity["weights"]) == 64
    assert encoder.identity["weights"] == "random"


def test_a_cut_encoder_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cut at layer -2 cannot be saved"):
        tiny_encoder("dinov2", layer=-2).save(tmp_path)


def test_preprocessing_comes_from_the_checkpoint(tmp_path: Path) -> None:
    tiny_encoder("dinov2").save(tmp_path)
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 0.8, 0.9], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    transform = ENCODERS["dinov2"](path=str(tmp_path)).build().transform
    assert transform.mean == (0.1, 0.2, 0.3)
    assert transform.deviation == (0.7, 0.8, 0.9)
    assert transform.resampling == "bilinear"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 0}))
    with pytest.raises(CheckpointError, match="resampling filter 0"):
        ENCODERS["dinov2"](path=str(tmp_path)).build()


def test_a_missing_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder dinov2: no checkpoint.*local directory"):
        ENCODERS["dinov2"](path=str(tmp_path / "nowhere")).build()


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    tiny_encoder("clip").save(tmp_path)
    with pytest.raises(CheckpointError, match="'clip_vision_model'; this encoder reads dinov2"):
        ENCODERS["dinov2"](path=str(tmp_path)).build()


def test_a_checkpoint_that_lacks_weights_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    tiny_encoder("dinov2").save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.cls_token"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, first 'embeddings.cls_token'"):
        ENCODERS["dinov2"](path=str(tmp_path)).build()


def test_identity_tells_the_weights_at_building(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        tiny_encoder("dinov2", seed=seed).save(tmp_path / str(seed))
        found.append(ENCODERS["dinov2"](path=str(tmp_path / str(seed))).build())
    before = found[0].identity["weights"]
    with torch.no_grad():
        next(found[0].parameters()).add_(1)
    assert found[0].identity["weights"] == before
    assert before != found[1].identity["weights"]
    assert before == ENCODERS["dinov2"](path=str(tmp_path / "0")).build().identity["weights"]


def test_a_host_that_crops_shows_the_encoder_the_same_crop() -> None:
    encoder = tiny_encoder("dinov2")
    image = picture(60, 84, 4)
    whole = ImageGeometry(60, 84, 1.0, 1.0, -12.0, 0.0, 12.0, 12.0, 5, 5)
    own = stretched(60, 60, 5, 5, cell=12)
    found = encoder.transform(image, whole)
    expected = encoder.transform(image.crop((12, 0, 72, 60)), own)
    # At the cut the resampling filter reaches two pixels into what lies beyond it.
    assert torch.equal(found[..., 3:-3], expected[..., 3:-3])
    assert not torch.equal(found, expected)
