"""Predictions about videos against their truth: segments, answers by kind, captions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.video_scores import read_predictions, score_videos
from chiasm.metrics import bleu, cider_d, meteor_approximate, rouge_l
from chiasm.metrics.normalisation import tokenise_caption


def videos(task: str, count: int = 12, questions: int = 1) -> list[Sample]:
    data = MotionDataset(
        world="motion",
        split="test",
        seed=3,
        count=count,
        task=task,
        questions_per_video=questions,
    )
    return [data[index] for index in range(count)]


def segments(sample: Sample, moved: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"label": s.label, "score": 0.9, "start": s.start + moved, "end": s.end + moved}
        for s in sample.segments or ()
    ]


def told_of(sample: Sample) -> dict[str, Any]:
    return {"id": sample.identifier, "text": sample.turns[-1].text, "segments": segments(sample)}


def test_the_truth_scores_all_there_is() -> None:
    samples = videos("questions")
    scores = score_videos([told_of(sample) for sample in samples], samples)
    numbers = scores.numbers()
    assert numbers["map_thumos"] == numbers["map_activitynet"] == 1.0
    assert numbers["map_thumos@0.3"] == numbers["map_activitynet@0.95"] == 1.0
    assert numbers["exact_match"] == 1.0
    assert (scores.videos, scores.unscored) == (12, {})
    kinds = {kind for sample in samples for kind in sample.truth["kinds"]}
    for kind in kinds:
        assert numbers[f"exact_match/kind/{kind}"] == 1.0
    assert {"exact_match/sports", "exact_match/news"} <= set(numbers)


def test_answers_count_by_kind() -> None:
    samples = videos("questions")
    wrong = samples[5].truth["kinds"][0]
    said = [
        {"id": s.identifier, "text": "no" if s.truth["kinds"] == [wrong] else s.turns[-1].text}
        for s in samples
    ]
    scores = score_videos(said, samples)
    numbers = scores.numbers()
    right = [s for s in samples if s.truth["kinds"] != [wrong] or "no" in s.truth["answers"][0]]
    assert numbers["exact_match"] == pytest.approx(len(right) / 12)
    assert numbers[f"exact_match/kind/{wrong}"] < 1
    assert scores.detection == {}
    assert scores.texts["answers"].overall.baseline.source == "evaluated answers"
    trained = score_videos(said, samples, train_samples=videos("questions", 5))
    assert trained.texts["answers"].overall.baseline.source == "training answers"


def test_several_questions_about_a_video() -> None:
    samples = videos("questions", count=5, questions=3)
    said = []
    for sample in samples:
        turns = [turn for turn in sample.turns if turn.supervised]
        names = (
            [sample.identifier]
            if len(turns) == 1
            else [f"{sample.identifier}#{place}" for place in range(len(turns))]
        )
        said += [{"id": name, "text": t.text} for name, t in zip(names, turns, strict=True)]
    assert len(said) > 10
    assert score_videos(said, samples).numbers()["exact_match"] == 1.0
    # Segments go with the video itself.
    said += [{"id": s.identifier, "segments": segments(s)} for s in samples]
    assert score_videos(said, samples).videos == 5


def test_moved_segments_lose_the_narrow_thresholds() -> None:
    samples = videos("actions")
    said = [{"id": s.identifier, "segments": segments(s, moved=0.25)} for s in samples]
    scores = score_videos(said, samples)
    per_threshold = scores.detection["activitynet"].per_threshold
    assert scores.numbers()["map_thumos@0.3"] == 1.0
    assert per_threshold[-1] < 0.05
    assert list(per_threshold) == sorted(per_threshold, reverse=True)
    assert (scores.texts, scores.unscored) == ({}, {})
    # The form of the ActivityNet results is the same.
    for prediction in said:
        prediction["segments"] = [
            {"label": s["label"], "score": s["score"], "segment": [s["start"], s["end"]]}
            for s in prediction["segments"]
        ]
    assert score_videos(said, samples).numbers() == scores.numbers()


def test_captions_are_scored_by_the_caption_metrics() -> None:
    samples = videos("captions")
    said = [{"id": s.identifier, "text": s.turns[-1].text[: 20 + n]} for n, s in enumerate(samples)]
    numbers = score_videos(said, samples).numbers()
    hypotheses = [tokenise_caption(line["text"]) for line in said]
    references = [[tokenise_caption(s.turns[-1].text)] for s in samples]
    assert numbers["rouge_l"] == pytest.approx(rouge_l(hypotheses, references))
    assert numbers["cider_d"] == pytest.approx(cider_d(hypotheses, references))
    assert numbers["meteor_approximate"] == pytest.approx(
        meteor_approximate(hypotheses, references)
    )
    for order, value in enumerate(bleu(hypotheses, references), 1):
        assert numbers[f"bleu_{order}"] == pytest.approx(value)
    assert "exact_match" not in numbers


def test_tasks_may_be_mixed_and_what_is_not_scored_is_counted() -> None:
    asked, described = videos("questions", 3), videos("captions", 7)
    described = [Sample(f"c/{place}", s.turns, truth=s.truth) for place, s in enumerate(described)]
    said = [{"id": s.identifier, "text": s.turns[-1].text} for s in described]
    scores = score_videos(said, [*asked, *described])
    assert set(scores.texts) == {"captions"}
    assert scores.unscored == {"answers": 3}


def test_scores_are_written(tmp_path: Path) -> None:
    samples = videos("questions", 5)
    path, lines = score_videos([told_of(s) for s in samples], samples).save(
        tmp_path / "scores.json"
    )
    assert json.loads(path.read_text())["detection"]["thumos"]["mean"] == 1.0
    assert len(lines.read_text().splitlines()) == 5


def test_predictions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a", "text": "b"}\n{"id": \n')
    with pytest.raises(DataError, match=r"1 fault\(s\)\n.*predictions\.jsonl:2"):
        read_predictions(path)
    path.write_text('{"id": "a", "text": "b"}\n')
    assert read_predictions(path) == [{"id": "a", "text": "b"}]


def test_what_is_missing_or_unknown_is_named() -> None:
    samples = videos("questions", 3)
    said = [told_of(sample) for sample in samples]
    faulty = [*said, said[0], {"id": "nobody"}, {"text": "x"}]
    with pytest.raises(DataError) as told_faults:
        score_videos(faulty, samples)
    assert told_faults.value.faults == (
        f"prediction 3: id {samples[0].identifier!r} came before",
        "prediction 4: id 'nobody' is not among the samples",
        "prediction 5: id None; give the text that names the sample",
    )
    with pytest.raises(DataError, match=r"1 of 3 without 'segments'; predict each, or none"):
        score_videos([*said[:2], {"id": said[2]["id"], "text": "x"}], samples)
    with pytest.raises(DataError, match=r"2 of 3 without 'text' \(answers\)"):
        score_videos([{"id": said[0]["id"], "text": "x"}], samples)
    said[1]["segments"][0]["end"] = -1
    with pytest.raises(InputError, match=r"item 0: segment .*start < end"):
        score_videos(said, samples)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": None}, "text None; give a text, or leave it out"),
        ({"text": 3}, "text 3; give a text"),
        ({"segments": None}, "segments None; give a list"),
        ({"segments": {"label": "move"}}, "segments {'label': 'move'}; give a list"),
        ({"segments": [{"label": ["a"], "score": 1, "start": 0, "end": 1}]}, "label ['a'] of a"),
    ],
)
def test_what_is_of_no_use_is_named_and_not_scored(changes: dict[str, Any], told: str) -> None:
    samples = videos("questions", 3)
    said = [tell | changes for tell in map(told_of, samples)]
    with pytest.raises(DataError, match=r"3 fault\(s\)") as faults:
        score_videos(said, samples)
    assert faults.value.faults[1].startswith(f"prediction 1: {told}")


def test_a_score_that_is_no_number_does_not_count_as_the_best() -> None:
    samples = videos("actions", 3)
    said = [{"id": s.identifier, "segments": segments(s)} for s in samples]
    said[0]["segments"][0]["score"] = float("nan")
    with pytest.raises(InputError, match="score nan; allowed: a finite number"):
        score_videos(said, samples)


def test_a_video_in_which_nothing_happens_counts() -> None:
    quiet, *others = videos("actions", 4)
    samples = [replace(quiet, segments=()), *others, replace(quiet, identifier="x", segments=None)]
    said = [{"id": s.identifier, "segments": segments(s)} for s in samples[:-1]]
    scores = score_videos(said, samples)
    assert (scores.videos, scores.numbers()["map_thumos"]) == (4, 1.0)
    wrong = [{"label": label, "score": 1.0, "start": 0, "end": 1} for label in ("move", "turn")]
    worse = score_videos([{**said[0], "segments": wrong}, *said[1:]], samples)
    assert worse.numbers()["map_thumos"] < 1.0
    with pytest.raises(DataError, match="1 of 4 without 'segments'"):
        score_videos(said[1:], samples)


def test_the_report_says_what_shaped_the_predictions_and_how_intervals_were_drawn() -> None:
    samples = videos("questions", 7)
    said = [told_of(sample) | {"text": "red"} for sample in samples]
    drawn = Bootstrap(seed=5, resamples=11)
    scores = score_videos(said, samples, bootstrap=drawn, settings={"dtype": "float16"}, data="d")
    document = json.dumps(scores.to_json()["texts"]["answers"])
    assert '"dtype": "float16"' in document and '"seed": 5' in document


def test_a_request_for_captions_may_be_another() -> None:
    samples = [
        replace(sample, turns=(Turn("user", ("Tell.",)), *sample.turns[1:]))
        for sample in videos("captions", 5)
    ]
    said = [{"id": s.identifier, "text": s.turns[-1].text} for s in samples]
    requests = {"Tell.", "Describe."}
    assert set(score_videos(said, samples, caption_requests=requests).texts) == {"captions"}
    assert set(score_videos(said, samples).texts) == {"answers"}
    # As the model is asked, space around a request and which one it is make no difference.
    first, *others = samples
    asked = Turn("user", ("Tell.\n",)), first.turns[1], Turn("user", ("Describe.",)), first.turns[1]
    twice = replace(first, turns=asked, truth={})
    told = [{"id": f"{first.identifier}#{place}", "text": "x"} for place in range(2)]
    found = score_videos([*told, *said[1:]], [twice, *others], caption_requests=requests)
    assert found.texts["captions"].overall.count == 6 and not found.unscored


def test_a_video_asked_for_several_things_asks_questions() -> None:
    question, action = videos("questions", 1)[0], videos("actions", 1)[0]
    both = replace(question, turns=(*action.turns, *question.turns), truth={})
    said = [
        {"id": f"{both.identifier}#{number}", "text": turn.text}
        for number, turn in enumerate(turn for turn in both.turns if turn.supervised)
    ]
    assert score_videos(said, [both]).texts["answers"].overall.count == len(said)
