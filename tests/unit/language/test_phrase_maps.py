"""What phrases ask of the tap, where their tokens stand, and what its rows paint on the cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IMAGE_TOKEN, PhraseBatch
from chiasm.core.errors import InputError
from chiasm.core.sampling import resample_cells
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.protocol import CellGrid
from chiasm.language.hosts.written import whole_grid
from chiasm.language.phrase_maps import (
    image_grids,
    phrase_maps,
    phrase_queries,
    phrase_states,
    read_phrases,
)
from tests.tiny import picture
from tests.tiny_eyes import stretched
from tests.tiny_grounders import build_base, conversations, said
from tests.tiny_hosts import build_tiny
from tests.unit.language.test_merged import halves


def prepared(family: str, padding: Any = "right", cells: int = 1) -> tuple[Any, Any, Any, Any]:
    """Host, batch, its tokens (each cell's `cells` times), and both spliced."""
    host = build_tiny(family)
    base = build_base(host)
    base.collator.padding = padding
    batch = base.collator(conversations())
    seen = host.encode(batch.host_images, batch.geometries)
    tokens = seen.tokens
    if cells > 1:
        tokens = replace(
            tokens,
            features=tokens.features.repeat_interleave(cells, 1),
            cells=tokens.cells.repeat_interleave(cells, 1),
            sizes=tokens.mask.long().repeat_interleave(cells, 1),
            mask=tokens.mask.repeat_interleave(cells, 1),
            times=tokens.times.repeat_interleave(cells, 1),
        )
    return host, batch, tokens, host.splice(batch, tokens, seen.extras, cells)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next", "internvl"])
def test_queries_are_the_tokens_of_the_words(family: str, cells: int, padding: str) -> None:
    """Also where the splice has moved them, by several tokens a cell or padding on the left."""
    host, batch, _, spliced = prepared(family, padding, cells)
    asked = phrase_queries(batch.phrases, spliced)
    place = 0
    for row, sample in enumerate(batch.samples):
        for group, phrase in enumerate(sample.phrases):
            assert asked.places[place].tolist() == [row, group]
            places = asked.queries[row][asked.groups[row, group]]
            assert places.min() >= 0
            text = host.tokenizer.decode(spliced.input_ids[row, places])
            assert text == sample.turns[1].text[phrase.start : phrase.stop]
            place += 1
    assert place == len(batch.phrases)
    for row, types in enumerate(spliced.token_types):
        keys = asked.keys[row][asked.keys[row] >= 0]
        assert torch.equal(keys, (types == IMAGE_TOKEN).nonzero().flatten())
        own = [i for i, owner in enumerate(batch.image_rows.tolist()) if owner == row]
        assert len(keys) == sum(spliced.image_lengths[image] for image in own)


def test_a_token_of_two_phrases_is_asked_once_and_counts_for_both() -> None:
    _, _, _, spliced = prepared("qwen2_5_vl")
    tokens = torch.tensor([[0, 3], [0, 4], [1, 4], [1, 5], [2, 6]])
    rows = torch.tensor([0, 0, 2])
    phrases = PhraseBatch(rows=rows, images=torch.tensor([0, 0, 3]), tokens=tokens)
    asked = phrase_queries(phrases, spliced)
    assert asked.queries.tolist() == [[3, 4, 5], [-1, -1, -1], [6, -1, -1]]
    assert asked.groups[0].tolist() == [[True, True, False], [False, True, True]]
    assert not asked.groups[1].any()
    assert asked.groups[2].tolist() == [[True, False, False], [False, False, False]]
    assert asked.places.tolist() == [[0, 0], [0, 1], [2, 0]]


@pytest.mark.parametrize(("names", "named"), [((), "phrase 1 has"), (("a", "b"), r"1 \(b\) has")])
def test_a_phrase_without_a_token_is_named(names: tuple[str, ...], named: str) -> None:
    _, _, _, spliced = prepared("qwen2_5_vl")
    zeros = torch.zeros(2, dtype=torch.long)
    phrases = PhraseBatch(rows=zeros, images=zeros, tokens=torch.tensor([[0, 3]]), names=names)
    with pytest.raises(InputError, match=f"{named} no token in the text; a phrase must cover at"):
        phrase_queries(phrases, spliced)


def test_a_batch_without_phrases_is_refused() -> None:
    host, batch, _, spliced = prepared("qwen2_5_vl")
    with pytest.raises(InputError, match="no phrase to point at"):
        read_phrases(host, replace(batch, phrases=None), spliced)


def numbered(*shape: int) -> Tensor:
    """All numbers different, so that a wrong place shows."""
    count = int(torch.tensor(shape).prod())
    return torch.arange(count, dtype=torch.float32).reshape(shape) / count


def test_each_phrase_gets_its_row_its_group_and_its_image() -> None:
    """Row 0 has images of 2 x 3 and 1 x 2 cells, row 1 one of 3 x 1."""
    geometries = [stretched(40, 60, 2, 3), stretched(20, 40, 1, 2), stretched(60, 20, 3, 1)]
    rows = numbered(2, 5, 2, 8)
    maps = phrase_maps(
        rows,
        places=torch.tensor([[0, 0], [0, 1], [1, 0]]),
        images=torch.tensor([1, 0, 2]),
        image_rows=torch.tensor([0, 0, 1]),
        image_lengths=[6, 2, 3],
        grids=[whole_grid(geometry, 1) for geometry in geometries],
    )
    assert torch.equal(maps[0], rows[0, :, 0, 6:8].reshape(5, 1, 2))
    assert torch.equal(maps[1], rows[0, :, 1, 0:6].reshape(5, 2, 3))
    assert torch.equal(maps[2], rows[1, :, 0, 0:3].reshape(5, 3, 1))


def test_several_tokens_of_a_cell_are_averaged() -> None:
    geometry = stretched(40, 60, 2, 3)
    rows = numbered(1, 5, 1, 18)
    zero = torch.zeros(1, dtype=torch.long)
    (found,) = phrase_maps(
        rows, zero[None].expand(1, 2), zero, zero, [18], [whole_grid(geometry, 3)]
    )
    for cell in range(6):
        expected = rows[0, :, 0, 3 * cell : 3 * cell + 3].mean(1)
        torch.testing.assert_close(found[:, cell // 3, cell % 3], expected)


def test_a_second_grid_becomes_further_channels_on_the_first() -> None:
    """And an image that has none repeats its own, so that all phrases have equally many."""
    fine, coarse = stretched(40, 60, 4, 6), stretched(40, 60, 2, 2)
    grids = (
        CellGrid(fine, torch.arange(4, 28)[:, None]),
        CellGrid(coarse, torch.arange(4)[:, None]),
    )
    rows = numbered(1, 5, 1, 28 + 24)
    first, second = phrase_maps(
        rows,
        places=torch.zeros(2, 2, dtype=torch.long),
        images=torch.tensor([0, 1]),
        image_rows=torch.zeros(2, dtype=torch.long),
        image_lengths=[28, 24],
        grids=[grids, whole_grid(fine, 1)],
        most_grids=2,
    )
    assert first.shape == second.shape == (10, 4, 6)
    assert torch.equal(first[:5], rows[0, :, 0, 4:28].reshape(5, 4, 6))
    low = rows[0, :, 0, :4].reshape(5, 2, 2)
    torch.testing.assert_close(first[5:], resample_cells(low, coarse, fine))
    # Both cover the whole picture: the mean is about the same, and the corner is the corner's.
    assert torch.equal(first[5:, 0, 0], low[:, 0, 0])
    assert torch.equal(first[5:, -1, -1], low[:, 1, 1])
    assert torch.equal(second[:5], rows[0, :, 0, 28:].reshape(5, 4, 6))
    assert torch.equal(second[5:], second[:5])


def test_a_picture_of_one_tile_beside_one_of_several() -> None:
    """InternVL: all have the channels of two grids, and a small picture its own twice."""
    host = build_tiny("internvl")
    base = build_base(host)
    images = [picture(42, 42, 1), picture(61, 130, 2)]
    batch = base.collator([said("a", ["this"], images[:1]), said("b", ["that"], images[1:])])
    seen = host.encode(batch.host_images, batch.geometries)
    spliced = host.splice(batch, seen.tokens, seen.extras)
    assert [len(grids) for grids in image_grids(host, batch.geometries, 1, seen.tokens)] == [1, 2]
    reading = read_phrases(host, batch, spliced)
    one, several = reading.maps
    channels = 2 * 3 * 2
    assert one.shape == (channels, 3, 3)
    assert several.shape[0] == channels and several[0].numel() > 9
    assert torch.equal(one[:6], one[6:])
    assert not torch.equal(several[:6], several[6:])


def test_states_are_those_of_the_phrases_tokens_in_order() -> None:
    hidden = [numbered(2, 3, 7) + layer for layer in range(4)]
    groups = torch.tensor([[[True, False, True], [False, True, False]], [[True] * 3, [False] * 3]])
    places = torch.tensor([[0, 1], [0, 0], [1, 0]])
    one, two, three = phrase_states(hidden, groups, places)
    assert torch.equal(one, torch.stack(hidden)[:, 0, [1]])
    assert torch.equal(two, torch.stack(hidden)[:, 0, [0, 2]])
    assert torch.equal(three, torch.stack(hidden)[:, 1])


def test_cells_share_the_weight_of_the_token_that_stands_for_them() -> None:
    tokens = halves(VisualTokens.from_images([numbered(6, 5)], [stretched(40, 60, 2, 3)]))
    grids = image_grids(build_tiny("llava"), tokens.geometries, 1, tokens)
    rows = torch.rand(1, 5, 1, tokens.features.shape[1])
    zero = torch.zeros(1, dtype=torch.long)
    (found,) = phrase_maps(rows, zero[None].expand(1, 2), zero, zero, [rows.shape[-1]], grids)
    assert found.shape == (5, 2, 3)
    # Nothing is lost and nothing is added.
    torch.testing.assert_close(found.sum((1, 2)), rows[0, :, 0].sum(1))
    for cell, token in enumerate(tokens.sources[0].tolist()):
        place = torch.unique_consecutive(tokens.sources[0]).tolist().index(token)
        expected = rows[0, :, 0, place] / tokens.sizes[0, token]
        torch.testing.assert_close(found[:, cell // 3, cell % 3], expected)


def test_weights_are_those_of_the_unmerged_where_nothing_is_merged() -> None:
    host, batch, tokens, spliced = prepared("qwen2_5_vl")
    plain = read_phrases(host, batch, spliced)
    told = read_phrases(host, batch, spliced, tokens=tokens)
    for one, other in zip(plain.maps, told.maps, strict=True):
        assert torch.equal(one, other)
