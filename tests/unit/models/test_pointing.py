"""Pointing at a picture that was read, at pieces of a text, and how a mask is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.errors import ChiasmError, DataError, InputError
from chiasm.core.outputs import Outputs
from chiasm.models import pointing
from chiasm.models.grounding import Grounding
from chiasm.models.phrase_samples import request_about
from chiasm.models.pointing import decide
from chiasm.models.probes import probing
from tests.tiny_eyes import stretched
from tests.tiny_grounders import build_grounder, pictures, said


@pytest.fixture(scope="module")
def model() -> Grounding:
    return build_grounder("qwen2_5_vl")


def messages(*images: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}]


def test_many_phrases_are_read_in_pieces(model: Grounding, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = pictures(1)
    words = ["the cup", "it", "red", "a box on the left", "b"]
    reading = model.read_picture(image)
    together = model.point_at(reading, words)
    monkeypatch.setattr(pointing, "PHRASES_AT_ONCE", 2)
    calls: list[Any] = []
    ask = type(reading.prefix).ask
    monkeypatch.setattr(
        type(reading.prefix), "ask", lambda *a, **k: calls.append(k) or ask(*a, **k)
    )
    pieces = model.point_at(reading, words)
    assert len(calls) == 3
    for (one, score), (other, again) in zip(together, pieces, strict=True):
        assert (one ^ other).mean() < 0.002 and score == pytest.approx(again, abs=1e-4)
    assert model.point_at(reading, []) == []


def test_a_picture_is_read_once(model: Grounding, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,) = pictures(1)
    reading = model.read_picture(image)
    for part in (model.base, model.masks):
        name = "see" if part is model.base else "embed"
        monkeypatch.setattr(part, name, lambda batch: pytest.fail("the picture is read again"))
    assert len(model.point_at(reading, ["a", "b"])) == 2


def test_what_was_seen_of_a_picture_is_not_looked_at_again(
    model: Grounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, other = pictures(2)
    calls: list[Any] = []
    see = model.base.see
    monkeypatch.setattr(model.base, "see", lambda batch: calls.append(batch) or see(batch))
    expected = model.point_at(model.read_picture(image), ["the cup"])
    batch, another = (
        model.collator.collate([request_about(one, "What?")], generation=True)
        for one in (image, other)
    )
    with probing(model):
        seen = see(batch)
    calls.clear()
    (found,) = model.point_at(model.read_picture(image, seen), ["the cup"])
    assert calls == []
    assert np.array_equal(found[0], expected[0][0]) and found[1] == expected[0][1]
    # Of cells that are not the picture's own nothing is taken.
    assert another.geometries != batch.geometries
    (found,) = model.point_at(model.read_picture(other, seen), ["the cup"])
    assert len(calls) == 1 and found[0].shape == (other.height, other.width)


def test_the_head_is_the_one_that_is_named(model: Grounding) -> None:
    (image,) = pictures(1)
    reading = model.read_picture(image)
    coarse = model.point_at(reading, ["the cup"], "coarse")
    refined = model.point_at(reading, ["the cup"], "refined")
    default = model.point_at(reading, ["the cup"])
    assert not np.array_equal(coarse[0][0], refined[0][0])
    assert np.array_equal(default[0][0], refined[0][0])
    with pytest.raises(InputError, match="mask 'fine' is none of coarse, refined; name one"):
        model.point_at(reading, ["the cup"], "fine")
    plain = build_grounder("qwen2_5_vl", refines=False)
    with pytest.raises(InputError, match="mask 'refined' is none of coarse; name one"):
        plain.point_at(plain.read_picture(image), ["the cup"], "refined")


def test_blank_phrases_and_special_tokens_are_refused(model: Grounding) -> None:
    reading = model.read_picture(pictures(1)[0])
    with pytest.raises(ChiasmError, match="blank"):
        model.point_at(reading, ["cup", "  "])
    with pytest.raises(DataError, match="im_end"):
        model.point_at(reading, ["cup<|im_end|>"])


def test_a_template_that_rewrites_the_request_is_refused(model: Grounding) -> None:
    reading = model.read_picture(pictures(1)[0])
    other = replace(reading, prompt=reading.prompt + 1)
    with pytest.raises(InputError, match="phrase 'cup' changes how the host's chat template"):
        model.point_at(other, ["cup"])


def test_pieces_of_a_text_mean_the_picture_that_was_given(model: Grounding) -> None:
    one, two = pictures(2)
    text = "the cup and it"
    spans = [(0, 7), (12, 14)]
    found = model.ground_text(two, messages(one, two), text, spans)
    expected = said("x", [text], [one, two], asks="What?")
    phrases = [
        replace(expected.phrases[0], start=start, stop=stop, image=1, identifier=f"{start}")
        for start, stop in spans
    ]
    unmasked = tuple(replace(phrase, mask=None) for phrase in phrases)
    batch = model.collator([replace(expected, phrases=unmasked)])
    for (mask, score), (other, again) in zip(found, model.predict(batch), strict=True):
        assert mask.shape == (two.height, two.width)
        assert np.array_equal(mask, other) and score == again
    first = model.ground_text(one, messages(one, two), text, spans[:1], "coarse")
    assert first[0][0].shape == (one.height, one.width)


def test_a_picture_of_no_conversation_is_refused(model: Grounding) -> None:
    one, two = pictures(2)
    with pytest.raises(InputError, match="none of the conversation's 2; pass the very object"):
        model.ground_text(one.copy(), messages(one, two), "it", [(0, 2)])
    # Where there is one picture only, it can be no other.
    alone = model.ground_text(one.copy(), messages(one), "it", [(0, 2)])
    assert np.array_equal(alone[0][0], model.ground_text(one, messages(one), "it", [(0, 2)])[0][0])


def test_a_mask_is_decided_at_one_half_on_the_original_pixels() -> None:
    geometry = stretched(40, 60, 2, 3)
    logits = torch.full((4, 6), -5.0)
    logits[:, 3:] = 3.0
    outputs = Outputs(masks={"coarse": (logits, torch.full((4, 6), -1.0))})
    (mask, score), (empty, nothing) = decide(outputs, "coarse", [geometry, geometry])
    assert mask.dtype == np.bool_ and mask.shape == (40, 60)
    assert mask[:, 33:].all() and not mask[:, :27].any()
    assert 0.85 < score < torch.sigmoid(torch.tensor(3.0))
    assert not empty.any() and nothing == 0.0


def test_the_refiners_guess_is_the_score_within_bounds() -> None:
    geometry = stretched(40, 60, 2, 3)
    logits = (torch.ones(4, 6),) * 3
    guesses = torch.tensor([0.25, 1.5, -0.5])
    outputs = Outputs(masks={"refined": logits}, named={"refined.scores": guesses})
    assert [score for _, score in decide(outputs, "refined", [geometry] * 3)] == [0.25, 1.0, 0.0]


def test_a_phrase_is_no_longer_than_the_recipe_allows(
    model: Grounding, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = model.read_picture(pictures(1)[0])
    short = len(reading.prompt) + 30
    monkeypatch.setattr(model.collator, "max_length", short)
    assert len(model.point_at(reading, ["the cup"])) == 1
    message = rf"phrase 'very .*\.\.\.: \d+ tokens .* recipe allows {short} \(data.max_length\)"
    with pytest.raises(InputError, match=message):
        model.point_at(reading, ["the cup", "very " * 40 + "old"])
