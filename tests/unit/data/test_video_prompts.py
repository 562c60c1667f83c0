"""Conversations about videos: one place for each, a budget of placeholders, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.batch import IGNORE, IMAGE_TOKEN
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Turn
from chiasm.data.video_prompts import VideoPromptCollator
from tests.tiny_tellers import BUDGET, tiny_teller, told
from tests.tiny_videos import noise

TALK = told(noise(3), "What moved?", "a square", "And then?", "it turned")


def collator(**changes: Any) -> VideoPromptCollator:
    built = tiny_teller("llava").collator
    settings = {"budget": BUDGET, **changes}
    return VideoPromptCollator(built.prompter, built.videos, **settings)


def test_the_video_opens_the_first_question_and_every_answer_is_learned() -> None:
    batch = collator()([TALK])
    text = collator().prompter.tokenizer.decode(batch.input_ids[0])
    placeholder = collator().prompter.image_token
    before, _, after = text.partition(placeholder * BUDGET)
    assert before.endswith("user\n") and after.strip().startswith("What moved?")
    assert placeholder not in before + after
    assert (batch.token_types == IMAGE_TOKEN).sum() == BUDGET
    learned = batch.input_ids[0][batch.labels[0] != IGNORE]
    said = collator().prompter.tokenizer.decode(learned)
    assert said == "a square<|im_end|>it turned<|im_end|>"
    assert batch.videos is not None
    assert [len(times) for times in batch.videos.times] == [3]
    assert batch.samples[0].identifier == "video" and not batch.geometries


def test_a_system_turn_stays_first() -> None:
    system = replace(TALK, turns=(Turn("system", ("Be brief.",)), *TALK.turns))
    batch = collator()([system])
    text = collator().prompter.tokenizer.decode(batch.input_ids[0])
    assert text.index("Be brief.") < text.index(collator().prompter.image_token)


def test_for_generation_the_last_answer_is_left_out() -> None:
    batch = collator().collate([TALK, told(noise(3, 1), "What?", "it")], generation=True)
    texts = [collator().prompter.tokenizer.decode(row) for row in batch.input_ids]
    assert "it turned" not in texts[0] and "a square" in texts[0]
    assert all(text.endswith("assistant\n") for text in texts)
    assert batch.attention_mask[:, -1].tolist() == [1, 1]
    assert bool((batch.labels == IGNORE).all())


def test_the_budget_counts_in_the_length_of_a_row() -> None:
    length = collator()([TALK]).input_ids.shape[1]
    assert collator(max_length=length)([TALK]).input_ids.shape[1] == length
    with pytest.raises(DataError, match=rf"{length} tokens \({BUDGET} of them visual\)"):
        collator(max_length=length - 1)([TALK])
    dropping = collator(max_length=length - 1, over_long="drop")
    kept = dropping([TALK, told(noise(4), "What?", "it", name="short")])
    assert [sample.identifier for sample in kept.samples] == ["short"]
    assert kept.videos is not None and [len(t) for t in kept.videos.times] == [4]
    assert dropping.tally.totals()["dropped"] == 1


def test_rows_about_one_file_share_it(tmp_path: Path) -> None:
    one, other = (told(noise(2, seed), "What?", "it") for seed in (1, 2))
    batch = collator()([one, replace(one, identifier="again"), other])
    assert batch.videos is not None and batch.videos.asked.tolist() == [0, 0, 1]
    assert batch.videos.answers.tolist() == [IGNORE] * 3


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (replace(TALK, video=None), "video: it has no video, and this model answers about one"),
        (replace(TALK, images=(noise(1)[0],)), r"1 image\(s\) beside its video"),
        (replace(TALK, turns=()), "no user turn asks about its video; add one"),
        (told(noise(1), "What?"), "no supervised token, so nothing to learn"),
        (told(noise(1), "<image>?", "it"), "'<image>', a special token of the host"),
    ],
)
def test_what_cannot_be_asked_is_named(sample: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collator()([sample])


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="a budget of 0 states for a video; give 1 or more"):
        collator(budget=0)
    with pytest.raises(InputError, match="which have no picture to shrink"):
        collator(over_long="shrink_image")
    with pytest.raises(DataError, match="an empty list of samples"):
        collator()([])
