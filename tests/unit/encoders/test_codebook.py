"""The codebook: gradients through codes, one meaning of a code both ways, strict checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from chiasm.core.errors import CheckpointError, ConfigError, GeometryError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.encoders.codebook import Codebook, CodebookConfig
from chiasm.encoders.codebook_transform import CodebookTransform
from tests.tiny import picture
from tests.tiny_codebooks import ARCHITECTURE, SIDE, tiny_codebook, tiny_pixels


def test_sizes_come_from_the_architecture() -> None:
    codebook = tiny_codebook()
    assert (codebook.size, codebook.width, codebook.side) == (53, 7, SIDE)
    assert codebook.grid == (3, 3)
    codes = codebook.encode(tiny_pixels())
    assert codes.indices.shape == (2, 9) and codes.indices.dtype == torch.int64
    assert codes.latents.shape == codes.chosen.shape == codes.quantised.shape == (2, 9, 7)
    assert codebook.decode(codes.indices).shape == (2, 3, SIDE, SIDE)


def test_latents_and_codes_lie_on_the_unit_sphere() -> None:
    codes = tiny_codebook().encode(tiny_pixels())
    for vectors in (codes.latents, codes.chosen, codes.quantised):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(2, 9), atol=1e-6)


def test_the_nearest_code_is_chosen() -> None:
    codebook = tiny_codebook()
    codes = codebook.encode(tiny_pixels())
    distances = torch.cdist(codes.latents, codebook.rows.expand(2, -1, -1))
    assert torch.equal(codes.indices, distances.argmin(-1))
    assert torch.equal(codes.chosen, codebook.embed(codes.indices))


def test_quantised_equals_the_code_to_the_last_bit() -> None:
    codebook = tiny_codebook()
    codes = codebook.encode(tiny_pixels())
    assert torch.equal(codes.quantised, codes.chosen)
    drawn = codebook.decode_latents(codes.quantised)
    assert torch.equal(drawn.clamp(-1, 1), codebook.decode(codes.indices))


def test_the_gradient_passes_straight_through_to_pixels() -> None:
    codebook = tiny_codebook()
    pixels = tiny_pixels().requires_grad_()
    weights = torch.randn(2, 9, 7)
    (codebook.encode(pixels).quantised * weights).sum().backward()
    through, pixels.grad = pixels.grad, None
    (codebook.look(pixels) * weights).sum().backward()
    assert through is not None and pixels.grad is not None
    assert (through.flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(through, pixels.grad)


def test_the_gradient_passes_frozen_weights() -> None:
    codebook = tiny_codebook().requires_grad_(False)
    pixels = tiny_pixels().requires_grad_()
    codebook.decode_latents(codebook.encode(pixels).quantised).square().sum().backward()
    assert pixels.grad is not None and bool(pixels.grad.abs().sum() > 0)


def test_only_chosen_moves_the_codebook() -> None:
    codebook = tiny_codebook()
    codes = codebook.encode(tiny_pixels())
    weights = torch.randn(2, 9, 7)
    (codes.quantised * weights).sum().backward(retain_graph=True)
    assert codebook.weight.grad is None
    (codes.chosen * weights).sum().backward()
    assert codebook.weight.grad is not None
    touched = codebook.weight.grad.abs().sum(1) > 0
    assert set(touched.nonzero().flatten().tolist()) == set(codes.indices.flatten().tolist())


def test_spread_makes_latents_of_these_pictures_fill_the_sphere() -> None:
    codebook = tiny_codebook(initializer_range=0.02)
    pixels = tiny_pixels(31)

    def narrowest() -> float:
        flat = codebook.look(pixels).flatten(0, 1)
        return float(torch.linalg.eigvalsh(torch.cov(flat.T))[0])

    with torch.no_grad():
        before = narrowest()
        codebook.spread(pixels)
        after = narrowest()
    # Evenly filled, each of the 7 directions has a variance of 1 / 7.
    assert before < 0.2 / 7 and after > 0.8 / 7


def test_laid_over_a_model_it_changes_nothing_there() -> None:
    model = tiny_codebook().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    codebook = Codebook(model)
    codebook.decode(codebook.encode(tiny_pixels()).indices)
    after = codebook.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_parts_divide_the_weights() -> None:
    codebook = tiny_codebook()
    parts = [p for part in codebook.parts.values() for p in part.parameters()]
    assert len({id(p) for p in parts}) == len(parts) == len(list(codebook.parameters()))


@pytest.mark.parametrize("shape", [(2, 3, SIDE, SIDE + 4), (2, 4, SIDE, SIDE), (3, SIDE, SIDE)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"reads \(pictures, 3, 12, 12\).*`transform`"):
        tiny_codebook().encode(torch.zeros(shape))


def test_codes_that_are_none_are_refused() -> None:
    codebook = tiny_codebook()
    with pytest.raises(GeometryError, match=r"\(2, 8\).*3 x 3 = 9 cells"):
        codebook.decode(torch.zeros((2, 8), dtype=torch.long))
    with pytest.raises(InputError, match=r"codes from 0 to 53; .*codes from 0 to 52"):
        codebook.decode(torch.tensor([[0, 53, *[1] * 7]]))
    with pytest.raises(InputError, match="codes from -1 to 1"):
        codebook.decode(torch.tensor([[-1, *[1] * 8]]))


# ------------------------------------------------------------------------- pictures and views


def test_frame_brings_views_to_its_size_and_range() -> None:
    codebook = tiny_codebook()
    view = torch.rand(2, 3, 19, 19).requires_grad_()
    pixels = codebook.frame(view)
    assert pixels.shape == (2, 3, SIDE, SIDE)
    assert bool((pixels.detach().abs() <= 1).all())
    pixels.sum().backward()
    assert view.grad is not None and bool((view.grad > 0).all())
    same = torch.rand(1, 3, SIDE, SIDE)
    assert torch.equal(codebook.frame(same), same * 2 - 1)
    with pytest.raises(GeometryError, match=r"give squares"):
        codebook.frame(torch.rand(1, 3, 5, 7))


def test_a_picture_is_shown_whole_in_the_middle_of_the_square() -> None:
    transform = CodebookTransform(cells=3, cell=4)
    geometry = transform.geometry((26, 52))
    assert (geometry.rows, geometry.columns) == (3, 3)
    assert geometry.view_box() == pytest.approx((0, -13, 52, 39))
    pixels = transform(Image.new("RGB", (52, 26), (255, 0, 255)))
    assert pixels.shape == (3, 12, 12)
    assert torch.allclose(pixels[:, 4:8, :], torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1))
    # The resampling mixes one pixel at each border.
    assert pixels[:, :2].abs().max() < 0.01 and pixels[:, 10:].abs().max() < 0.01


def test_it_shows_the_view_of_another_grid() -> None:
    transform = CodebookTransform(cells=3, cell=4)
    # A host that crops the middle 40 x 40 of 60 x 50.
    host = ImageGeometry(60, 50, 0.5, 0.5, -2.5, -5.0, 4.0, 4.0, 5, 5)
    own = transform.over(host)
    assert own.view_box() == pytest.approx(host.view_box())
    image = picture(60, 50, 3)
    left, top, right, bottom = (round(side) for side in host.view_box())
    cut = image.crop((left, top, right, bottom))
    # At the border of the cut, the resampling has nothing beyond it to mix.
    seen, alone = transform(image, host)[:, 1:-1, 1:-1], transform(cut)[:, 1:-1, 1:-1]
    assert torch.equal(seen, alone)


# ---------------------------------------------------------------------------- configurations


def test_a_configuration_names_exactly_one_source() -> None:
    for values in ({}, {"path": "here", "architecture": ARCHITECTURE}):
        with pytest.raises(ValueError, match="give either `path`"):
            CodebookConfig(**values)
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32"):
        CodebookConfig(architecture=ARCHITECTURE, dtype="int8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3, "colour": 1}, r"widht: unknown.*\n.*colour: unknown"),
        ({"base_channels": 48}, r"gives \[48\] channels; each must be a multiple of 32"),
        ({"in_channels": 5}, "in_channels 5 and out_channels 12; both must be 3"),
        ({"out_channels": 27}, "in_channels 12 and out_channels 27"),
        ({"embed_dim": "x"}, "embed_dim"),
        ({"double_latent": True}, "double_latent: true; only false"),
    ],
)
def test_an_impossible_architecture_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodebookConfig(architecture={**ARCHITECTURE, **values}).build()


def test_an_outline_has_sizes_and_no_weights(tmp_path: Path) -> None:
    outline = CodebookConfig(architecture=ARCHITECTURE).outline()
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}
    codebook = tiny_codebook()
    codebook.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    loaded = CodebookConfig(path=str(tmp_path)).outline()
    shapes = {name: tensor.shape for name, tensor in codebook.state_dict().items()}
    for found in (outline, loaded):
        assert {name: tensor.shape for name, tensor in found.state_dict().items()} == shapes


# ------------------------------------------------------------------------------- checkpoints


def test_a_saved_codebook_says_and_draws_the_same(tmp_path: Path) -> None:
    codebook = tiny_codebook()
    codebook.save(tmp_path)
    loaded = CodebookConfig(path=str(tmp_path), codes=53, code_width=7).build()
    pixels = tiny_pixels()
    codes, again = codebook.encode(pixels), loaded.encode(pixels)
    assert torch.equal(codes.indices, again.indices)
    assert torch.equal(codes.latents, again.latents)
    # Codes are written with length 1, and dividing by 1 rounds once more.
    assert torch.allclose(codebook.rows, loaded.rows, atol=2e-7)
    drawn, redrawn = codebook.decode(codes.indices), loaded.decode(codes.indices)
    assert torch.allclose(drawn, redrawn, atol=1e-5)
    assert torch.allclose(loaded.weight.norm(dim=1), torch.ones(53), atol=1e-6)


def test_other_codes_than_asked_for_are_an_error(tmp_path: Path) -> None:
    tiny_codebook().save(tmp_path)
    with pytest.raises(CheckpointError, match="53 codes of width 7, and 8192 of width 256 are"):
        CodebookConfig(path=str(tmp_path), codes=8192, code_width=256).build()


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    tiny_codebook().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_embeddings"] = 59
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = r"quantize\.embedding\.weight: \(53, 7\) in the file, \(59, 7\) by its config"
    with pytest.raises(CheckpointError, match=told):
        CodebookConfig(path=str(tmp_path)).build()


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_weights_too_few_or_too_many_are_named(tmp_path: Path, change: str) -> None:
    tiny_codebook().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    moved = tensors.pop("decoder.conv_out.bias")
    if change == "unexpected":
        tensors |= {"decoder.conv_out.bias": moved, "extra.weight": moved.clone()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    name = "extra.weight" if change == "unexpected" else r"decoder\.conv_out\.bias"
    with pytest.raises(CheckpointError, match=rf"1 differ; .*(\n.*)*{change}: {name}"):
        CodebookConfig(path=str(tmp_path)).build()


def test_what_is_no_codebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint can be read from"):
        CodebookConfig(path=str(tmp_path / "nowhere")).build()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model type 'llama'; it reads janus_vqgan, janus"):
        CodebookConfig(path=str(tmp_path)).build()
