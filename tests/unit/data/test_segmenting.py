"""Pictures with masks as batches of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.errors import DataError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.mask_prompts import PromptDrawing
from chiasm.data.masks import ArrayMask
from chiasm.data.segmenting import NAME, SegmentCollator
from tests.tiny_sams import tiny_sam

HEIGHT, WIDTH = 31, 43


def box(top: int, left: int, height: int = 7, width: int = 11) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


MASKS = np.stack([box(2, 3), box(15, 20), box(20, 3)])


def sample(name: str = "a", masks: Any = MASKS) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    turns = (Turn("user", (0,)),)
    return Sample(name, turns, (Image.fromarray(pixels),), truth={"masks": masks})


def collator(further: float = 0.0, seed: int = 0, **settings: Any) -> SegmentCollator:
    transform = tiny_sam("sam").transform
    return SegmentCollator(transform, PromptDrawing(**settings), further=further, seed=seed)


def counts(batch: Any) -> list[int]:
    return batch.phrases.images.tolist()  # type: ignore[no-any-return]


def test_each_mask_is_a_phrase_with_prompts() -> None:
    batch = collator(shares={"all": 1.0}, points=2)([sample("a"), sample("b", MASKS[:1])])
    assert counts(batch) == [0, 0, 0, 1]
    assert batch.phrases is not None
    assert batch.phrases.names == ("a/0", "a/1", "a/2", "b/0")
    assert batch.phrases.tokens.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    for found, wanted in zip(batch.phrases.masks, [*MASKS, MASKS[0]], strict=True):
        assert np.array_equal(found.numpy(), wanted)
    assert [tuple(i.shape) for i in batch.encoder_images[NAME]] == [(3, 35, 35)] * 2
    assert [(g.original_height, g.original_width) for g in batch.geometries] == [(31, 43)] * 2
    kinds = batch.targets["prompts.kinds"]
    assert (kinds[:, :2] == 1).all()
    assert (kinds[:, 2] >= 1).all()
    assert batch.targets["prompts.coarse"].shape == (4, 64, 64)
    assert batch.targets["prompts.points"].shape == (4, 2, 2)
    assert (batch.targets["prompts.boxes"].sum(1) > 0).all()


def test_what_is_not_given_is_zero() -> None:
    batch = collator(shares={"box": 1.0})([sample()])
    assert batch.targets["prompts.kinds"].tolist() == [[0, 1, 0]] * 3
    assert not batch.targets["prompts.coarse"].any()
    assert not batch.targets["prompts.points"].any()


def test_masks_of_phrases_come_before_those_of_truth() -> None:
    other = box(1, 1, 5, 5)
    phrase = Phrase(turn=0, start=0, stop=0, mask=ArrayMask(other), identifier="p")
    batch = collator()([replace(sample(), phrases=(phrase,))])
    assert batch.phrases is not None
    assert len(batch.phrases) == 1
    assert np.array_equal(batch.phrases.masks[0].numpy(), other)


def test_empty_masks_are_left_out() -> None:
    batch = collator()([sample(masks=np.stack([MASKS[0], np.zeros_like(MASKS[0])]))])
    assert counts(batch) == [0]


def test_unions_and_backgrounds_come_by_chance() -> None:
    everything = MASKS.any(axis=0)
    names: set[str] = set()
    for index in range(30):
        batch = collator(further=0.5)([sample(f"s{index}")])
        assert batch.phrases is not None
        for name, mask in zip(batch.phrases.names[3:], batch.phrases.masks[3:], strict=True):
            kind = name.split("/")[1]
            names.add(kind)
            pixels = mask.numpy()
            if kind == "background":
                assert np.array_equal(pixels, ~everything)
            else:
                parts = [bool((pixels & one).any()) for one in MASKS]
                assert sum(parts) >= 2
                assert np.array_equal(pixels, MASKS[parts].any(axis=0))
    assert names == {"union", "background"}


def test_prompts_depend_on_the_sample_and_the_seed_alone() -> None:
    def coarse(samples: Sequence[Sample], seed: int = 0) -> torch.Tensor:
        return collator(seed=seed, shares={"mask": 1.0})(samples).targets["prompts.coarse"][-3:]

    alone = coarse([sample("a")])
    assert torch.equal(coarse([sample("b"), sample("a")]), alone)
    assert not torch.equal(coarse([sample("b")]), alone)
    assert not torch.equal(coarse([sample("a")], seed=1), alone)


def test_faults_name_the_sample() -> None:
    with pytest.raises(DataError, match="empty list of samples"):
        collator()([])
    with pytest.raises(DataError, match="a: no mask with a pixel"):
        collator()([sample(masks=np.zeros((1, HEIGHT, WIDTH), np.bool_))])
    with pytest.raises(DataError, match=r"mask 0 has \(31, 42\) pixels.*the image \(31, 43\)"):
        collator()([sample(masks=MASKS[:, :, 1:])])
    with pytest.raises(DataError, match="2 images; a segmenter learns from samples of one image"):
        collator()([replace(sample(), images=sample().images * 2)])
