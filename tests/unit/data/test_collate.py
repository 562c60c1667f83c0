"""Collation: samples to one batch, and what happens to rows that are too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, TEXT_TOKEN
from chiasm.core.errors import DataError, InputError, MediaError, UnknownNameError
from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import ImageSource, Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.fitting import GAP
from chiasm.data.media import load_image
from chiasm.data.prompts import Prompter
from chiasm.language.host import Host
from tests.tiny import TINY_HOSTS, picture, tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module", params=sorted(TINY_HOSTS))
def any_host(request: pytest.FixtureRequest) -> Host:
    return TINY_HOSTS[request.param]()


def collator(host: Host, **options: object) -> Collator:
    return Collator(Prompter(host.tokenizer, host.image_token), host.preparer, **options)  # type: ignore[arg-type]


def sample(
    name: str, *sizes: tuple[int, int], ask: str = "What is this?", answer: str = "red"
) -> Sample:
    images = tuple(picture(*size, seed=index) for index, size in enumerate(sizes))
    turns = (Turn("user", (*range(len(sizes)), ask)), Turn("assistant", (answer,), True))
    return Sample(name, turns, images, origin=f"data.jsonl:{name}")


MIXED = [
    sample("1"),
    sample("2", (61, 83), (37, 41), answer="a long blue thing"),
    sample("3", (89, 59), ask="And?"),
]


def test_a_mixed_batch_is_consistent_with_itself(any_host: Host) -> None:
    batch = collator(any_host)(MIXED)
    size = batch.input_ids.shape
    assert batch.attention_mask.shape == batch.labels.shape == batch.token_types.shape == size
    assert batch.image_rows.tolist() == [1, 1, 2]
    assert len(batch.geometries) == 3
    assert [(g.original_height, g.original_width) for g in batch.geometries] == [
        (61, 83),
        (37, 41),
        (89, 59),
    ]
    placeholders = batch.input_ids.eq(any_host.image_token_id)
    assert torch.equal(batch.token_types.eq(IMAGE_TOKEN), placeholders)
    counts = torch.zeros(3, dtype=torch.long)
    for row, geometry in zip(batch.image_rows.tolist(), batch.geometries, strict=True):
        counts[row] += geometry.count
    assert torch.equal(placeholders.sum(1), counts)
    assert batch.samples == tuple(MIXED)
    assert batch.labels[batch.attention_mask == 0].eq(IGNORE).all()
    assert batch.token_types[batch.attention_mask == 0].eq(TEXT_TOKEN).all()
    assert batch.input_ids[batch.attention_mask == 0].eq(any_host.pad_id).all()


def test_the_batch_feeds_the_host(any_host: Host) -> None:
    batch = collator(any_host)(MIXED)
    tokens = any_host.encode(batch.host_images, batch.geometries).tokens
    assert tokens.mask.sum(1).tolist() == [geometry.count for geometry in batch.geometries]


def test_a_batch_of_three_holds_what_three_batches_hold(any_host: Host) -> None:
    made = collator(any_host)
    whole = made(MIXED)
    for row, single in enumerate(map(made, [[s] for s in MIXED])):
        length = single.input_ids.shape[1]
        assert torch.equal(whole.input_ids[row, :length], single.input_ids[0])
        assert torch.equal(whole.labels[row, :length], single.labels[0])
        assert whole.attention_mask[row].sum() == length
    images = [made([s]).host_images for s in MIXED[1:]]
    for name, tensor in whole.host_images.items():
        assert torch.equal(tensor, torch.cat([single[name] for single in images]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_moves_rows_and_changes_nothing_else(host: Host, side: str) -> None:
    batch = collator(host, padding=side)(MIXED)
    plain = collator(host)(MIXED)
    for row in range(3):
        real = batch.attention_mask[row].bool()
        assert batch.input_ids[row][real].tolist() == (
            plain.input_ids[row][plain.attention_mask[row].bool()].tolist()
        )
        assert real[0 if side == "right" else -1]
    assert batch.supervised_tokens == plain.supervised_tokens


def test_generation_pads_on_the_left_and_ends_with_the_prompt(host: Host) -> None:
    batch = collator(host).collate(MIXED, generation=True)
    assert batch.attention_mask[:, -1].eq(1).all()
    assert batch.attention_mask[0, 0] == 0
    assert batch.labels.eq(IGNORE).all()
    for row in batch.input_ids:
        assert host.tokenizer.decode(row).endswith("<|im_start|>assistant\n")


def test_text_alone_has_no_images(host: Host) -> None:
    batch = collator(host, transforms={"eye": _transform})([sample("1"), sample("2")])
    assert batch.host_images == {}
    assert batch.encoder_images == {"eye": ()}
    assert batch.image_rows.shape == (0,)
    assert batch.image_rows.dtype == torch.long
    assert batch.geometries == ()


def _transform(image: Image.Image, geometry: ImageGeometry) -> torch.Tensor:
    return torch.full((3, geometry.rows, geometry.columns), float(image.width))


def test_each_encoder_gets_each_image_with_its_own_geometry(host: Host) -> None:
    batch = collator(host, transforms={"a": _transform, "b": _transform})(MIXED)
    assert sorted(batch.encoder_images) == ["a", "b"]
    for tensor, geometry in zip(batch.encoder_images["a"], batch.geometries, strict=True):
        assert tensor.shape == (3, geometry.rows, geometry.columns)
        assert tensor[0, 0, 0] == geometry.original_width


class CountingLoader:
    """Reads images, and remembers how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, source: ImageSource) -> Image.Image:
        self.calls += 1
        return load_image(source)


