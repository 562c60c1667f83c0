"""A model of long videos as something that answers questions, or that describes what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.conversation import name_of, shown
from chiasm.data.video_prompts import same_video
from chiasm.inference.videos import ShownVideo
from chiasm.models.long_video import ANSWERS, LongVideo
from chiasm.models.probes import probing


class VideoAnswerer:
    """Answers samples with videos in batches; see `evaluation.protocols.Answerer`.

    Questions about one video that follow each other are asked of one reading of it. A later turn is
    answered without the earlier ones: the head reads one question.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.

    Raises:
        InputError: The model has no head of answers.
    """

    def __init__(self, model: LongVideo, name: str = "") -> None:
        if model.answer_head is None:
            raise InputError(
                f"{name or 'this model'} has no head of answers; give a run that was trained with "
                "`video.answer_head`"
            )
        self.model = model
        self.name = name

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Answer the last user turn of each sample with the likeliest of the closed set."""
        together: list[Sample] = []
        for sample in samples:
            last = (Turn("user", (sample.turns[-1].text,)),)
            # What the head does not read as a question has a row of its own, without words.
            asks = all(map(self._asks, (sample, *together[-1:])))
            if asks and together and same_video(together[-1], sample):
                together[-1] = replace(together[-1], turns=together[-1].turns + last)
            else:
                together.append(replace(sample, turns=last, segments=None, truth={}))
        device = next(self.model.parameters()).device
        with probing(self.model):
            named = self.model(self.model.collator(together).to(device)).named
        return [self.model.answers[place] for place in named[ANSWERS].argmax(-1).tolist()]

    def _asks(self, sample: Sample) -> bool:
        return sample.turns[-1].text.strip() not in self.model.collator.requests

    def describe(self) -> dict[str, Any]:
        """Return what shaped the answers."""
        told = {"prompt": "the words of the question", "answers": len(self.model.answers)}
        return {**_describe(self.model, self.name), **told}


class VideoCaptioner:
    """Describes the videos of samples by the caption head; see `evaluation.protocols.Answerer`.

    Requests about one video that follow each other are answered by one reading of it.

    Args:
        model: The model.
        name: Name or directory of the run, for reports.

    Raises:
        InputError: The model has no caption head.
    """

    def __init__(self, model: LongVideo, name: str = "") -> None:
        if model.caption_head is None:
            raise InputError(
                f"{name or 'this model'} has no caption head: it answers out of a closed set, "
                "which describes nothing. Score it with the suite answers, or give a run that was "
                "trained with `video.caption_head`"
            )
        self.model = model
        self.name = name

    def check(self, samples: Sequence[Sample]) -> None:
        """Check that samples ask for captions.

        Raises:
            DataError: Some ask for something else; all of them are named.
        """
        words = self.model.collator.captions
        assert words is not None
        others = [
            f"{name_of(sample)}: asks {shown(sample.turns[-1].text)}"
            for sample in samples
            if sample.turns[-1].text.strip() not in words.requests
        ]
        if others:
            raise DataError(
                f"{len(others)} of {len(samples)} questions ask for no caption, and the caption "
                f"head answers nothing but {', '.join(map(repr, sorted(words.requests)))}; leave "
                "them out, or score them with the suite answers",
                others,
            )

    def answers(self, samples: Sequence[Sample]) -> list[str]:
        """Describe the video of each sample.

        Raises:
            DataError: As `check`.
        """
        self.check(samples)
        texts: list[str] = []
        for place, sample in enumerate(samples):
            if place and same_video(samples[place - 1], sample):
                texts.append(texts[-1])
            else:
                kept = ShownVideo.look(self.model, sample.video, sample.group)
                texts.append(kept.caption().text)
        return texts

    def describe(self) -> dict[str, Any]:
        """Return what shaped the captions."""
        head, words = self.model.caption_head, self.model.collator.captions
        assert head is not None and words is not None
        told = {
            "prompt": "a request for a caption",
            "words": len(words.vocabulary.words),
            "generation": {"max_new_tokens": head.longest, "beams": 1},
        }
        return {**_describe(self.model, self.name), **told}


def _describe(model: LongVideo, name: str) -> dict[str, Any]:
    collator, reading = model.collator, model.reading
    return {
        "model": name,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": type(reading.reader.mixers[0]).__name__,
        "pixels": {"size": collator.size, "sampling": collator.sampling.model_dump()},
        "memory": reading.memory,
    }
