"""Phrases in a batch: rows, images, tokens and masks agree, whatever is filled or dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chiasm.core.batch import Batch
from chiasm.core.errors import DataError
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.masks import ArrayMask
from chiasm.data.phrases import Said, naming_turns
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
    prompter = Prompter(host.tokenizer, host.image_token, host.image_text)
    return Collator(prompter, host.preparer, **options)  # type: ignore[arg-type]


def blob(height: int, width: int, seed: int) -> ArrayMask:
    return ArrayMask(np.random.default_rng(seed).random((height, width)) < 0.3, f"blob {seed}")


def pointing(name: str, size: tuple[int, int], *words: str, ask: str = "Describe it.") -> Sample:
    said = [Said(text, blob(*size, seed), f"p{seed}") for seed, text in enumerate(words)]
    turns, phrases = naming_turns(said, ask)
    return Sample(name, turns, (picture(*size),), origin=f"f:{name}", phrases=phrases)


def two_images(name: str) -> Sample:
    """Two pictures of different sizes; the user names one, the assistant the other."""
    turns = (Turn("user", (0, "and ", 1, "the cup?")), Turn("assistant", ("a dog",), True))
    phrases = (
        Phrase(0, 4, 11, image=1, mask=blob(37, 41, 1), identifier="cup"),
        Phrase(1, 2, 5, image=0, mask=blob(61, 83, 2), identifier="dog"),
    )
    return Sample(name, turns, (picture(61, 83), picture(37, 41)), phrases=phrases)


def plain(name: str) -> Sample:
    turns = (Turn("user", ("What?",)), Turn("assistant", ("red",), True))
    return Sample(name, turns, ())


def words(host: Host, batch: Batch, index: int) -> str:
    assert batch.phrases is not None
    row = int(batch.phrases.rows[index])
    places = batch.phrases.tokens[batch.phrases.tokens[:, 0] == index, 1]
    return host.tokenizer.decode(batch.input_ids[row, places].tolist()).strip()


MIXED = [plain("none"), pointing("a", (61, 83), "the red cup", "a dog"), two_images("two")]
MEANT = ["the red cup", "a dog", "the cup", "dog"]


@pytest.mark.parametrize("padding", ["right", "left"])
def test_phrases_point_at_their_rows_images_and_tokens(any_host: Host, padding: str) -> None:
    batch = collator(any_host, padding=padding)(MIXED)
    phrases = batch.phrases
    assert phrases is not None and len(phrases) == 4
    assert phrases.rows.tolist() == [1, 1, 2, 2]
    assert phrases.images.tolist() == [0, 0, 2, 1]
    assert batch.image_rows[phrases.images].equal(phrases.rows)
    assert phrases.names == ("p0", "p1", "cup", "dog")
    assert [words(any_host, batch, index) for index in range(4)] == MEANT
    assert phrases.tokens.dtype == torch.int64
    assert phrases.tokens.tolist() == sorted(phrases.tokens.tolist())
    assert set(phrases.tokens[:, 0].tolist()) == {0, 1, 2, 3}
    rows = phrases.rows[phrases.tokens[:, 0]]
    assert batch.attention_mask[rows, phrases.tokens[:, 1]].all()
    assert batch.token_types[rows, phrases.tokens[:, 1]].eq(0).all()
    for mask, image, (seed, size) in zip(
        phrases.masks,
        phrases.images.tolist(),
        [(0, (61, 83)), (1, (61, 83)), (1, (37, 41)), (2, (61, 83))],
        strict=True,
    ):
        geometry = batch.geometries[image]
        assert mask.shape == (geometry.original_height, geometry.original_width) == size
        assert np.array_equal(mask.numpy(), blob(*size, seed).array)
    moved = batch.to("cpu").phrases
    assert moved is not None and moved.masks[2].equal(phrases.masks[2])


def test_a_batch_without_phrases_has_none(host: Host) -> None:
    assert collator(host)([plain("a")]).phrases is None


def test_phrases_alone_are_something_to_learn(host: Host) -> None:
    batch = collator(host)([pointing("a", (29, 31), "the cup")])
    assert batch.supervised_tokens == 0 and batch.phrases is not None
    silent = Sample("b", pointing("a", (29, 31), "the cup").turns, (picture(29, 31),))
    with pytest.raises(DataError, match="no supervised token, so nothing to learn"):
        collator(host)([silent])


def test_generation_leaves_out_the_phrases_of_the_answer(host: Host) -> None:
    batch = collator(host).collate([two_images("two"), plain("none")], generation=True)
    assert batch.phrases is not None and batch.phrases.names == ("cup",)
    assert words(host, batch, 0) == "the cup"
    only = collator(host).collate([pointing("a", (29, 31), "the cup")], generation=True)
    assert only.phrases is None


def test_dropped_rows_take_their_phrases_along(host: Host) -> None:
    long = pointing("long", (61, 83), *[f"the {word} thing" for word in "abcdefghijklmnop"])
    short = pointing("short", (29, 31), "the cup")
    limit = collator(host)([short]).input_ids.shape[1] + 20
    made = collator(host, max_length=limit, over_long="drop")
    batch = made([long, two_images("two"), short])
    assert made.tally.totals()["dropped"] == len([long]) + (len(batch) == 1)
    assert batch.phrases is not None
    assert batch.phrases.names[-1:] == ("p0",) and words(host, batch, len(batch.phrases) - 1) == (
        "the cup"
    )
    assert batch.phrases.rows.max() == len(batch) - 1
    assert batch.image_rows[batch.phrases.images].equal(batch.phrases.rows)


def test_shrunk_images_keep_masks_in_original_pixels(host: Host) -> None:
    sample = pointing("a", (178, 202), "the cup", "a dog")
    whole = collator(host)([sample])
    limit = whole.input_ids.shape[1] - 10
    made = collator(host, max_length=limit, over_long="shrink_image")
    batch = made([sample])
    assert made.tally.totals()["images_shrunk"] == 1
    assert batch.phrases is not None and whole.phrases is not None
    assert [words(host, batch, index) for index in range(2)] == ["the cup", "a dog"]
    assert all(a.equal(b) for a, b in zip(batch.phrases.masks, whole.phrases.masks, strict=True))
    assert (batch.geometries[0].original_height, batch.geometries[0].original_width) == (178, 202)


def test_shortened_texts_never_lose_a_phrase(host: Host) -> None:
    noise = " ".join(f"word{index}" for index in range(60))
    sample = pointing("a", (29, 31), "the cup", ask=noise)
    room = collator(host)([pointing("a", (29, 31), "the cup")]).input_ids.shape[1] + 40
    made = collator(host, max_length=room, over_long="shorten_text")
    batch = made([sample])
    assert made.tally.totals()["texts_shortened"] == 1
    assert words(host, batch, 0) == "the cup"
    asked = Sample(
        "b",
        (Turn("user", (0, noise)), Turn("assistant", ("yes",), True)),
        sample.images,
        phrases=(Phrase(0, 0, 5, mask=blob(29, 31, 0)),),
    )
    with pytest.raises(DataError, match=r"but for turns with phrases that mean pixels"):
        made([asked])


def test_masks_of_another_size_and_empty_ones_are_named(host: Host) -> None:
    sample = pointing("a", (29, 31), "the cup", "a dog")
    turns, (first, second) = sample.turns, sample.phrases

    def batch_of(mask: ArrayMask | None) -> Batch:
        changed = Phrase(1, second.start, second.stop, mask=mask, identifier="p1")
        return collator(host)(
            [Sample("a", turns, sample.images, origin="f:9", phrases=(first, changed))]
        )

    with pytest.raises(
        DataError,
        match=r"f:9 \(id a\): phrase p1 'a dog': mask of 31 x 29 pixels \(height x width\), its "
        r"image has 29 x 31; give the mask in the pixels of the original image",
    ):
        batch_of(blob(31, 29, 0))
    with pytest.raises(
        DataError, match=r"phrase p1 'a dog': mask is empty, none of its 29 x 31 pixels is set"
    ):
        batch_of(ArrayMask(np.zeros((29, 31), bool)))
    with pytest.raises(DataError, match=r"phrase p1 'a dog' has no mask, while 1 of the batch's 2"):
        batch_of(None)
    with pytest.raises(DataError, match=r"phrase p1 'a dog': blob: array float64 \(29, 31\); a ma"):
        batch_of(ArrayMask(np.ones((29, 31)), "blob"))  # type: ignore[arg-type]


def test_phrases_without_masks_are_batched_for_prediction(host: Host) -> None:
    said = [Said("the cup", None, "a"), Said("a dog", None, "b")]
    turns, phrases = naming_turns(said, "Describe it.")
    batch = collator(host)([Sample("a", turns, (picture(29, 31),), phrases=phrases)])
    assert batch.phrases is not None and batch.phrases.masks == ()
    assert batch.phrases.names == ("a", "b")
