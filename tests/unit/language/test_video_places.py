"""States of a video in a prompt: one place a state, by time, and the text goes on after them."""

from dataclasses import replace

import pytest
import torch

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, Batch
from chiasm.core.errors import PlaceholderError
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.splice import Spliced
from chiasm.language.video_places import (
    fit_placeholders,
    in_order_of_time,
    write_video,
)
from tests.tiny_hosts import build_tiny
from tests.tiny_tellers import tiny_teller, told
from tests.tiny_videos import noise

GRID = ImageGeometry.from_resize((28, 42), (28, 42), (14, 14))
TIMES = ((0.5, 0.0, 2.0, 0.0), (3.0, 1.0, 0.0, 0.0))
"""Seconds of the states of two rows; the second has two real ones."""
CELLS = ((5, 0, 4, 3), (2, 1, 0, 0))
"""Of the 2 x 3 cells of a frame, the one that each state stands for."""


def states(width: int = 5) -> VisualTokens:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    return VisualTokens(
        features=torch.randn(2, 4, width, generator=generator),
        cells=GRID.cell_boxes()[torch.tensor(CELLS)],
        sizes=mask.long() * 3,
        sources=torch.where(mask, torch.arange(4), -1),
        mask=mask,
        times=torch.tensor(TIMES),
        geometries=(GRID, GRID),
    )


def prompts(host_token: int, left: bool = False) -> Batch:
    """Two rows: 2 and 1 tokens of text, 4 placeholders, 3 and 2 tokens of text."""
    one, two = [11, 12, *[host_token] * 4, 13, 14, 15], [21, *[host_token] * 4, 22, 23]
    fill = [0] * (len(one) - len(two))
    rows = [one, [*fill, *two] if left else [*two, *fill]]
    ids = torch.tensor(rows)
    return Batch(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        labels=torch.where(ids > 12, ids, IGNORE),
        token_types=torch.where(ids == host_token, IMAGE_TOKEN, 0),
    )


def test_states_stand_in_the_order_of_time_and_padding_last() -> None:
    found = in_order_of_time(states())
    assert found.times[0].tolist() == [0.0, 0.0, 0.5, 2.0]
    assert found.times[1, :2].tolist() == [1.0, 3.0]
    assert found.mask.tolist() == states().mask.tolist()
    # Of one moment, as they were; and each original token is where its features went.
    before = states()
    assert torch.equal(found.features[0, :2], before.features[0, [1, 3]])
    for row, count in enumerate((4, 2)):
        for place in range(count):
            assert torch.equal(
                found.features[row, found.sources[row, place]], before.features[row, place]
            )


@pytest.mark.parametrize("left", [False, True])
def test_placeholders_that_are_left_over_are_taken_away(left: bool) -> None:
    batch = prompts(9, left)
    found = fit_placeholders(batch, [4, 2], pad_id=0)
    second = [21, 9, 9, 22, 23]
    fill = [0] * 4
    assert found.input_ids.tolist() == [
        [11, 12, 9, 9, 9, 9, 13, 14, 15],
        [*fill, *second] if left else [*second, *fill],
    ]
    assert found.attention_mask.sum(1).tolist() == [9, 5]
    assert (found.token_types == IMAGE_TOKEN).sum(1).tolist() == [4, 2]
    # Labels went with their tokens.
    assert torch.equal(found.labels != IGNORE, found.input_ids > 12)
    assert found.image_rows.tolist() == [0, 1]
    shorter = fit_placeholders(batch, [1, 2], pad_id=0)
    assert shorter.input_ids.shape[1] == 6


def test_rows_without_padding_are_filled_where_they_can_still_be_continued() -> None:
    batch = prompts(9)
    rows = batch.input_ids[[0, 0]]
    full = replace(
        batch,
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        labels=batch.labels[[0, 0]],
        token_types=batch.token_types[[0, 0]],
    )
    found = fit_placeholders(full, [4, 1], pad_id=0)
    assert found.input_ids[1].tolist() == [0, 0, 0, 11, 12, 9, 13, 14, 15]
    assert found.attention_mask[1].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_more_states_than_placeholders_are_an_error() -> None:
    with pytest.raises(PlaceholderError, match="row 1: 5 states of its video for 4 placeholders"):
        fit_placeholders(prompts(9), [4, 5], pad_id=0)


