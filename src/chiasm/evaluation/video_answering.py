"""A model of long videos as something that answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
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
            if asks and together and together[-1].video is sample.video:
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
        collator, reading = self.model.collator, self.model.reading
        return {
            "model": self.name,
            "prompt": "the words of the question",
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "attention": type(reading.reader.mixers[0]).__name__,
            "pixels": {"size": collator.size, "sampling": collator.sampling.model_dump()},
            "memory": reading.memory,
            "answers": len(self.model.answers),
        }
