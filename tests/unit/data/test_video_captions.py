"""Captions of samples: which turns they are, their words, and what could never be written."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.batch import IGNORE
from chiasm.core.errors import ConfigError, DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video_captions import VideoCaptions
from chiasm.data.video_collate import VideoCollator
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST
from chiasm.data.vocabulary import UNKNOWN, Vocabulary
from chiasm.data.world.motion_words import CAPTION_WORDS
from chiasm.data.world.motion_worlds import MotionDataset

WORDS = ("a", "red", "square", "moves", "then", "turns")
OTHER_REQUEST = "Tell me what you see."


def captions(**changes: Any) -> VideoCaptions:
    settings = {"requests": (VIDEO_REQUEST, OTHER_REQUEST), "longest": 7, **changes}
    return VideoCaptions(settings.pop("words", WORDS), **settings)


def sample(*said: tuple[str, str | None], name: str = "one") -> Sample:
    turns: list[Turn] = []
    for request, answer in said:
        turns.append(Turn("user", (request,)))
        if answer is not None:
            turns.append(Turn("assistant", (answer,), supervised=True))
    video = np.zeros((7, 10, 14, 3), np.uint8)
    return Sample(name, tuple(turns), video=video, origin="file:3")


def collator(**changes: Any) -> VideoCollator:
    words = Vocabulary(("what", "moved", *VIDEO_REQUEST.lower().rstrip(".").split()))
    return VideoCollator(words, answers=("red", "blue"), captions=captions(), **changes)


def test_captions_stand_by_video_in_their_own_words() -> None:
    both = sample(
        ("What moved?", "red"),
        (VIDEO_REQUEST, "A red square moves, then turns."),
        (f" {OTHER_REQUEST}", "Red!"),
        name="two",
    )
    silent = sample(("What moved?", "blue"))
    batch = collator()([silent, both, sample((VIDEO_REQUEST, "a square"))])
    videos = batch.videos
    assert videos is not None
    assert videos.captioned.tolist() == [1, 1, 2]
    told = [captions().vocabulary.decode(one.tolist()) for one in videos.captions]
    assert told == ["a red square moves then turns", "red", "a square"]
    # Requests for captions are no questions; a video without a question has a row without words.
    assert videos.asked.tolist() == [0, 1, 2]
    assert videos.answers.tolist() == [1, 0, IGNORE]
    assert batch.attention_mask.sum(1).tolist() == [2, 2, 0]


def test_who_learns_no_captions_leaves_them_aside() -> None:
    plain = VideoCollator(Vocabulary(("what", "moved")), answers=("red", "blue"))
    batch = plain([sample((VIDEO_REQUEST, "a zeppelin"), ("What moved?", "red"))])
    assert batch.videos is not None
    assert (batch.videos.captions, batch.videos.captioned.tolist()) == ((), [])
    assert batch.videos.answers.tolist() == [0]


def test_a_request_that_nobody_answered_has_no_caption() -> None:
    reader = captions()
    assert reader.read(sample((VIDEO_REQUEST, None))) == []
    assert reader.read(sample((ACTIONS_REQUEST, "a zeppelin"), ("What moved?", "red"))) == []


def test_words_that_cannot_be_written_are_named() -> None:
    unknown = sample((VIDEO_REQUEST, "A red zeppelin moves, then a Zeppelin explodes."))
    with pytest.raises(DataError) as caught:
        collator()([unknown])
    assert str(caught.value).splitlines()[0] == (
        "file:3 (id one): 2 word(s) of the caption are none of the 6 that the model writes: "
        "zeppelin, explodes; add them to `video.caption_words`, or leave the sample out"
    )
    with pytest.raises(DataError, match="a caption of 0 words; allowed: 1 to 7"):
        captions().read(sample((VIDEO_REQUEST, "?!")))
    long = sample((VIDEO_REQUEST, "red " * 8))
    with pytest.raises(DataError, match=r"of 8 words; .* raise `video.caption_head.longest`"):
        captions().read(long)
    assert len(captions(longest=8).read(long)[0]) == 8


def test_a_vocabulary_without_words_is_refused() -> None:
    for lacking in ({"words": ()}, {"requests": ()}):
        with pytest.raises(ConfigError, match="give at least one of each"):
            captions(**lacking)


def test_the_worlds_are_told_in_these_words() -> None:
    reader = captions(words=CAPTION_WORDS, longest=64)
    texts = set()
    for world in ("motion", "motion_single"):
        dataset = MotionDataset(world=world, count=40, task="captions")
        for index in range(40):
            (ids,) = reader.read(dataset[index])
            text = dataset[index].turns[1].text
            assert reader.vocabulary.decode(ids.tolist()) == text.replace(",", "")
            texts.update(Vocabulary.split(text))
    assert texts <= set(CAPTION_WORDS)
    assert len(CAPTION_WORDS) - len(texts) < 5


def test_numbers_that_are_no_words_have_no_text() -> None:
    words = Vocabulary(WORDS)
    assert words.decode([2, 4]) == "a square"
    assert words.decode([]) == ""
    for wrong in ([0], [UNKNOWN], [len(words)], [-1]):
        with pytest.raises(InputError, match=r"are no words; give ids from 2 to 7"):
            words.decode(wrong)


def test_captions_are_numbers_of_their_own_vocabulary() -> None:
    videos = collator()([replace(sample((VIDEO_REQUEST, "then a")), identifier="x")]).videos
    assert videos is not None
    assert torch.equal(videos.captions[0], torch.tensor([6, 2]))
