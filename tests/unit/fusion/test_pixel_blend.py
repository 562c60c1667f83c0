"""The blend: where it starts, what bounds it, and where gradient goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.fusion.alpha import MultiScaleAlpha, StaticAlpha
from chiasm.fusion.pixel_blend import Blended, PixelBlend, PixelBlendConfig
from chiasm.layers.warp import box_affine

LEARNED = ("static", "scalar", "multi_scale", "content")
MODES = (*LEARNED, "fixed", "original")
B, H, W = 3, 13, 11


def build(alpha: str, **settings: Any) -> PixelBlend:
    torch.manual_seed(0)
    return PixelBlendConfig(alpha=alpha, size=13, width=5, **settings).build()  # type: ignore[arg-type]


def shaken(blend: PixelBlend) -> PixelBlend:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in blend.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return blend


def pictures(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, B, 3, H, W, generator=generator)
    return first.to(dtype), second.to(dtype)


def masks() -> tuple[Tensor, Tensor]:
    """Rows 0 and 1 have a mask over columns 2 to 6; row 2 carries one that nobody vouches for."""
    hidden = torch.zeros(B, H, W, dtype=torch.bool)
    hidden[:, :, 2:7] = True
    return hidden, torch.tensor([True, True, False])


def nothing_known() -> tuple[Tensor, Tensor]:
    return torch.zeros(B, H, W, dtype=torch.bool), torch.zeros(B, dtype=torch.bool)


@pytest.mark.parametrize("mode", MODES)
def test_starts_at_the_mean_of_both(mode: str) -> None:
    original, reconstruction = pictures()
    found = build(mode).blend(original, reconstruction, *nothing_known())
    assert found.alpha.shape == (B, 1, H, W) and found.alpha.dtype == torch.float32
    share = 1.0 if mode == "original" else 0.5
    torch.testing.assert_close(found.alpha, torch.full((B, 1, H, W), share), rtol=0, atol=1e-7)
    assert found.reconstruction is reconstruction
    if mode == "original":
        assert torch.equal(found.image, original)
    else:
        torch.testing.assert_close(found.image, (original + reconstruction) / 2)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_is_the_formula_with_alpha_between_0_and_1(mode: str) -> None:
    original, reconstruction = pictures()
    found = shaken(build(mode)).blend(original, reconstruction, *masks())
    alpha = found.alpha
    assert 0 <= float(alpha.min()) and float(alpha.max()) <= 1
    torch.testing.assert_close(found.image, alpha * original + (1 - alpha) * reconstruction)
    if mode in LEARNED:
        assert float(alpha.std()) > 0.01


@pytest.mark.parametrize("mode", LEARNED)
@pytest.mark.parametrize("known", [False, True])
def test_gradient_reaches_alpha_and_both_pictures(mode: str, known: bool) -> None:
    original, reconstruction = (picture.requires_grad_() for picture in pictures())
    blend = shaken(build(mode))
    weights = torch.randn(B, 3, H, W, generator=torch.Generator().manual_seed(2))
    found = blend.blend(original, reconstruction, *(masks() if known else nothing_known()))
    (found.image * weights).sum().backward()
    for name, parameter in blend.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name
    for picture in (original, reconstruction):
        assert picture.grad is not None and bool((picture.grad != 0).all())


@pytest.mark.parametrize("mode", LEARNED)
def test_alpha_moves_from_its_start(mode: str) -> None:
    """Towards the original where the truth is the original, although bounds are about."""
    original, reconstruction = pictures()
    blend = build(mode)
    optimiser = torch.optim.Adam(blend.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        found = blend.blend(original, reconstruction, *masks())
        (found.image - original).square().mean().backward()
        optimiser.step()
    # The unbound row, from 0.5.
    assert blend.blend(original, reconstruction, *masks()).alpha[2].mean().item() > 0.6


def test_modes_without_a_parameter() -> None:
    assert {mode for mode in MODES if not list(build(mode).parameters())} == {"fixed", "original"}


@pytest.mark.parametrize("mode", ["fixed", "original"])
def test_fixed_shares_are_exact_whatever_is_known(mode: str) -> None:
    found = build(mode, bound=0.25).blend(*pictures(), *masks())
    assert bool((found.alpha == (0.5 if mode == "fixed" else 1.0)).all())


def test_parameters_are_what_each_mode_says() -> None:
    def shapes(mode: str) -> list[tuple[int, ...]]:
        return [tuple(parameter.shape) for parameter in build(mode).parameters()]

    assert shapes("static") == [(1, 1, 13, 13)]
    assert shapes("scalar") == [()]
    assert sorted(shapes("multi_scale")) == [(1, 1, 3, 3), (1, 1, 6, 6), (1, 1, 13, 13), (3,)]
    # The source's map: one logit for each of 448 x 448 pixels.
    assert sum(p.numel() for p in PixelBlendConfig().build().parameters()) == 200_704


def test_a_static_map_is_read_as_it_is_or_bilinearly() -> None:
    module = StaticAlpha(size=7)
    with torch.no_grad():
        module.logits.copy_(torch.randn(1, 1, 7, 7, generator=torch.Generator().manual_seed(5)))
    same, double = (torch.zeros(1, 3, side, side) for side in (7, 14))
    assert torch.equal(module(same, same, same), module.logits.sigmoid())
    wide = nn.functional.interpolate(
        module.logits, scale_factor=2, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(module(double, double, double), wide.sigmoid())


def test_three_scales_are_mixed_by_their_shares() -> None:
    module = MultiScaleAlpha(size=8)
    with torch.no_grad():
        for scale, value in enumerate((-1.0, 0.5, 2.0)):
            module.logits[scale].fill_(value)
        module.weights.copy_(torch.tensor([0.0, 1.0, -1.0]))
    view = torch.zeros(1, 3, 8, 8)
    shares = torch.tensor([0.0, 1.0, -1.0]).softmax(0)
    expected = (shares * torch.tensor([-1.0, 0.5, 2.0]).sigmoid()).sum()
    torch.testing.assert_close(module(view, view, view), expected.detach().expand(1, 1, 8, 8))


@torch.no_grad()
def test_only_the_content_mode_sees_its_images() -> None:
    original, reconstruction = pictures()
    for mode in LEARNED:
        alpha = shaken(build(mode)).blend(original, reconstruction, *nothing_known()).alpha
        apart = float((alpha[0] - alpha[1]).abs().max())
        assert (apart > 1e-3) == (mode == "content"), mode
    blend = shaken(build("content", bound=1.0))
    bare = blend.blend(original, reconstruction, *nothing_known()).alpha
    told = blend.blend(original, reconstruction, *masks()).alpha
    assert bool(((bare - told).abs().amax(dim=(1, 2, 3)) > 1e-3)[:2].all())
    assert torch.equal(bare[2], told[2])  # A mask that nobody vouches for is not seen.


@torch.no_grad()
@pytest.mark.parametrize("mode", LEARNED)
@pytest.mark.parametrize("bound", [0.0, 0.25, 0.5, 0.9])
def test_a_known_mask_bounds_alpha(mode: str, bound: float) -> None:
    original, reconstruction = pictures()
    hidden, known = masks()
    blend = build(mode, bound=bound)
    with torch.no_grad():
        for parameter in blend.parameters():
            parameter.mul_(30).add_(torch.randn(parameter.shape) * 3)
    free = blend.alpha(original, reconstruction, _seen(hidden, known)).expand(B, -1, -1, -1)
    alpha = blend.blend(original, reconstruction, hidden, known).alpha
    inside = hidden[:2, None]
    assert float(alpha[:2][inside].max()) <= bound + 1e-6
    assert float(alpha[:2][~inside].min()) >= 1 - bound - 1e-6
    torch.testing.assert_close(alpha[:2][inside], bound * free[:2][inside])
    assert torch.equal(alpha[2], free[2])


def test_a_bound_of_one_is_none() -> None:
    blend = shaken(build("static", bound=1.0))
    with_mask = blend.blend(*pictures(), *masks()).alpha
    assert torch.equal(with_mask, blend.blend(*pictures(), *nothing_known()).alpha)


def test_aligning_first_blends_the_moved_reconstruction() -> None:
    original, reconstruction = pictures()
    affine = torch.eye(2, 3).repeat(B, 1, 1)
    affine[1] = box_affine(
        torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3 / W, 0.0, 1 + 3 / W, 1.0]])
    )[0]
    blend = build("scalar", align_first=True)
    found = blend.blend(original, reconstruction, *nothing_known(), affine)
    plain = build("scalar").blend(original, reconstruction, *nothing_known(), affine)
    for row in (0, 2):
        assert torch.equal(found.image[row], plain.image[row])
    # Nothing of the reconstruction lies in the first three columns: the original, untouched.
    assert torch.equal(found.image[1, :, :, :3], original[1, :, :, :3])
    assert bool((found.alpha[1, :, :, :3] == 1).all())
    assert bool((found.reconstruction[1, :, :, :3] == 0).all())
    expected = (original[1, :, :, 3:] + reconstruction[1, :, :, :-3]) / 2
    torch.testing.assert_close(found.image[1, :, :, 3:], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("halved", [False, True])
def test_short_floats(dtype: torch.dtype, mode: str, halved: bool) -> None:
    blend = shaken(build(mode, align_first=True))
    affine = torch.eye(2, 3).repeat(B, 1, 1)
    affine[:, 0, 2] = 0.1
    full = blend.blend(*pictures(), *masks(), affine)
    if halved:
        blend = blend.to(dtype)
    elif mode == "content":
        assert next(blend.parameters()).dtype == torch.float32
    found: Blended = blend.blend(*pictures(dtype), *masks(), affine)
    assert found.image.dtype == dtype and found.alpha.dtype == torch.float32
    # Measured: 0.038, bfloat16 parameters and pixels of 8 bits.
    torch.testing.assert_close(found.image.float(), full.image, rtol=0, atol=0.06)


@pytest.mark.parametrize("mode", ["static", "scalar", "multi_scale"])
def test_mixed_precision_does_not_shorten_alpha(mode: str) -> None:
    blend = shaken(build(mode, align_first=True))
    affine = torch.eye(2, 3).repeat(B, 1, 1)
    affine[:, 0, 2] = 0.1
    full = blend.blend(*pictures(), *masks(), affine)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = blend.blend(*pictures(), *masks(), affine)
    assert torch.equal(mixed.alpha, full.alpha) and torch.equal(mixed.image, full.image)


def test_faults_are_named() -> None:
    original, reconstruction = pictures()
    with pytest.raises(InputError, match=r"align_first .* give `affine` \(B, 2, 3\)"):
        build("static", align_first=True).blend(original, reconstruction, *masks())
    with pytest.raises(InputError, match=r"reconstruction \(3, 3, 13, 7\)"):
        build("static").blend(original, reconstruction[..., :7], *masks())
    with pytest.raises(InputError, match=r"hidden_known \(2,\)"):
        build("static").blend(original, reconstruction, masks()[0], masks()[1][:2])
    with pytest.raises(ValidationError, match="'static', 'scalar', 'multi_scale'"):
        PixelBlendConfig(alpha="learned")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        PixelBlendConfig(bound=1.5)


def _seen(hidden: Tensor, known: Tensor) -> Tensor:
    rows = known[:, None, None]
    return torch.stack([hidden & rows, rows.expand_as(hidden)], dim=1).float()