def test_each_image_is_decoded_once_whatever_is_done_to_it(host: Host) -> None:
    loader = CountingLoader()
    limit = max(lengths(host, MIXED)) - 1
    made = collator(
        host,
        loader=loader,
        max_length=limit,
        over_long="shrink_image",
        transforms={"a": _transform},
    )
    made(MIXED)
    assert made.tally.totals()["images_shrunk"] == 2
    assert loader.calls == 3


def test_an_unreadable_image_is_named(host: Host) -> None:
    broken = Sample("1", (Turn("user", (0, "?")), Turn("assistant", ("a",), True)), ("gone.png",))
    with pytest.raises(MediaError, match=r"gone\.png: does not exist"):
        collator(host)([sample("2"), broken])


def test_an_image_that_the_host_refuses_is_named_by_its_sample(host: Host) -> None:
    wide = sample("wide", (3, 1206))
    with pytest.raises(MediaError, match=r"^data.jsonl:wide: .*processor refuses"):
        collator(host)([*MIXED, wide])


def test_a_video_is_not_left_out_silently(host: Host) -> None:
    watched = replace(sample("watched", (30, 44)), video=np.zeros((3, 30, 44, 3), np.uint8))
    with pytest.raises(DataError, match=r"watched.*: is about a video, and this collator shows"):
        collator(host)([*MIXED, watched])


def test_no_samples_and_wrong_options_are_refused(host: Host) -> None:
    with pytest.raises(DataError, match="empty list"):
        collator(host)([])
    with pytest.raises(InputError, match="padding 'middle'"):
        collator(host, padding="middle")
    with pytest.raises(InputError, match="max_length 0"):
        collator(host, max_length=0)
    with pytest.raises(UnknownNameError, match="'truncate'; known: drop, error"):
        collator(host, over_long="truncate")


# Dense truth ---------------------------------------------------------------------------------


def with_cells(base: Sample, cells: dict[str, object]) -> Sample:
    return Sample(base.identifier, base.turns, base.images, truth={"cells": cells}, origin="f:1")


