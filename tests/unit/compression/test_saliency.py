"""Saliency: a red dot on grey, an edge, known colours, attention received, and fusion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from chiasm.compression.saliency import (
    SOURCES,
    SaliencyConfig,
    edges,
    fuse,
    received_attention,
    spectral_residual,
    to_lab,
)
from chiasm.compression.views import ClipView
from chiasm.core.errors import InputError
from tests.unit.compression.clips import grid

PICTURES = ("edge", "colour", "residual")


def red_dot() -> Tensor:
    """A red dot within the cell of row 3 and column 7, on grey: uint8 (1, 64, 104, 3)."""
    frames = torch.full((1, 64, 104, 3), 128, dtype=torch.uint8)
    frames[0, 26:30, 58:62] = torch.tensor([220, 20, 20], dtype=torch.uint8)
    return frames


@pytest.mark.parametrize("name", PICTURES)
def test_a_red_dot_stands_out(name: str) -> None:
    measure = SOURCES[name][0]
    found = measure(ClipView(grid(8, 13), frames=red_dot()))
    assert found.shape == (1, 8, 13)
    assert found.argmax() == 3 * 13 + 7
    others = found.flatten()[torch.arange(104) != 46]
    assert others.max() < found.max() * 0.75


@pytest.mark.parametrize("fusion", ["sum", "product", "maximum"])
def test_a_red_dot_is_salient(fusion: str) -> None:
    saliency = SaliencyConfig(attention=0, residual=0.1, fusion=fusion).build()
    found = saliency.importance(ClipView(grid(8, 13), frames=red_dot()))
    assert found[0, 3, 7] == found.max() and found.min() >= 0 and found.max() <= 1
    assert found[0, 3, 7] > 0.5 and found[0, 7, 0] < 0.05


@pytest.mark.parametrize("name", PICTURES)
def test_a_flat_frame_has_no_saliency(name: str) -> None:
    frames = torch.full((2, 64, 104, 3), 131, dtype=torch.uint8)
    weights = dict.fromkeys(("edge", "attention", "colour"), 0.0) | {name: 1.0}
    found = SaliencyConfig(**weights).build().importance(ClipView(grid(8, 13), frames=frames))
    assert found.isfinite().all() and found.max() < 1e-5


def test_edges_are_slopes_in_grey_levels_a_pixel() -> None:
    ramp = (torch.arange(40) * 5).byte()[None, None, :, None].expand(1, 24, 40, 3)
    found = edges(ClipView(grid(3, 5), frames=ramp))
    torch.testing.assert_close(found[0, :, 1:4], torch.full((3, 3), 5.0))
    turned = edges(ClipView(grid(5, 3), frames=ramp.transpose(1, 2)))
    torch.testing.assert_close(turned, found.mT)


def test_lab_of_known_colours() -> None:
    colours = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    # D65 values of the primaries as tabulated for CIELAB (CIE 15:2004).
    wanted = torch.tensor(
        [
            [100.0, 0.0, 0.0],
            [0.0, 0.0, 0.0],
            [53.24, 80.09, 67.20],
            [87.73, -86.18, 83.18],
            [32.30, 79.19, -107.86],
        ]
    )
    torch.testing.assert_close(to_lab(colours), wanted, rtol=0, atol=0.02)
    greys = to_lab(torch.arange(256)[:, None].expand(-1, 3))
    assert greys[:, 1:].abs().max() < 1e-3


def test_colour_is_distance_from_the_mean() -> None:
    frames = red_dot()
    found = SOURCES["colour"][0](ClipView(grid(8, 13), frames=frames))
    places = to_lab(frames[0])
    distance = (places - places.mean((0, 1))).norm(dim=-1)
    wanted = F.avg_pool2d(distance[None, None], 8)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.3)


def test_residual_finds_what_breaks_a_pattern() -> None:
    columns = 128 + 80 * torch.sin(torch.arange(104) * 2 * torch.pi / 8)
    frames = columns.byte()[None, None, :, None].repeat(1, 64, 1, 3)
    frames[0, 24:32, 56:64] = 128
    found = spectral_residual(ClipView(grid(8, 13), frames=frames))[0]
    row, column = divmod(int(found.argmax()), 13)
    assert abs(row - 3) <= 1 and abs(column - 7) <= 1


def test_received_attention_is_the_column_mean() -> None:
    rows = torch.rand(2, 5, 3, 15, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = received_attention(ClipView(grid(3, 5), attention=rows))
    torch.testing.assert_close(found, rows.mean((1, 2)).view(2, 3, 5) * 15)
    ready = received_attention(ClipView(grid(3, 5), attention=rows.mean((1, 2))))
    torch.testing.assert_close(ready, found)


def test_fusions() -> None:
    maps = {"one": torch.tensor([0.0, 0.5, 1.0]), "two": torch.tensor([1.0, 0.5, 0.25])}
    weights = {"one": 3.0, "two": 1.0}
    found = fuse(maps, weights, "sum")
    torch.testing.assert_close(found, torch.tensor([0.25, 0.5, 0.8125]))
    found = fuse(maps, weights, "product")
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.25**0.25]))
    assert torch.equal(fuse(maps, weights, "maximum"), torch.tensor([1.0, 0.5, 1.0]))


def test_default_weights_ask_for_attention() -> None:
    config = SaliencyConfig()
    assert config.weights() == {"edge": 0.4, "attention": 0.4, "colour": 0.2, "residual": 0.0}
    view = ClipView(grid(8, 13), frames=red_dot())
    with pytest.raises(InputError, match=r"attention saliency needs .* or a weight of 0"):
        config.build().importance(view)
    seen = ClipView(grid(8, 13), frames=red_dot(), attention=torch.full((1, 2, 104), 1 / 104))
    found = config.build().importance(seen)
    # Even attention is half of its floor; edges and colour are as without it.
    alone = SaliencyConfig(attention=0).build().importance(view)
    torch.testing.assert_close(found, 0.6 * alone + 0.4 * 0.5)


def test_sources_without_weight_are_not_measured() -> None:
    view = ClipView(grid(3, 5), attention=torch.full((1, 15), 1.0))
    found = SaliencyConfig(edge=0, colour=0, attention=1).build().importance(view)
    assert torch.equal(found, torch.ones(1, 3, 5))


def test_some_source_must_count() -> None:
    with pytest.raises(ValidationError, match="all weights are 0"):
        SaliencyConfig(edge=0, attention=0, colour=0)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_asked_for(name: str) -> None:
    with pytest.raises(InputError, match="saliency needs the frames of the clip"):
        SOURCES[name][0](ClipView(grid(3, 5)))
