"""Samples of videos to predictions: each video is read once, whatever is asked about it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from chiasm.core.samples import Sample
from chiasm.data.video_words import NOT_CLOSED
from chiasm.inference.answers import Answer
from chiasm.inference.kept_videos import takes_domain
from chiasm.inference.videos import ShownVideo
from chiasm.models.long_video import LongVideo


def watch_samples(
    model: LongVideo,
    samples: Sequence[Sample],
    progress: Callable[[int], None] | None = None,
    *,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Answer the questions of samples, describe their videos, and find the actions in them.

    Args:
        model: The model; what it has a head for is predicted.
        samples: With videos. Each user turn is a question of its own.
        progress: Called with the number of samples that are done.
        limit: Most words of a caption; None for as many as the model can write.

    Returns:
        In the order of the samples `{"id", "text"?, "likeliest"?, "unknown_words"?, "finish"?,
        "score"?, "segments"?}`. Where the model writes captions, the text of a request for one,
        or of a sample that asks nothing, is a caption with `finish` and `score`.
        Where a sample asks several questions, each has a line of its own under the name `ID#0`,
        `ID#1`, ..., and the segments stand in one of the name `ID`.

    Raises:
        InputError: A video is not of the kind or length that the model reads.
        MediaError: A video cannot be read.
    """
    together: dict[tuple[Hashable, str], list[int]] = {}
    for place, sample in enumerate(samples):
        path = isinstance(sample.video, str | Path)
        which = str(sample.video) if path else place
        domain = sample.group if takes_domain(model) else ""
        together.setdefault((which, domain), []).append(place)
    found: dict[int, list[dict[str, Any]]] = {}
    for (_, domain), places in together.items():
        shown = ShownVideo.look(model, samples[places[0]].video, domain)
        timed = _watch(shown, [samples[place] for place in places])
        for place in places:
            found[place] = _lines(samples[place], shown, timed, limit)
        if progress is not None:
            progress(len(places))
    return [line for place in range(len(samples)) for line in found[place]]


def _watch(shown: ShownVideo, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the segments of a video; none of a still about which something else is told."""
    senses = shown.model.senses
    asks = all(any(turn.role == "user" for turn in sample.turns) for sample in samples)
    if "watch" not in senses or ((asks or "caption" in senses) and len(shown.times) < 2):
        return {}
    return {"segments": [segment.document() for segment in shown.segments()]}


def _lines(
    sample: Sample, shown: ShownVideo, timed: dict[str, Any], limit: int | None
) -> list[dict[str, Any]]:
    """Return the predictions of one sample."""
    questions = [turn.text for turn in sample.turns if turn.role == "user"]
    if not questions and "caption" in shown.model.senses:
        return [{"id": sample.identifier, **_plain(shown.answer_with_caption(limit)), **timed}]
    asked = "ask" in shown.model.senses
    said = [
        (number, _say(shown, text, limit))
        for number, text in enumerate(questions)
        if shown.wants_caption(text) or (asked and text.strip() not in NOT_CLOSED)
    ]
    name = sample.identifier
    if len(questions) == 1 and said:
        return [{"id": name, **said[0][1], **timed}]
    named = [{"id": f"{name}#{number}", **line} for number, line in said]
    return [*named, {"id": name, **timed}] if timed or not named else named


def _say(shown: ShownVideo, text: str, limit: int | None) -> dict[str, Any]:
    captioned = shown.wants_caption(text)
    return _plain(shown.answer_with_caption(limit) if captioned else shown.answer(text))


def _plain(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, **answer.family_document()}