def test_dense_labels_become_targets_and_all_else_is_ignored(host: Host) -> None:
    grids = [(g.rows, g.columns) for g in collator(host)(MIXED).geometries]
    shape = np.arange(grids[0][0] * grids[0][1]).reshape(grids[0]).astype(np.int32)
    color = np.full(grids[2], 4, dtype=np.uint8)
    samples = [
        MIXED[0],
        with_cells(MIXED[1], {"shape": [shape, None]}),
        with_cells(MIXED[2], {"color": color}),
    ]
    batch = collator(host)(samples)
    most = (max(rows for rows, _ in grids), max(columns for _, columns in grids))
    assert set(batch.targets) == {"cells.shape", "cells.color"}
    assert all(t.shape == (3, *most) and t.dtype == torch.long for t in batch.targets.values())
    shapes = batch.targets["cells.shape"]
    assert torch.equal(shapes[0, : grids[0][0], : grids[0][1]], torch.from_numpy(shape).long())
    assert shapes[1:].eq(IGNORE).all()
    colors = batch.targets["cells.color"]
    assert colors[2, : grids[2][0], : grids[2][1]].eq(4).all()
    assert colors.ne(IGNORE).sum() == grids[2][0] * grids[2][1]
    assert collator(host, dense=False)(samples).targets == {}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.zeros((2, 3), dtype=int), "the host's grid is"),
        (np.zeros((7, 4)), "float64"),
        ([np.zeros((2, 3), dtype=int)] * 2, "labels for 2 images, the sample has 1"),
    ],
)
def test_dense_labels_off_the_grid_are_refused(host: Host, cells: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collator(host)([with_cells(MIXED[2], {"shape": cells})])


# Rows that are too long ----------------------------------------------------------------------


def lengths(host: Host, samples: list[Sample]) -> list[int]:
    return collator(host)(samples).attention_mask.sum(1).tolist()


def test_by_default_a_long_row_is_an_error_with_both_numbers(host: Host) -> None:
    longest = max(lengths(host, MIXED))
    assert len(collator(host, max_length=longest)(MIXED)) == 3
    with pytest.raises(DataError, match=rf"data.jsonl:2: {longest} tokens .*{longest - 1} are all"):
        collator(host, max_length=longest - 1)(MIXED)


def test_dropped_rows_leave_with_their_images_and_are_counted(host: Host) -> None:
    limit = max(lengths(host, MIXED)) - 1
    made = collator(host, max_length=limit, over_long="drop")
    batch, plain = made(MIXED), collator(host)([MIXED[0], MIXED[2]])
    assert batch.samples == plain.samples
    assert batch.image_rows.tolist() == [1]
    for name in plain.host_images:
        assert torch.equal(batch.host_images[name], plain.host_images[name])
    assert made.tally.totals() == {"dropped": 1, "images_shrunk": 0, "texts_shortened": 0}
    with pytest.raises(DataError, match=r"every row of the batch.*data\.jsonl:2"):
        made([MIXED[1]])


@pytest.mark.parametrize("any_host", ["qwen2_5_vl", "qwen3_vl"], indirect=True)
def test_shrunken_images_fit_and_keep_their_place_in_the_original(any_host: Host) -> None:
    limit = max(lengths(any_host, MIXED)) - 9
    made = collator(any_host, max_length=limit, over_long="shrink_image")
    batch, plain = made(MIXED), collator(any_host)(MIXED)
    assert batch.attention_mask.sum(1).max() <= limit
    assert made.tally.totals()["images_shrunk"] == 2
    assert sum(g.count for g in batch.geometries) < sum(g.count for g in plain.geometries)
    for shrunk, whole in zip(batch.geometries, plain.geometries, strict=True):
        assert shrunk.original_height == whole.original_height
        assert shrunk.view_box() == pytest.approx(whole.view_box(), abs=1e-3)
    assert batch.supervised_tokens == plain.supervised_tokens
    tokens = any_host.encode(batch.host_images, batch.geometries).tokens
    assert tokens.mask.sum(1).tolist() == [geometry.count for geometry in batch.geometries]


def test_images_that_cannot_shrink_enough_are_an_error(any_host: Host) -> None:
    made = collator(any_host, max_length=60, over_long="shrink_image")
    with pytest.raises(DataError, match="even with its images at"):
        made(MIXED[1:])
    with pytest.raises(DataError, match="over_long to drop"):
        made([sample("5", ask="long " * 30)])


def test_shortened_text_keeps_both_ends_the_answer_and_the_images(host: Host) -> None:
    context = "Begin. " + "word " * 60 + "What is this?"
    long = sample("4", (61, 83), ask=context, answer="red thing")
    limit = lengths(host, [long])[0] - 57
    made = collator(host, max_length=limit, over_long="shorten_text")
    batch = made([long, MIXED[0]])
    assert batch.attention_mask.sum(1).max() <= limit
    assert batch.attention_mask[0].sum() > limit - 10, "no more is taken than needed"
    text = batch.samples[0].turns[0].text
    assert text.startswith("Begin.")
    assert text.endswith("What is this?")
    assert text.count(GAP) == 1
    assert batch.samples[0].turns[1] == long.turns[1]
    assert batch.samples[1] is MIXED[0]
    plain = collator(host)([long])
    assert torch.equal(batch.host_images["pixel_values"], plain.host_images["pixel_values"])
    assert made.tally.totals()["texts_shortened"] == 1


def test_text_with_characters_of_many_bytes_is_cut_between_characters(host: Host) -> None:
    long = sample("4", ask="für Käse 🧀🧀🧀 und Brötchen, " * 9)
    made = collator(host, max_length=lengths(host, [long])[0] - 101, over_long="shorten_text")
    text = made([long]).samples[0].turns[0].text
    before, after = text.split(GAP)
    assert long.turns[0].text.startswith(before)
    assert long.turns[0].text.endswith(after)


def test_answers_are_never_shortened(host: Host) -> None:
    long = sample("4", ask="What?", answer="very " * 50)
    with pytest.raises(DataError, match="even with its user and system texts shortened"):
        collator(host, max_length=80, over_long="shorten_text")([long])


class Rows:
    """Samples for a loader."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        return MIXED[index % 3]


def test_counts_of_loader_processes_reach_the_parent(host: Host) -> None:
    made = collator(host, max_length=max(lengths(host, MIXED)) - 1, over_long="drop")
    loader: DataLoader[Sample] = DataLoader(
        Rows(), batch_size=3, num_workers=2, collate_fn=made, multiprocessing_context="fork"
    )
    batches: Iterator[object] = iter(loader)
    assert len(list(batches)) == 2
    assert made.tally.totals()["dropped"] == 2
    # A line a process: without a lock, two that share one could lose a count.
    assert made.tally._counts.sum(1).nonzero().flatten().tolist() == [1, 2]