def spliced(family: str, left: bool = False) -> Spliced:
    host = build_tiny(family)
    shown = in_order_of_time(states(host.token_width))
    return write_video(host, prompts(host.image_token_id, left), shown, shown.features)


def test_time_row_and_column_are_positions_of_a_host_that_rotates_by_them() -> None:
    host = build_tiny("qwen2_5_vl")
    host.model.config.vision_config.tokens_per_second = 3
    shown = in_order_of_time(states(host.token_width))
    found = write_video(host, prompts(host.image_token_id), shown, shown.features)
    time, row, column = found.position_ids[:, 0].tolist()
    # Cells 0, 3, 5, 4 at 0, 0, 0.5 and 2 seconds; text goes on after the largest, 2 + 2 * 3.
    assert time == [0, 1, 2, 2, 3, 8, 9, 10, 11]
    assert row == [0, 1, 2, 3, 3, 3, 9, 10, 11]
    assert column == [0, 1, 2, 2, 4, 3, 9, 10, 11]
    assert found.position_ids[0, 1, :5].tolist() == [0, 4, 10, 11, 12]


def test_text_goes_on_after_the_largest_of_time_row_and_column() -> None:
    """All is seen at once in a frame of 2 x 3 cells, so that the column is the largest."""
    host = build_tiny("qwen2_5_vl")
    shown = states(host.token_width)
    shown = replace(shown, times=torch.zeros_like(shown.times))
    found = write_video(host, prompts(host.image_token_id), shown, shown.features)
    # Cells 5, 0, 4, 3 from position 2 on; column 2 of the first of them is the largest.
    assert found.position_ids[:, 0, 2:6].tolist() == [[2, 2, 2, 2], [3, 2, 3, 3], [4, 2, 3, 2]]
    assert found.position_ids[:, 0, 6:].tolist() == [[5, 6, 7]] * 3


def test_without_a_clock_time_goes_from_moment_to_moment() -> None:
    time = spliced("qwen3_vl").position_ids[0, 0].tolist()
    assert time[2:6] == [2, 2, 3, 4]
    assert time[6:] == [5, 6, 7]


def test_a_host_that_counts_goes_on_counting() -> None:
    found = spliced("llava", left=True)
    assert found.position_ids.dim() == 2
    assert found.position_ids[0].tolist() == list(range(9))
    assert found.position_ids[1, 4:].tolist() == list(range(5))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_padding_on_the_left_moves_no_position(family: str) -> None:
    one, other = spliced(family), spliced(family, left=True)
    assert torch.equal(one.position_ids[:, 1, :5], other.position_ids[:, 1, 4:])
    assert not other.position_ids[:, 1, :4].any()


def test_the_host_reads_what_the_library_reads_of_the_same_embeddings() -> None:
    model = tiny_teller("llava")
    batch = model.collator([told(noise(1), "What moved?", "it")])
    with torch.no_grad():
        shown = in_order_of_time(model.see(batch))
        features = model.projector(shown)
        found = write_video(model.host, batch, shown, features)
        ours = model.host.logits(model.host.read(found))
        embeddings = model.host.model.get_input_embeddings()(found.input_ids)
        embeddings[found.token_types == IMAGE_TOKEN] = features[0]
        theirs = model.host.model(
            inputs_embeds=embeddings, attention_mask=found.attention_mask
        ).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_row_may_be_taken_several_times() -> None:
    taken = states().take(torch.tensor([1, 0, 1]))
    assert taken.times.tolist() == [list(TIMES[1]), list(TIMES[0]), list(TIMES[1])]
    assert len(replace(taken).geometries) == 3
