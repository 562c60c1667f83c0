"""What every fusion promises: aligned streams in, the host's width out, padding without effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.core.errors import ConfigError, GeometryError, InputError
from chiasm.fusion import FUSIONS
from tests.tiny_eyes import stretched
from tests.unit.fusion.streams import (
    GEOMETRIES,
    HOST_WIDTH,
    VisualTokens,
    build,
    extra,
    host,
    one_image,
    shaken,
)

CASES: dict[str, dict[str, Any]] = {
    "gated global": {"width": 13, "scope": "global"},
    "gated token": {"width": 13, "scope": "token"},
    "gated channel": {"width": 13, "scope": "channel"},
    "concat": {"hidden": 11},
    "concat 3": {"hidden": 11, "depth": 3},
    "interleave": {"hidden": 11},
    "interleave opened": {"hidden": 11, "opened": True},
    "cross_attention": {"width": 14, "heads": 2, "radius": 1},
    "cross_attention 0": {"width": 14, "heads": 2, "radius": 0},
    "mining 0": {"side": 1},
}


def made(case: str, *names: str) -> Any:
    return build(case.split()[0], *names, **CASES[case])


def test_every_fusion_is_tried() -> None:
    assert {case.split()[0] for case in CASES} == set(FUSIONS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", [("dinov2",), ("dinov2", "siglip"), ("siglip", "dinov2")])
def test_starts_with_the_host_tokens(case: str, names: tuple[str, ...]) -> None:
    if case.endswith(" 0") and len(names) == 1:
        pytest.skip("one token to look at needs two encoders")
    fused = made(case, *names).fuse(host(), extra(*names))
    each = fused.tokens_per_cell
    assert each == (1 + len(names) if "opened" in case else 1)
    assert torch.equal(fused.tokens.features[:, ::each], host().features)
    assert torch.equal(fused.tokens.mask, host().mask.repeat_interleave(each, dim=1))


@pytest.mark.parametrize("case", CASES)
def test_a_batch_equals_single_images(case: str) -> None:
    fusion = shaken(made(case, "dinov2", "siglip"))
    streams = extra("dinov2", "siglip")
    together = fusion.fuse(host(), streams)
    for index in range(2):
        single = fusion.fuse(
            one_image(host(), index), {n: one_image(t, index) for n, t in streams.items()}
        )
        # Measured: 5e-7, sums over another number of padded tokens.
        torch.testing.assert_close(
            together.tokens.rows()[index], single.tokens.features[0], rtol=1e-5, atol=1e-5
        )
        for name, values in single.named.items():
            ours = together.named[name][index]
            ours = ours[: values.shape[1]] if name == "gate_map" else ours
            torch.testing.assert_close(ours, values[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_padding_has_no_effect_and_gets_none(case: str) -> None:
    fusion = shaken(made(case, "dinov2", "siglip"))
    streams = extra("dinov2", "siglip")
    clean = fusion.fuse(host(), streams)
    spoiled = {
        name: tokens.with_features(tokens.features.masked_fill(~tokens.mask[..., None], 1e3))
        for name, tokens in streams.items()
    }
    found = fusion.fuse(host(), spoiled)
    assert torch.equal(found.tokens.features, clean.tokens.features)
    each = found.tokens_per_cell
    assert (found.tokens.features[1, 14 * each :] == 0).all()


@pytest.mark.parametrize("case", CASES)
def test_every_stream_matters_after_training(case: str) -> None:
    fusion = shaken(made(case, "dinov2", "siglip"))
    streams = extra("dinov2", "siglip")
    before = fusion.fuse(host(), streams).tokens.features
    for name, tokens in streams.items():
        changed = {**streams, name: tokens.with_features(tokens.features.flip(1))}
        changed[name] = changed[name].with_features(
            torch.where(tokens.mask[..., None], changed[name].features + 1, 0)
        )
        assert not torch.allclose(fusion.fuse(host(), changed).tokens.features, before, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_low_precision_host_keeps_its_type(case: str) -> None:
    fusion = shaken(made(case, "dinov2", "siglip"))
    tokens = host().with_features(host().features.bfloat16())
    assert fusion.fuse(tokens, extra("dinov2", "siglip")).tokens.features.dtype == torch.bfloat16


@pytest.mark.parametrize("case", CASES)
def test_streams_must_be_those_it_was_built_for(case: str) -> None:
    fusion = made(case, "dinov2", "siglip")
    with pytest.raises(InputError, match="built for the encoders dinov2, siglip and received dino"):
        fusion.fuse(host(), extra("dinov2"))


@pytest.mark.parametrize("case", CASES)
def test_streams_must_share_the_cells(case: str) -> None:
    fusion = made(case, "dinov2", "siglip")
    streams = extra("dinov2", "siglip")
    geometries = (GEOMETRIES[0], stretched(97, 43, 7, 1))
    rows = [streams["siglip"].rows()[0], streams["siglip"].rows()[1][:7]]
    streams["siglip"] = VisualTokens.from_images(rows, geometries)
    with pytest.raises(GeometryError, match=r"'siglip' gives \[15, 7\].*host \[15, 14\]"):
        fusion.fuse(host(), streams)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_names_of_encoders(name: str) -> None:
    with pytest.raises(ConfigError, match="at least one extra encoder"):
        FUSIONS[name]().build(host_width=HOST_WIDTH, encoder_widths={})
    with pytest.raises(ConfigError) as caught:
        FUSIONS[name]().build(host_width=HOST_WIDTH, encoder_widths={"host": 3, "a.b": 5, "a": 7})
    assert len(caught.value.faults) == 2


def test_a_fusion_of_ones_own_needs_one_method() -> None:
    from chiasm.core.protocols import Fused, Fusion

    class Mine(torch.nn.Module):
        def fuse(self, host: VisualTokens, extra: dict[str, VisualTokens]) -> Fused:
            return Fused(tokens=host, named={})

    mine: Fusion = Mine()  # type: ignore[assignment]
    assert mine.fuse(host(), extra("dinov2")).tokens_per_cell == 1
