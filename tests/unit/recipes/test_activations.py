"""The formula for activations, held against what autograd keeps on tiny models of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from chiasm.recipes.activations import (
    Blocks,
    SavedBytes,
    find_blocks,
    line_through,
    other_bytes_per_token,
)
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import ARCHITECTURES, stretched, tiny_encoder


def slope(model: nn.Module, run: Any, *counts: int) -> float:
    """Bytes that autograd keeps for one token more; `run(n)` returns how many tokens it ran."""
    points = {}
    for count in counts:
        saved = SavedBytes(model)
        with saved.counting():
            tokens = run(count)
        points[tokens] = saved.total
    return line_through(points)[1]


def test_what_is_saved_is_counted_once_and_weights_are_not() -> None:
    layer = nn.Linear(5, 7, bias=False)
    given = torch.randn(11, 5, requires_grad=True)
    saved = SavedBytes(layer)
    with saved.counting():
        hidden = layer(given)
        (hidden.relu() * hidden).sum()
    # The input for the weight's gradient; hidden once, though two read it; what the relu gave.
    assert saved.total == 4 * 11 * (5 + 7 + 7)


def test_a_line_goes_through_its_points() -> None:
    assert line_through({10: 130, 4: 70}) == (30.0, 10.0)


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
@pytest.mark.parametrize("trains", [True, False])
def test_decoders(family: str, trains: bool) -> None:
    host = TINY_HOSTS[family]()
    decoder = host.model.get_submodule(host.adapter.decoder_name)
    blocks = find_blocks(decoder)
    assert blocks is not None
    assert blocks.count == 3
    assert blocks.width == host.width
    host.requires_grad_(False)
    decoder.requires_grad_(trains)

    def run(length: int) -> int:
        hidden = torch.randn(1, length, host.width, requires_grad=True)
        places = torch.arange(length)[None]
        decoder(
            inputs_embeds=hidden,
            position_ids=places if family == "llava" else places.expand(3, 1, length),
            use_cache=False,
        )
        return length

    counted = slope(host, run, 37, 101)
    # Measured: 0.95 to 1.13 of what is counted.
    assert blocks.bytes_per_token(trains, 4, False) == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize("family", sorted(TINY_HOSTS))
def test_host_towers(family: str) -> None:
    host = TINY_HOSTS[family]()
    tower = host.parts["vision"]
    host.requires_grad_(False)
    tower.requires_grad_(True)

    def run(images: int) -> int:
        prepared = host.preparer.prepare([picture(61, 83)] * images)
        host.encode(prepared.tensors, prepared.geometries)
        grid = prepared.tensors.get("image_grid_thw")
        return 49 * images if grid is None else int(grid.prod(-1).sum())

    counted = slope(host, run, 1, 3)
    assert _formula(tower) == pytest.approx(counted, rel=0.35)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_encoders(name: str) -> None:
    encoder = tiny_encoder(name).train()
    geometry = stretched(50, 60, 5, 6)
    image = encoder.transform(picture(50, 60), geometry)

    def run(images: int) -> int:
        encoder.encode([image] * images, [geometry] * images)
        return images * geometry.count

    counted = slope(encoder, run, 1, 3)
    assert _formula(encoder) == pytest.approx(counted, rel=0.35)


def _formula(tower: nn.Module) -> int:
    blocks = find_blocks(tower)
    assert blocks is not None
    return blocks.bytes_per_token(True, 4, False) + other_bytes_per_token(tower, True, 4)


def test_recomputed_blocks_keep_their_inputs_and_one_block_at_a_time_keeps_all() -> None:
    blocks = Blocks(count=7, width=11, attention=11, inside=29, gated=True, norms=2)
    one = Blocks(count=1, width=11, attention=11, inside=29, gated=True, norms=2)
    each = one.bytes_per_token(True, 2, False)
    assert blocks.bytes_per_token(True, 2, False) == 7 * each
    assert blocks.bytes_per_token(True, 2, True) == 7 * 11 * 2 + each


def test_half_the_bytes_a_number_is_less_but_norms_stay_in_float32() -> None:
    blocks = Blocks(count=1, width=11, attention=13, inside=29, gated=True, norms=2)
    full, half = (blocks.bytes_per_token(True, number, False) for number in (4, 2))
    assert full - half == 2 * (4 * 11 + 4 * 13 + 4 * 29)


def test_modules_without_blocks() -> None:
    mlp = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    assert find_blocks(mlp) is None
    assert find_blocks(nn.ModuleList([mlp])) is None
    assert other_bytes_per_token(mlp, True, 2) == 2 * (5 + 7 + 7 + 3)
    assert other_bytes_per_token(mlp, False, 2) == 2 * (7 + 3)
