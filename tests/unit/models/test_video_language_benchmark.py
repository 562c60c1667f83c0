"""The benchmark of hosts that watch: like with like, and controls that see no answer."""

import pytest

from benchmarks import video_language as benchmark
from chiasm.core.errors import InputError
from tests.tiny_tellers import tiny_teller
from tests.tiny_videos import tiny_video

FEW = {"kind": "uniform", "count": 5}


def test_every_question_gets_the_next_video() -> None:
    asked = benchmark.questions_of("motion_single", "test", 0, 3, 2)
    samples = [question.sample for question in asked]
    other = benchmark.with_other_videos(samples)
    videos = list(dict.fromkeys(id(sample.video) for sample in samples))
    assert len(videos) == 3
    turned = [videos[1], videos[2], videos[0]]
    where = dict(zip(videos, turned, strict=True))
    assert [id(one.video) for one in other] == [where[id(one.video)] for one in samples]
    assert [one.turns for one in other] == [one.turns for one in samples]
    with pytest.raises(InputError, match="one video has no other"):
        benchmark.with_other_videos(samples[:1])


def test_the_majority_goes_by_words_then_by_kind() -> None:
    training = benchmark.questions_of("motion_single", "train", 0, 30, 4)
    said = benchmark.majority_answers(training, training)
    best = benchmark.exact(said, training)["all"]
    constant = max(
        benchmark.exact([answer] * len(training), training)["all"] for answer in set(said)
    )
    assert constant < best < 1
    (stranger,) = benchmark.questions_of("motion_single", "test", 1, 1, 1)
    assert benchmark.majority_answers(training, [stranger])[0]


def test_all_are_asked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "TRAINING", 10)
    model = tiny_teller(sampling=FEW)
    found = benchmark.measure(model, tiny_video(sampling=FEW), "motion_single", 0, 2, 2)
    assert found["questions"] == 4
    shares = found["exact match"]
    assert set(shares) == {"model", "other video", "majority", "closed set"}
    assert len({tuple(one) for one in shares.values()}) == 1 and "all" in shares["model"]
