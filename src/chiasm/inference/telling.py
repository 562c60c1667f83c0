"""Answers about videos in a host's own words: each video is read once, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video_prompts import same_video
from chiasm.inference.answers import Answer
from chiasm.inference.responding import Generation, write_rows
from chiasm.inference.videos import ShownVideo
from chiasm.models.probes import probing
from chiasm.models.video_language import VideoLanguage


def tell(
    model: VideoLanguage,
    shown: ShownVideo,
    turns: Sequence[Turn],
    generation: Generation,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer the last user turn of a conversation about a video.

    Args:
        model: The model.
        shown: What its watcher keeps of the video.
        turns: The conversation; the video opens its first user turn.
        generation: How to write.
        on_text: Receives the answer piece by piece as it is written.

    Raises:
        DataError: The conversation is malformed, or too long for the model's collator.
        InputError: The collator dropped it as too long, or a setting is out of range.
    """
    sample = Sample(shown.name, tuple(turns), video=shown.name)
    batch = model.collator.write([sample], generation=True).to(model.host.device)
    with probing(model):
        spliced = model.splice(batch, shown.memory)
        (answer,) = write_rows(model.host, spliced, generation, on_text)
    return answer


def tell_samples(
    model: VideoLanguage,
    samples: Sequence[Sample],
    generation: Generation,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer every question of samples, each by itself, without the turns before it.

    Args:
        model: The model.
        samples: With videos; those of one video and domain that follow each other share a reading.
        generation: How to write.
        progress: Called with the number of samples that are done.

    Returns:
        In the order of the samples `{"id", "text", ...}`; where a sample asks several questions,
        each has a line of its own under the name `ID#0`, `ID#1`, ...

    Raises:
        InputError: A sample asks nothing, or a video is not of the kind that the model reads.
        MediaError: A video cannot be read.
    """
    found: list[dict[str, Any]] = []
    shown, before = None, None
    for sample in samples:
        asked = [turn for turn in sample.turns if turn.role == "user"]
        if not asked:
            raise InputError(
                f"{sample.origin or sample.identifier}: nothing is asked about the video, and this "
                "model only answers; give a question"
            )
        if shown is None or before is None or not same_video(before, sample):
            shown = ShownVideo.look(model.watcher, sample.video, sample.group)
        before = sample
        system = tuple(turn for turn in sample.turns if turn.role == "system")
        for number, turn in enumerate(asked):
            name = sample.identifier if len(asked) == 1 else f"{sample.identifier}#{number}"
            answer = tell(model, shown, (*system, turn), generation)
            found.append({"id": name, **answer.document(maps=False)})
        if progress is not None:
            progress(1)
    return found
