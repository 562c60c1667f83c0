"""Tokens that stand for several cells: spliced where their first cell stood, checked per image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from chiasm.core.batch import IMAGE_TOKEN
from chiasm.core.errors import InputError, PlaceholderError
from chiasm.core.tokens import VisualTokens
from chiasm.language.merged import are_merged, merged_grids, text_order
from tests.tiny_eyes import stretched
from tests.tiny_grounders import build_base, conversations
from tests.tiny_hosts import build_tiny


def merge(tokens: VisualTokens, assigned: list[list[int]]) -> VisualTokens:
    """Merge by given tables: for each image the token of each cell; features are means."""
    counts = [1 + max(table) for table in assigned]
    most = max(counts)
    shape = (len(assigned), most)
    features = tokens.features.new_zeros((*shape, tokens.width))
    cells, sizes = torch.zeros((*shape, 4)), torch.zeros(shape, dtype=torch.long)
    sources = torch.full_like(tokens.sources, -1)
    for image, table in enumerate(assigned):
        sources[image, : len(table)] = torch.tensor(table)
        for token in range(counts[image]):
            own = [cell for cell, held in enumerate(table) if held == token]
            features[image, token] = tokens.features[image, own].mean(0)
            sizes[image, token] = len(own)
            low, high = tokens.cells[image, own].amin(0), tokens.cells[image, own].amax(0)
            cells[image, token] = torch.cat([low[:2], high[2:]])
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    return VisualTokens(
        features, cells, sizes, sources, mask, torch.zeros(shape), tokens.geometries
    )


def halves(tokens: VisualTokens) -> VisualTokens:
    """Join neighbours; the tokens stand in the opposite order of their cells."""
    tables = []
    for geometry in tokens.geometries:
        pairs = [cell // 2 for cell in range(geometry.count)]
        tables.append([max(pairs) - pair for pair in pairs])
    return merge(tokens, tables)


def test_order_follows_the_first_cell() -> None:
    tokens = VisualTokens.from_images([torch.rand(6, 5)], [stretched(40, 60, 2, 3)])
    assert not are_merged(tokens)
    merged = merge(tokens, [[2, 0, 2, 1, 0, 2]])
    assert are_merged(merged)
    orders, repeats = text_order(merged)
    assert orders[0].tolist() == [2, 0, 1]
    assert repeats[0].tolist() == [1, 1, 0, 1, 0, 0]
    (((grid,)),) = merged_grids(merged)
    assert grid.positions.flatten().tolist() == [0, 1, 0, 2, 1, 0]
    assert grid.shares is not None
    torch.testing.assert_close(grid.shares, 1 / torch.tensor([3.0, 2, 3, 1, 2, 3]))


def test_sizes_that_sources_contradict_are_refused() -> None:
    tokens = VisualTokens.from_images([torch.rand(6, 5)], [stretched(40, 60, 2, 3)])
    merged = merge(tokens, [[0, 0, 0, 1, 1, 1]])
    wrong = replace(merged, sizes=torch.tensor([[4, 2]]))
    with pytest.raises(InputError, match=r"image 0: 2 tokens of sizes \[4, 2\] hold \[3, 3\]"):
        text_order(wrong)


def prepared(family: str, padding: Any = "right") -> Any:
    host = build_tiny(family)
    base = build_base(host)
    base.collator.padding = padding
    batch = base.collator(conversations())
    return host, batch, host.encode(batch.host_images, batch.geometries)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "deepseek_vl", "janus"])
@torch.no_grad()
def test_merged_tokens_take_the_places_of_their_first_cells(family: str, padding: str) -> None:
    host, batch, seen = prepared(family, padding)
    whole = host.splice(batch, seen.tokens, seen.extras)
    merged = halves(seen.tokens)
    spliced = host.splice(batch, merged, seen.extras)
    assert spliced.image_lengths == tuple(-(-g.count // 2) for g in batch.geometries)
    orders, repeats = text_order(merged)
    for row in range(len(batch)):
        own = [i for i, owner in enumerate(batch.image_rows.tolist()) if owner == row]
        kept = torch.cat([repeats[image] for image in own]).bool()
        real = (spliced.attention_mask[row] == 1).nonzero().flatten()
        places = spliced.sources[row, real]
        all_images = (batch.token_types[row] == IMAGE_TOKEN).nonzero().flatten()
        words = (
            (batch.token_types[row] != IMAGE_TOKEN) & (batch.attention_mask[row] == 1)
        ).nonzero()
        expected = torch.cat([all_images[kept], words.flatten()]).sort().values
        assert torch.equal(places, expected)
        assert torch.equal(spliced.input_ids[row, real], batch.input_ids[row, places])
        # Every position is the one it had.
        at = (whole.sources[row][:, None] == places).nonzero()[:, 0]
        assert torch.equal(spliced.position_ids[..., row, real], whole.position_ids[..., row, at])
        assert torch.equal(spliced.labels[row, real], whole.labels[row, at])
    hidden = host.read(spliced)
    assert hidden.shape[:2] == spliced.input_ids.shape
    flat = [merged.features[i][order] for i, order in enumerate(orders)]
    assert [len(one) for one in flat] == list(spliced.image_lengths)


@torch.no_grad()
def test_a_merge_of_nothing_reads_as_before() -> None:
    host, batch, seen = prepared("qwen2_5_vl")
    alone = merge(seen.tokens, [list(range(g.count)) for g in batch.geometries])
    assert not are_merged(alone)
    one = host.read(host.splice(batch, seen.tokens, seen.extras))
    assert torch.equal(one, host.read(host.splice(batch, alone, seen.extras)))


@torch.no_grad()
def test_equal_tokens_read_alike_in_any_order() -> None:
    """Which number a merged token has says nothing; where its cells are does."""
    host, batch, seen = prepared("qwen2_5_vl")
    pairs = [[cell // 2 for cell in range(g.count)] for g in batch.geometries]
    forward = host.splice(batch, merge(seen.tokens, pairs), seen.extras)
    backward = host.splice(batch, halves(seen.tokens), seen.extras)
    assert torch.equal(host.read(forward), host.read(backward))


def test_the_check_of_each_image_stays() -> None:
    host, batch, seen = prepared("qwen2_5_vl")
    merged = halves(seen.tokens)
    types = batch.token_types.clone()
    place = (types[1] == IMAGE_TOKEN).nonzero()[0]
    ids = batch.input_ids.clone()
    types[1, place], ids[1, place] = 0, 5
    broken = replace(batch, token_types=types, input_ids=ids)
    cells = batch.geometries[1].count
    message = rf"row 1 \(two\), image 0 of the row: {cells - 1} placeholders in the text, {cells} "
    with pytest.raises(PlaceholderError, match=message):
        host.splice(broken, merged, seen.extras)


@pytest.mark.parametrize(
    ("family", "more"),
    [("qwen3_vl", "deepstack"), ("llava_next", "coarse, newline"), ("internvl", "order, thumb")],
)
def test_a_family_that_writes_more_is_refused(family: str, more: str) -> None:
    host, batch, seen = prepared(family)
    merged = halves(seen.tokens)
    with pytest.raises(InputError, match=f"family '{family}', which also writes {more}"):
        host.splice(batch, merged, seen.extras)
