"""Pointing by colours and words: against the steps taken by hand, alone, together and asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.errors import ConfigError
from chiasm.data.collate import Collator
from chiasm.heads.colour_reading import ColourReading, ColourReadingConfig
from chiasm.inference.session import Session
from chiasm.models.grounding import Grounding
from chiasm.models.phrase_masks import PhraseMasks
from chiasm.models.phrase_reading import read_batch
from chiasm.models.probes import probing
from tests.tiny import picture
from tests.tiny_grounders import build_base, build_masks, build_on, conversations, only
from tests.tiny_hosts import build_tiny

SIDE = 7


def build(family: str = "llava", refines: bool = False) -> Grounding:
    host = build_tiny(family)
    head = ColourReadingConfig(width=host.width, side=SIDE, detail=3).build()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    usual = build_masks(host, refines)
    masks = PhraseMasks(mask_head=head, refiner=usual.refiner, text_layers=usual.text_layers)
    return build_on(build_base(host), masks)


@pytest.fixture(scope="module")
def model() -> Grounding:
    torch.manual_seed(8)
    return build()


def test_a_forward_equals_its_steps_and_the_host_reads_nothing(model: Grounding) -> None:
    samples = conversations()
    batch = model.collator(samples)
    assert batch.phrases is not None
    head, calls = model.masks.mask_head, []
    assert isinstance(head, ColourReading)
    hook = model.host.model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    with probing(model):
        masks = model(batch).masks["coarse"]
        assert not calls
        model.base(batch)
        hook.remove()
        assert calls  # The hook would have seen a reading.
        pictures = [image for sample in samples for image in sample.images]
        embeddings = model.host.model.get_input_embeddings()
        for index, image in enumerate(batch.phrases.images.tolist()):
            row = batch.phrases.rows[index]
            places = [place for phrase, place in batch.phrases.tokens.tolist() if phrase == index]
            said = embeddings(batch.input_ids[row, places])
            (wanted,) = head.predict([head.transform(pictures[image])], [said])
            assert masks[index].shape == (SIDE, SIDE)
            torch.testing.assert_close(masks[index], wanted, atol=1e-4, rtol=1e-4)


def test_asking_after_a_prefix_equals_predicting_the_batch(model: Grounding) -> None:
    image, phrases = picture(41, 59, 3), ["the red cup", "a box"]
    session = Session(model)
    session.set(image=image)
    found = session.point(phrases)
    for phrase, mask in zip(phrases, found, strict=True):
        assert mask.array.shape == (41, 59)
        ((alone, score),) = model.point(image, [phrase])
        assert np.array_equal(alone, mask.array)
        assert score == pytest.approx(mask.score, abs=1e-5)
    sample = only(conversations()[0], 0)
    reading = model.read_picture(sample.images[0])
    batch = model.collator([sample])
    with probing(model):
        assert torch.equal(reading.pictures[0], model.masks.pictures(batch)[0])
        words = read_batch(model, batch).words
    assert batch.phrases is not None and len(words[0]) == len(batch.phrases.tokens)


def test_the_picture_and_the_word_decide(model: Grounding) -> None:
    sample = conversations()[0]
    other = replace(sample, images=(picture(41, 59, 9),))
    with probing(model):
        cup, box = model(model.collator([sample])).masks["coarse"]
        exchanged, _ = model(model.collator([other])).masks["coarse"]
    assert not torch.allclose(cup, box, atol=0.1)
    assert not torch.allclose(cup, exchanged, atol=0.1)


def test_a_refiner_sharpens_them_and_its_text_makes_the_host_read() -> None:
    model = build(refines=True)
    batch = model.collator(conversations())
    with probing(model):
        outputs = model(batch)
        read = read_batch(model, batch)
    assert set(outputs.masks) == {"coarse", "refined"} and read.states
    assert set(model.collator.transforms) == {"refiner", "colours"}
    sizes = [tuple(one.shape) for one in outputs.masks["refined"]]
    assert sizes[0] == (41, 59)


def test_parts_cells_and_probe(model: Grounding) -> None:
    assert set(model.masks.parts) == model.masks.new_parts == {"mask_head"}
    assert set(model.probe()) == {"gradient.coarse", "checker.coarse"}
    geometry = model.collator(conversations()).geometries[0]
    cells = model.masks.cells(geometry)
    assert (cells.rows, cells.columns) == (SIDE, SIDE) == (model.masks.least,) * 2
    assert cells.view_box() == pytest.approx((0, 0, 59, 41), abs=1e-4)
    usual = build_masks(build_tiny("llava"), refines=False)
    assert usual.cells(geometry) is geometry and usual.wants_maps and not model.masks.wants_maps
    assert usual.pictures(model.collator(conversations())) == ()


def test_a_collator_without_the_colours_is_refused(model: Grounding) -> None:
    own = model.collator
    with pytest.raises(ConfigError, match=r"prepares images for none, the model reads \['colours'"):
        Grounding(
            base=model.base, masks=model.masks, collator=Collator(own.prompter, own.preparer, {})
        )
