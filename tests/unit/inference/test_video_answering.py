"""The evaluation of answers about videos: each question as if asked alone, videos read once."""

from dataclasses import replace

import pytest
import torch

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Turn
from chiasm.data.video_words import VIDEO_REQUEST
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.evaluation.questions import split_questions
from chiasm.evaluation.runner import evaluate
from chiasm.evaluation.video_answering import VideoAnswerer, VideoCaptioner
from chiasm.inference.session import Session
from tests.tiny_videos import asked, noise, tiny_video
from tests.tiny_watchers import moving_square, tiny_watcher


def test_answers_are_those_of_the_head_and_a_video_is_read_once() -> None:
    model = tiny_video()
    reads: list[int] = []
    model.reading.reader.register_forward_hook(
        lambda module, given, said: reads.append(len(given[0]))
    )
    one, other = noise(7, 1), noise(5, 2)
    texts = ("What moved?", "What color turned?", "Did something blink?")
    samples = [asked(one, texts[0]), asked(one, texts[1]), asked(other, texts[2])]
    found = VideoAnswerer(model).answers(samples)
    assert reads == [2]
    for sample, answer in zip(samples, found, strict=True):
        with torch.no_grad():
            scores = model(model.collator([sample])).named["answers"]
        assert answer == model.answers[int(scores.argmax())]


def test_one_video_of_two_domains_is_read_through_each() -> None:
    caption = {"width": 26, "heads": 2, "layers": 1, "longest": 5}
    domains = {"adapters": {"rank": 2}, "router": None}
    model = tiny_video(by_domain=domains, caption_head=caption)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "head" in name:
            torch.nn.init.normal_(parameter)
    for answerer, text in ((VideoAnswerer, "What moved?"), (VideoCaptioner, VIDEO_REQUEST)):
        sample = asked(noise(7, 1), text)
        samples = [replace(sample, identifier=name, group=name) for name in ("news", "sports")]
        alone = [answerer(model).answers([one])[0] for one in samples]
        assert alone[0] != alone[1]
        assert answerer(model).answers(samples) == alone


def test_the_suite_of_answers_scores_it() -> None:
    dataset = MotionDataset(world="motion", split="test", count=3, questions_per_video=2)
    samples = [dataset[index] for index in range(3)]
    model = tiny_video()
    report = evaluate(VideoAnswerer(model, "tiny"), samples, "answers", batch_size=4)
    assert report.overall.count == len(split_questions(samples)) == 6
    truth = [sample.turns[place].text for sample in samples for place in (1, 3)]
    asked_of = [question.sample for question in split_questions(samples)]
    told = VideoAnswerer(model).answers(asked_of)
    right = sum(a == b for a, b in zip(told, truth, strict=True))
    assert report.overall.scores["exact_match"].mean == right / 6


def test_a_model_without_answers_is_refused() -> None:
    silent = tiny_video(answer_head=None, action_head={"hidden": 13, "borders": []})
    with pytest.raises(InputError, match="some-run has no head of answers"):
        VideoAnswerer(silent, "some-run")


def test_a_request_that_is_no_question_has_an_answer_of_its_own_place() -> None:
    model, video = tiny_video(), noise(5, 1)
    texts = ("What moved?", VIDEO_REQUEST, "What turned?", "What color blinked?")
    samples = [asked(video, text, name=str(n)) for n, text in enumerate(texts)]
    found = VideoAnswerer(model).answers(samples)
    alone = [VideoAnswerer(model).answers([sample])[0] for sample in samples]
    assert found == alone and len(set(found)) > 1


def test_the_last_turn_is_answered_without_the_earlier_ones() -> None:
    model, video = tiny_video(), noise(7, 1)
    texts = ("What moved?", "What color turned?", "Did something blink?", "What shape is it?")
    told = {text: VideoAnswerer(model).answers([asked(video, text)])[0] for text in texts}
    assert len(set(told.values())) > 1
    for text in texts[1:]:
        assert VideoAnswerer(model).answers([asked(video, texts[0], text)]) == [told[text]]


def test_answering_leaves_a_model_in_training_as_it_was() -> None:
    model = tiny_video(compression={"kind": "similarity", "schedule": {}}, curriculum=7).train()
    VideoAnswerer(model).answers([asked(noise(5, 1), "What moved?")])
    assert model.training and int(model.reading.progress.seen) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


CAPTION_HEAD = {"width": 26, "heads": 2, "layers": 1, "longest": 13}


def test_the_suite_of_captions_scores_what_the_caption_head_writes() -> None:
    model = tiny_watcher(caption_head=CAPTION_HEAD)
    reads: list[int] = []
    model.reading.reader.register_forward_hook(
        lambda module, given, said: reads.append(len(given[0]))
    )
    videos = [moving_square(), moving_square()[::-1].copy()]
    samples = [
        replace(
            asked(videos[place // 2], VIDEO_REQUEST, name=str(place)),
            truth={"answers": ["a square moves"]},
        )
        for place in range(3)
    ]
    samples = [
        replace(one, turns=(*one.turns, Turn("assistant", ("a square moves",), True)))
        for one in samples
    ]
    report = evaluate(VideoCaptioner(model, "tiny"), samples, "captions", batch_size=3)
    assert len(reads) == 2
    told = []
    for video in videos:
        session = Session(model)
        session.set(video=video)
        told.append(session.caption().text)
    assert [line.text for line in report.predictions] == [told[0], told[0], told[1]]
    assert not {*told} & {*model.answers} and report.context["generation"]["beams"] == 1


def test_what_asks_for_no_caption_is_not_scored_as_one() -> None:
    model = tiny_watcher(caption_head=CAPTION_HEAD)
    samples = [asked(noise(5, 1), text, name=text) for text in (VIDEO_REQUEST, "What moved?")]
    with pytest.raises(DataError, match="1 of 2 questions ask for no caption") as caught:
        VideoCaptioner(model).answers(samples)
    assert "What moved?: asks 'What moved?'" in str(caught.value)


def test_a_model_without_captions_describes_nothing() -> None:
    with pytest.raises(InputError, match="some-run has no caption head: it answers out of a clos"):
        VideoCaptioner(tiny_video(), "some-run")
