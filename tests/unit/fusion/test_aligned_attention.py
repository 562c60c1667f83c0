"""Aligned attention against torch's own multi-head attention, and what it may see."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import ConfigError, GeometryError, InputError
from chiasm.core.tokens import VisualTokens
from chiasm.fusion.aligned_attention import AlignedAttention, AlignedAttentionConfig
from chiasm.layers.warp import box_affine, warp
from tests.tiny_eyes import stretched

ROWS, COLUMNS, WIDTH, HEADS, B = 5, 7, 22, 2, 3
N = ROWS * COLUMNS


def tokens(seed: int, grids: tuple[tuple[int, int], ...] = ((ROWS, COLUMNS),) * B) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    geometries = [stretched(61, 83, rows, columns) for rows, columns in grids]
    features = [torch.randn(g.count, WIDTH, generator=generator) for g in geometries]
    return VisualTokens.from_images(features, geometries)


def streams() -> tuple[VisualTokens, VisualTokens, VisualTokens]:
    return tokens(1), tokens(2), tokens(3)


def moves() -> Tensor:
    """One affine map a row: none, two cells to the right, out of sight."""
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(B, 1)
    shift = torch.tensor([0.0, 2 / COLUMNS, 3.0])[:, None]
    return box_affine(whole, whole + torch.cat([shift, 0 * shift] * 2, dim=1))


def build(**settings: Any) -> AlignedAttention:
    torch.manual_seed(0)
    settings = {"heads": HEADS, **settings}
    return AlignedAttentionConfig(**settings).build(width=WIDTH).eval()


def shaken(module: AlignedAttention) -> AlignedAttention:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def linear(part: nn.Sequential) -> nn.Linear:
    (found,) = (layer for layer in part if isinstance(layer, nn.Linear))
    return found


def reference(module: AlignedAttention, keys: Tensor, values: Tensor, covered: Tensor) -> Any:
    """torch's attention with the module's weights: keys, values (B, K, WIDTH), covered (B, K)."""
    other = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, bias=True).eval()
    query, key, value = (linear(part) for part in (module.query, module.key, module.values))
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([query.weight, key.weight, value.weight]))
        other.in_proj_bias.copy_(torch.cat([query.bias, torch.zeros(WIDTH), value.bias]))
        other.out_proj.load_state_dict(module.output.state_dict())
        return other(
            module.query[0](streams()[0].features),
            module.key[0](keys),
            module.values[0](values),
            key_padding_mask=~covered,
            average_attn_weights=False,
        )


def moved_features() -> tuple[Tensor, Tensor]:
    maps = streams()[1].features.transpose(1, 2).reshape(B, WIDTH, ROWS, COLUMNS)
    moved, covered = warp(maps, moves())
    return moved.flatten(2).transpose(1, 2), covered.flatten(1)


@pytest.mark.parametrize("value", ["fused", "reconstruction"])
def test_equals_multi_head_attention_of_torch(value: str) -> None:
    original, reconstruction, fused = streams()
    module = shaken(build(value=value))
    given = fused if value == "fused" else None
    found = module.fuse(original, reconstruction, given, moves(), detail=True)
    keys, covered = moved_features()
    values = fused.features if value == "fused" else keys
    update, weights = reference(module, keys, values, covered | (covered.sum(1) == 0)[:, None])
    expected = original.features + update
    torch.testing.assert_close(found.tokens.features[:2], expected[:2], rtol=1e-5, atol=1e-5)
    attention = found.named["attention"]
    assert attention.shape == (B, HEADS, N, N)
    torch.testing.assert_close(attention[:2], weights[:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention[:2].sum(-1), torch.ones(2, HEADS, N))
    assert torch.equal(found.named["coverage"], covered)
    # The row whose reconstruction is out of sight: its own tokens, bit for bit, and no weights.
    assert torch.equal(found.tokens.features[2], original.features[2])
    assert not bool(attention[2].any()) and not bool(covered[2].any())


def test_values_of_both_are_the_sum_of_two_projections() -> None:
    module = shaken(build(value="both"))
    found = module.fuse(*streams(), moves())
    fused, own = (copy.deepcopy(module) for _ in range(2))
    assert module.own_values is not None
    with torch.no_grad():
        for one in (fused, own):
            one.own_values = None
            one.output.bias.zero_()
        own.values, own.value = copy.deepcopy(module.own_values), "reconstruction"
    parts = [one.fuse(*streams(), moves()).tokens.features for one in (fused, own)]
    original = streams()[0].features
    expected = parts[0] + parts[1] - original + module.output.bias
    torch.testing.assert_close(found.tokens.features[:2], expected[:2], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="none were given; give `fused`"):
        module.fuse(streams()[0], streams()[1], None, moves())


@pytest.mark.parametrize("multi_scale", [False, True])
def test_what_fits_nothing_takes_nothing_over(multi_scale: bool) -> None:
    """The key without a value takes its share of the attention, and with all of it the update."""
    module = shaken(build(decline=True, multi_scale=multi_scale))
    assert module.nothing is not None
    open_ = module.fuse(*streams(), moves(), detail=True)
    taken = [open_.named[name].sum(-1) for name in open_.named if "attention" in name]
    left = torch.stack(taken).sum(0)
    assert bool((left[:2] < 1).all()) and bool((left[:2] > 0).all())
    query = module.query(streams()[0].features).mean((0, 1)).detach()
    with torch.no_grad():
        linear(module.query).weight.zero_()
        linear(module.query).bias.copy_(query)
        module.nothing.copy_(query * 1e6)
    shut = module.fuse(*streams(), moves(), detail=True)
    expected = streams()[0].features + module.output.bias
    torch.testing.assert_close(shut.tokens.features[:2], expected[:2])
    assert torch.equal(shut.tokens.features[2], streams()[0].features[2])
    assert not bool(shut.named["attention"].any())


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("multi_scale", [False, True])
def test_starts_with_the_original_tokens(align: bool, multi_scale: bool) -> None:
    original, reconstruction, fused = streams()
    module = build(align=align, multi_scale=multi_scale)
    found = module.fuse(original, reconstruction, fused, moves())
    assert torch.equal(found.tokens.features, original.features)
    assert found.tokens_per_cell == 1
    assert torch.equal(found.tokens.cells, original.cells)


def test_detail_changes_nothing_and_weights_are_made_only_on_request() -> None:
    module = shaken(build())
    with_detail, without = (module.fuse(*streams(), moves(), detail=d) for d in (True, False))
    assert torch.equal(with_detail.tokens.features, without.tokens.features)
    assert set(without.named) == {"coverage"}
    assert not with_detail.named["attention"].requires_grad


def test_a_cell_of_the_reconstruction_is_read_where_it_moves_to() -> None:
    """The cell in row 1, column 3 stands two cells further right in the second sample."""
    original, reconstruction, fused = streams()
    module = shaken(build())

    def weight_of(cell: int) -> Tensor:
        bumped = reconstruction.features.clone()
        bumped[:, 1 * COLUMNS + 3] += torch.linspace(-3, 3, WIDTH)
        first = module.fuse(original, reconstruction, fused, moves(), detail=True)
        second = module.fuse(
            original, reconstruction.with_features(bumped), fused, moves(), detail=True
        )
        gap = (first.named["attention"] - second.named["attention"]).abs().amax(dim=(1, 2))
        return gap[:, cell] == gap.amax(dim=1)

    assert bool(weight_of(1 * COLUMNS + 3)[0]) and not bool(weight_of(1 * COLUMNS + 3)[1])
    assert bool(weight_of(1 * COLUMNS + 5)[1]) and not bool(weight_of(1 * COLUMNS + 5)[0])


def test_the_switch_ignores_the_affine_maps() -> None:
    module = shaken(build(align=False))
    moved = module.fuse(*streams(), moves())
    assert torch.equal(moved.tokens.features, module.fuse(*streams(), None).tokens.features)
    assert bool(moved.named["coverage"].all())
    same = shaken(build()).fuse(*streams(), torch.eye(2, 3).repeat(B, 1, 1))
    assert torch.equal(moved.tokens.features, same.tokens.features)


def test_the_half_grid_holds_means_over_covered_cells() -> None:
    original, reconstruction, fused = streams()
    module = shaken(build(multi_scale=True))
    found = module.fuse(original, reconstruction, fused, moves(), detail=True)
    keys, covered = moved_features()
    half_keys, half_values, half_covered = [], [], []
    for row in range(0, ROWS, 2):
        for column in range(0, COLUMNS, 2):
            cells = [
                r * COLUMNS + c
                for r in range(row, min(row + 2, ROWS))
                for c in range(column, min(column + 2, COLUMNS))
            ]
            seen = covered[:, cells].float()
            total = (keys[:, cells] * seen[..., None]).sum(1)
            half_keys.append(total / seen.sum(1).clamp(min=1)[:, None])
            half_values.append(fused.features[:, cells].mean(1))
            half_covered.append(seen.any(1))
    every_key = torch.cat([keys, torch.stack(half_keys, 1)], dim=1)
    every_value = torch.cat([fused.features, torch.stack(half_values, 1)], dim=1)
    shut = torch.cat([covered, torch.stack(half_covered, 1)], dim=1)
    update, weights = reference(module, every_key, every_value, shut | (shut.sum(1) == 0)[:, None])
    expected = (original.features + update)[:2]
    torch.testing.assert_close(found.tokens.features[:2], expected, rtol=1e-5, atol=1e-5)
    assert found.named["attention"].shape == (B, HEADS, N, N)
    assert found.named["attention_half"].shape == (B, HEADS, N, 12)
    both = torch.cat([found.named["attention"], found.named["attention_half"]], dim=-1)
    torch.testing.assert_close(both[:2], weights[:2], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.tokens.features[2], original.features[2])


def test_a_batch_equals_single_pairs() -> None:
    module = shaken(build(multi_scale=True))
    together = module.fuse(*streams(), moves()).tokens.features
    for row in range(B):
        alone = [VisualTokens.from_images([s.rows()[row]], [s.geometries[row]]) for s in streams()]
        single = module.fuse(alone[0], alone[1], alone[2], moves()[row : row + 1])
        # Measured: 1e-6, matrix products of another size.
        torch.testing.assert_close(together[row], single.tokens.features[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("multi_scale", [False, True])
def test_gradient_reaches_every_parameter_and_stream(multi_scale: bool) -> None:
    given = [s.with_features(s.features.clone().requires_grad_()) for s in streams()]
    module = shaken(build(multi_scale=multi_scale, post_norm=True))
    found = module.fuse(given[0], given[1], given[2], moves())
    noise = torch.randn(B, N, WIDTH, generator=torch.Generator().manual_seed(7))
    (found.tokens.features * noise).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name
    for stream in given:
        gradient = stream.features.grad
        assert gradient is not None and bool(gradient.isfinite().all())
        assert float(gradient[:2].abs().sum()) > 0


def test_post_norm_is_the_form_of_the_source() -> None:
    module = build(post_norm=True)
    found = module.fuse(*streams(), moves()).tokens.features
    expected = nn.functional.layer_norm(streams()[0].features, (WIDTH,))
    torch.testing.assert_close(found, expected)


def test_an_inner_width_of_its_own() -> None:
    module = AlignedAttentionConfig(heads=13, inner_width=39).build(width=WIDTH)
    assert module.key[1].weight.shape == (39, WIDTH)
    features = module.fuse(*streams(), moves(), detail=True)
    assert features.named["attention"].shape == (B, 13, N, N)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("halved", [False, True])
def test_short_floats(dtype: torch.dtype, multi_scale: bool, halved: bool) -> None:
    module = shaken(build(multi_scale=multi_scale))
    full = module.fuse(*streams(), moves()).tokens.features
    short = [s.with_features(s.features.to(dtype)) for s in streams()]
    if halved:
        module = module.to(dtype)
    found = module.fuse(short[0], short[1], short[2], moves(), detail=True)
    assert found.tokens.features.dtype == dtype
    assert torch.equal(found.tokens.features[2], short[0].features[2])
    # Measured: 0.07, bfloat16 throughout on values of order three.
    torch.testing.assert_close(found.tokens.features.float(), full, rtol=0, atol=0.1)
    assert bool(found.named["attention"].isfinite().all())


def test_faults_are_named() -> None:
    original, reconstruction, fused = streams()
    with pytest.raises(ConfigError, match="8 heads do not divide the width 22"):
        AlignedAttentionConfig().build(width=WIDTH)
    with pytest.raises(InputError, match="no affine maps were given"):
        build().fuse(original, reconstruction, fused, None)
    with pytest.raises(InputError, match="none were given; give `fused`"):
        build().fuse(original, reconstruction, None, moves())
    merged = replace(original, sizes=original.sizes * 2)
    with pytest.raises(
        GeometryError, match="35 original tokens for a grid of 5 x 7 = 35 cells, or"
    ):
        build().fuse(merged, reconstruction, fused, moves())
    with pytest.raises(
        GeometryError, match=r"reconstruction tokens .* fuse before any compression"
    ):
        build().fuse(original, _cut(reconstruction), fused, moves())
    with pytest.raises(GeometryError, match=r"on the grids \[\(5, 7\), \(7, 5\)\]"):
        build().fuse(tokens(1, ((5, 7), (7, 5), (5, 7))), reconstruction, fused, moves())
    with pytest.raises(GeometryError, match="fused tokens stand on 3 x 2 cells, the original's on"):
        build().fuse(original, reconstruction, tokens(3, ((3, 2),) * B), moves())


def _cut(stream: VisualTokens) -> VisualTokens:
    """The first 31 tokens of each row, as a compression would leave them."""
    return replace(
        stream,
        features=stream.features[:, :31],
        cells=stream.cells[:, :31],
        sizes=stream.sizes[:, :31],
        mask=stream.mask[:, :31],
        times=stream.times[:, :31],
    )
