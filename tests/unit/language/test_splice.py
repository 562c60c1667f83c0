"""The splice: one check an image, repeats, and what follows them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, Batch
from chiasm.core.errors import InputError, PlaceholderError
from chiasm.core.samples import Sample
from chiasm.core.tokens import VisualTokens
from chiasm.language.host import Host
from tests.tiny import picture, tiny_batch, tiny_llava, tiny_qwen2_5_vl, tiny_qwen3_vl


@pytest.fixture(scope="module")
def qwen() -> Host:
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module")
def llava() -> Host:
    return tiny_llava()


def small() -> Image.Image:
    return picture(28, 42, seed=1)


def large() -> Image.Image:
    return picture(70, 56, seed=2)


def tokens_of(host: Host, batch: Batch) -> tuple[VisualTokens, dict]:
    with torch.no_grad():
        seen = host.encode(batch.host_images, batch.geometries)
    return seen.tokens, dict(seen.extras)


def without(batch: Batch, row: int, position: int) -> Batch:
    """The batch with one position of one row taken out and padding put at its end."""

    def drop(values: torch.Tensor, fill: int) -> torch.Tensor:
        values = values.clone()
        values[row, position:-1] = values[row, position + 1 :].clone()
        values[row, -1] = fill
        return values

    return dataclasses.replace(
        batch,
        input_ids=drop(batch.input_ids, 0),
        attention_mask=drop(batch.attention_mask, 0),
        labels=drop(batch.labels, IGNORE),
        token_types=drop(batch.token_types, 0),
    )


def instead(batch: Batch, row: int, position: int, token: int, kind: int) -> Batch:
    """The batch with another token at one position."""
    input_ids, token_types = batch.input_ids.clone(), batch.token_types.clone()
    input_ids[row, position], token_types[row, position] = token, kind
    return dataclasses.replace(batch, input_ids=input_ids, token_types=token_types)


def image_positions(batch: Batch, row: int) -> list[int]:
    return (batch.token_types[row] == IMAGE_TOKEN).nonzero().flatten().tolist()


def test_features_stand_where_the_placeholders_were(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small(), "b", large()], ["no image"], [large(), "c"]])
    tokens, extras = tokens_of(qwen, batch)
    spliced = qwen.splice(batch, tokens, extras)
    assert torch.equal(spliced.input_ids, batch.input_ids)
    assert torch.equal(spliced.labels, batch.labels)
    pooled = spliced.mm_encoder_outputs["image"].pooler_output
    assert [len(image) for image in pooled] == [6, 20, 20]
    # A token a cell, and the boxes travel with the tokens.
    assert tokens.mask.sum(1).tolist() == [6, 20, 20]


def test_a_removed_placeholder_is_told_with_row_image_and_both_counts(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()], ["b", small(), "c", large()]])
    tokens, extras = tokens_of(qwen, batch)
    broken = without(batch, 1, image_positions(batch, 1)[10])
    message = r"row 1, image 1 of the row: 19 placeholders in the text, 20 visual tokens"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(broken, tokens, extras)


def test_a_surplus_placeholder_is_told(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()], ["b", small(), "c", large()]])
    tokens, extras = tokens_of(qwen, batch)
    # The vision end after the first image becomes one placeholder more.
    after = image_positions(batch, 1)[5] + 1
    broken = instead(batch, 1, after, qwen.image_token_id, IMAGE_TOKEN)
    message = r"row 1, image 0 of the row: 7 placeholders in the text, 6 visual tokens"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(broken, tokens, extras)


def test_swapped_images_are_told_although_the_totals_agree(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small(), "b", large()]])
    other = tiny_batch(qwen, [["a", large(), "b", small()]])
    tokens, extras = tokens_of(qwen, other)
    assert int(tokens.mask.sum()) == len(image_positions(batch, 0))
    message = r"row 0, image 0 of the row: 6 placeholders in the text, 20 visual tokens"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(batch, tokens, extras)


def test_images_swapped_across_rows_are_told_although_the_totals_agree(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()], ["b", large()]])
    other = tiny_batch(qwen, [["a", large()], ["b", small()]])
    tokens, extras = tokens_of(qwen, other)
    message = r"row 0, image 0 of the row: 6 placeholders in the text, 20 visual tokens"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(batch, tokens, extras)


def test_placeholders_of_a_missing_image_are_told(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small(), "b", large()]])
    alone = tiny_batch(qwen, [["a", small()]])
    tokens, extras = tokens_of(qwen, alone)
    short = dataclasses.replace(batch, image_rows=alone.image_rows)
    message = r"row 0: 20 placeholders after the last of its 1 images, where 0 visual tokens wait"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(short, tokens, extras)


def test_an_image_without_placeholders_is_told(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()], ["b"]])
    moved = dataclasses.replace(batch, image_rows=torch.tensor([1]))
    tokens, extras = tokens_of(qwen, batch)
    message = r"row 0: 6 placeholders after the last of its 0 images"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(moved, tokens, extras)
    blank = dataclasses.replace(batch, image_rows=torch.tensor([0, 0]))
    twice = tokens_of(qwen, tiny_batch(qwen, [["a", small(), large()]]))
    message = r"row 0, image 1 of the row: 0 placeholders in the text, 20 visual tokens"
    with pytest.raises(PlaceholderError, match=message):
        qwen.splice(blank, *twice)


def test_the_sample_is_named(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()]])
    tokens, extras = tokens_of(qwen, batch)
    sample = Sample(identifier="street-17", turns=())
    broken = dataclasses.replace(without(batch, 0, image_positions(batch, 0)[0]), samples=(sample,))
    with pytest.raises(PlaceholderError, match=r"row 0 \(street-17\), image 0 of the row: 5 pl"):
        qwen.splice(broken, tokens, extras)


def test_tokens_of_other_images_than_the_batchs_are_refused(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()]])
    with pytest.raises(PlaceholderError, match="0 images have visual tokens, and the batch names"):
        qwen.splice(batch, None)


def test_missing_token_types_are_refused(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()]])
    tokens, extras = tokens_of(qwen, batch)
    dropped = dataclasses.replace(batch, token_types=torch.zeros_like(batch.token_types))
    with pytest.raises(PlaceholderError, match=r"row 0, position \d+: token 261 with token type 0"):
        qwen.splice(dropped, tokens, extras)


def adjacent(host: Host, images: int, placeholders: int) -> Batch:
    """A row whose images touch: BOS-like token, all placeholders in one run, a last token."""
    prepared = host.preparer.prepare([picture(40, 50, seed=s) for s in range(images)])
    ids = torch.tensor([[1, *[host.image_token_id] * placeholders, 2]])
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=torch.full_like(ids, IGNORE),
        token_types=(ids == host.image_token_id).long() * IMAGE_TOKEN,
        host_images=prepared.tensors,
        image_rows=torch.zeros(images, dtype=torch.long),
        geometries=prepared.geometries,
    )


def test_adjacent_images_share_a_run(llava: Host) -> None:
    batch = adjacent(llava, images=3, placeholders=3 * 49)
    tokens, extras = tokens_of(llava, batch)
    spliced = llava.splice(batch, tokens, extras)
    assert len(spliced.mm_encoder_outputs["image"].pooler_output) == 3


@pytest.mark.parametrize(
    ("placeholders", "message"),
    [
        (3 * 49 - 1, "row 0, image 2 of the row: 48 placeholders in the text, 49 visual tokens"),
        (3 * 49 + 1, "row 0, image 2 of the row: 50 placeholders in the text, 49 visual tokens"),
        (2 * 49, "row 0, image 2 of the row: 0 placeholders in the text, 49 visual tokens"),
    ],
)
def test_adjacent_images_are_counted_one_by_one(
    llava: Host, placeholders: int, message: str
) -> None:
    batch = adjacent(llava, images=3, placeholders=placeholders)
    tokens, extras = tokens_of(llava, batch)
    with pytest.raises(PlaceholderError, match=message):
        llava.splice(batch, tokens, extras)


def doubled(tokens: VisualTokens) -> VisualTokens:
    """Two tokens a cell: the host's, then its negative."""

    def twice(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(2, dim=1)

    second = torch.stack([tokens.features, -tokens.features], dim=2).flatten(1, 2)
    return dataclasses.replace(
        tokens,
        features=second,
        cells=twice(tokens.cells),
        sizes=twice(tokens.sizes),
        mask=twice(tokens.mask),
        times=twice(tokens.times),
    )


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("build", [tiny_qwen2_5_vl, tiny_qwen3_vl, tiny_llava])
def test_repeats_carry_everything_along(build: type, padding: str) -> None:
    host = build()
    rows = [["a", small(), "b", large()], ["no image, but some text"], [small(), "c"]]
    batch = tiny_batch(host, rows, answers=["x", "yy", "zzz"], padding=padding)
    tokens, extras = tokens_of(host, batch)
    plain = host.splice(batch, tokens, extras)
    spliced = host.splice(batch, doubled(tokens), extras, tokens_per_cell=2)
    counts = [geometry.count for geometry in batch.geometries]
    grown = [counts[0] + counts[1], 0, counts[2]]
    lengths = [
        int(mask.sum()) + more for mask, more in zip(batch.attention_mask, grown, strict=True)
    ]
    assert spliced.attention_mask.sum(1).tolist() == lengths
    # No column is padding in every row.
    assert spliced.input_ids.shape[1] == max(lengths)
    end = spliced.attention_mask[:, -1] if padding == "left" else spliced.attention_mask[:, 0]
    assert end.tolist() == [1, 1, 1]
    for row in range(3):
        real = spliced.attention_mask[row] == 1
        sources = spliced.sources[row, real]
        assert torch.equal(sources, sources.sort().values)
        assert torch.equal(spliced.input_ids[row, real], batch.input_ids[row, sources])
        assert torch.equal(spliced.labels[row, real], batch.labels[row, sources])
        assert torch.equal(spliced.token_types[row, real], batch.token_types[row, sources])
        assert torch.equal(
            spliced.position_ids[..., row, real], plain.position_ids[..., row, sources]
        )
        assert (spliced.labels[row, ~real] == IGNORE).all()
        assert (spliced.input_ids[row, ~real] == host.pad_id).all()
    held = spliced.mm_encoder_outputs["image"].pooler_output
    assert [len(image) for image in held] == [2 * count for count in counts]


def test_rows_without_padding_can_still_be_continued_when_one_grows(llava: Host) -> None:
    letters = "b"
    while True:
        batch = tiny_batch(llava, [["a", small()], [letters]])
        if bool(batch.attention_mask.all()):
            break
        letters += "b"
        assert len(letters) < 99
    tokens, extras = tokens_of(llava, batch)
    spliced = llava.splice(batch, doubled(tokens), extras, tokens_per_cell=2)
    assert spliced.attention_mask[:, -1].tolist() == [1, 1]
    assert spliced.attention_mask[:, 0].tolist() == [1, 0]


def test_deepstack_features_go_to_the_hosts_own_tokens() -> None:
    host = tiny_qwen3_vl()
    batch = tiny_batch(host, [["a", small()]])
    tokens, extras = tokens_of(host, batch)
    spliced = host.splice(batch, doubled(tokens), extras, tokens_per_cell=2)
    levels = spliced.mm_encoder_outputs["image"].deepstack_features
    assert len(levels) == 2
    for level, expected in zip(levels, extras["deepstack"], strict=True):
        assert torch.equal(level[0][0::2], expected[0])
        assert not level[0][1::2].any()


def test_tokens_that_are_no_whole_cells_are_refused(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()]])
    tokens, extras = tokens_of(qwen, batch)
    with pytest.raises(InputError, match="image 0: 6 visual tokens with 4 tokens a cell"):
        qwen.splice(batch, tokens, extras, tokens_per_cell=4)


def test_too_few_tokens_a_cell_are_a_count_error(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["a", small()]])
    tokens, extras = tokens_of(qwen, batch)
    with pytest.raises(PlaceholderError, match="6 placeholders in the text, 3 visual tokens"):
        qwen.splice(batch, tokens, extras, tokens_per_cell=2)


def test_nothing_follows_a_row_that_ends_in_padding(qwen: Host) -> None:
    batch = tiny_batch(qwen, [["short"], ["a longer text"]])
    spliced = qwen.splice(batch, None)
    with pytest.raises(InputError, match=r"rows \[0\] end in padding.*padding on the left"):
        spliced.following(torch.tensor([[5], [6]]))
