"""What a host that watches says of moving worlds, against what can be said without watching.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.video_language runs/tiny-video-language

Exact match on the questions of test videos, in all and by kind:

    model        the run asked about each video
    other video  the same run, shown the next video in place of the question's own
    majority     the most frequent answer to a question of the same words in training videos
    closed set   a model of long videos that chooses out of its answers (`--closed`, tiny-video)
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample
from chiasm.data.world.motion_worlds import MotionDataset
from chiasm.evaluation.protocols import Answerer
from chiasm.evaluation.provenance import code_commit, installed_versions
from chiasm.evaluation.questions import Question, split_questions
from chiasm.evaluation.video_answering import VideoAnswerer
from chiasm.evaluation.video_language_answering import VideoLanguageAnswerer
from chiasm.models.long_video import LongVideo
from chiasm.models.video_language import VideoLanguage
from chiasm.recipes.loading import load_run

TRAINING = 2000
"""Videos of the training split that the majority is counted on."""


def questions_of(world: str, split: str, seed: int, videos: int, each: int) -> list[Question]:
    """Return the questions of a moving world's videos, each by itself."""
    dataset = MotionDataset(
        world=world, split=split, seed=seed, count=videos, questions_per_video=each
    )
    return split_questions(dataset[index] for index in range(videos))


def with_other_videos(samples: Sequence[Sample]) -> list[Sample]:
    """Give each question the next video, the last one the first; questions of one stay together.

    Raises:
        InputError: There is only one video.
    """
    videos = [sample.video for sample in samples]
    changes = [0, *(i for i in range(1, len(videos)) if videos[i] is not videos[i - 1])]
    if len(changes) < 2:
        raise InputError("one video has no other to be exchanged with; give at least two")
    firsts = [*(videos[i] for i in changes[1:]), videos[0]]
    ends = [*changes[1:], len(videos)]
    return [
        replace(sample, video=other)
        for other, start, end in zip(firsts, changes, ends, strict=True)
        for sample in samples[start:end]
    ]


def majority_answers(training: Sequence[Question], asked: Sequence[Question]) -> list[str]:
    """Return for each question the most frequent answer to its words, or to its kind."""
    words: dict[str, Counter[str]] = {}
    for question in training:
        for key in (question.text, f"kind {question.kind}"):
            words.setdefault(key, Counter())[question.answers[0]] += 1
    found = [words.get(q.text) or words.get(f"kind {q.kind}", Counter({"": 1})) for q in asked]
    return [counts.most_common(1)[0][0] for counts in found]


def answers_of(answerer: Answerer, samples: Sequence[Sample], batch: int) -> list[str]:
    """Ask in batches."""
    pieces = [samples[start : start + batch] for start in range(0, len(samples), batch)]
    return [answer for piece in pieces for answer in answerer.answers(piece)]


def exact(answers: Sequence[str], asked: Sequence[Question]) -> dict[str, Any]:
    """Return the share of answers that are an accepted one, by kind and in all."""
    right: dict[str, list[bool]] = {}
    for answer, question in zip(answers, asked, strict=True):
        hit = answer.strip().lower() in question.answers
        for kind in ("all", question.kind):
            right.setdefault(kind, []).append(hit)
    return {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}


def measure(
    model: VideoLanguage, closed: LongVideo | None, world: str, seed: int, videos: int, each: int
) -> dict[str, Any]:
    """Return exact match of the model and of what it is compared with."""
    asked = questions_of(world, "test", seed, videos, each)
    samples = [question.sample for question in asked]
    teller = VideoLanguageAnswerer(model)
    training = questions_of(world, "train", 0, TRAINING, each)
    found = {
        "model": exact(answers_of(teller, samples, 8 * each), asked),
        "other video": exact(answers_of(teller, with_other_videos(samples), 8 * each), asked),
        "majority": exact(majority_answers(training, asked), asked),
    }
    if closed is not None:
        found["closed set"] = exact(answers_of(VideoAnswerer(closed), samples, 8 * each), asked)
    return {"questions": len(asked), "seed": seed, "exact match": found}


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="runs of the family video_language")
    parser.add_argument("--world", default="motion_single")
    parser.add_argument("--closed", default="tiny-video", help="a run of long_video, or 'none'")
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--questions", type=int, default=4, help="of each video")
    parser.add_argument("--seed", type=int, default=0, help="of the test videos")
    parser.add_argument("--output", type=Path, default=Path("runs/video-language.json"))
    given = parser.parse_args()
    closed = None if given.closed == "none" else load_run(given.closed)
    if closed is not None and not isinstance(closed, LongVideo):
        raise InputError(f"{given.closed} is a {type(closed).__name__}; give a run of long_video")
    results = {}
    for run in given.runs:
        model = load_run(run)
        if not isinstance(model, VideoLanguage):
            raise InputError(f"{run} is a {type(model).__name__}; give a run of video_language")
        size = (given.world, given.seed, given.videos, given.questions)
        results[run] = found = measure(model, closed, *size)
        print(f"{run}: {found['questions']} questions of {given.world}")
        for name, shares in found["exact match"].items():
            told = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
            print(f"  {name:12} {told}")
    document = {
        "results": results,
        "world": given.world,
        "code": code_commit(),
        "versions": installed_versions(),
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
