"""What a model of long videos was shown: read once, asked, described and watched many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from chiasm.core.errors import DataError, InputError
from chiasm.data.vocabulary import UNKNOWN
from chiasm.heads.captions import check_search
from chiasm.inference.answers import Answer, Caption, Choice, Segment
from chiasm.inference.kept_videos import KeptVideo, read_video, takes_domain
from chiasm.inference.responding import Generation
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import probing
from chiasm.models.video_language import VideoLanguage

LIKELIEST = 5
"""Answers that are told with their probabilities."""


def as_watching(model: Sensing) -> LongVideo:
    """Return a model as one of long videos; of one that answers by a host, what watches for it.

    Raises:
        InputError: It has no sense `video`.
    """
    check_sense(model, "video")
    if isinstance(model, VideoLanguage):
        return model.watcher
    assert isinstance(model, LongVideo)
    return model


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownVideo(KeptVideo):
    """A video that a model was shown, with what is kept of it.

    Attributes:
        model: The model.
    """

    model: LongVideo

    @classmethod
    def look(cls, model: LongVideo, video: Any, domain: str = "") -> ShownVideo:
        """Read a video.

        Args:
            model: The model.
            video: See `VideoInput`.
            domain: Of the video; read where the model does not find it itself, see `takes_domain`.

        Raises:
            InputError: It is no video, or not of the kind or length that the model reads; or its
                domain is needed and not given.
            DataError: The model does not know the domain.
            MediaError: A file cannot be read, is damaged or empty.
        """
        return cls(**vars(read_video(model, video, domain)), model=model)

    def ask(
        self,
        text: str,
        generation: Generation,
        keep_history: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer as `Session.ask`, with settings that a closed set of answers can follow.

        A request for a caption is answered with one, by a model that writes them.

        Raises:
            InputError: As for `answer`; the text is none, or there is something to sample, to stop
                at or to remember.
            DataError: As for `answer`.
        """
        if not isinstance(text, str):
            raise InputError(f"the question is of type {type(text).__name__}; allowed: a text")
        if keep_history or generation != Generation(generation.max_new_tokens):
            raise InputError(
                "this model chooses each answer out of a closed set; leave out keep_history, "
                "temperature, top_p and stop"
            )
        if self.wants_caption(text):
            answer = self.answer_with_caption(generation.max_new_tokens)
        else:
            answer = self.answer(text)
        if on_text is not None:
            on_text(answer.text)
        return answer

    def answer(self, text: str) -> Answer:
        """Answer a question out of the model's closed set.

        Raises:
            InputError: The model answers no questions, or the question is too long for it.
            DataError: The question has no word.
        """
        check_sense(self.model, "ask")
        head, vocabulary = self.model.answer_head, self.model.collator.vocabulary
        assert head is not None
        words = vocabulary.encode(text)
        if not words:
            raise DataError(f"the question {text!r} has no word; ask something")
        memory = self.memory
        ids = torch.tensor([words], device=memory.mask.device)
        with probing(self.model):
            asked = torch.zeros(1, dtype=torch.long, device=ids.device)
            scores = head(
                ids,
                torch.ones_like(ids, dtype=torch.bool),
                asked,
                memory.features,
                memory.mask,
                memory.sizes,
            )
        shares = scores[0].float().softmax(-1)
        best = shares.topk(min(LIKELIEST, len(self.model.answers)))
        likeliest = {
            self.model.answers[place]: share
            for place, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        choice = Choice(likeliest, tuple(dict.fromkeys(vocabulary.unknown(text))))
        seen = int(memory.mask.sum())
        return Answer(text=next(iter(likeliest)), prompt_tokens=seen + len(words), choice=choice)

    def wants_caption(self, text: str) -> bool:
        """Whether a text asks for a caption, and the model writes captions."""
        words = self.model.collator.captions
        return words is not None and text.strip() in words.requests

    def answer_with_caption(self, limit: int | None = None) -> Answer:
        """Return the caption of the video as an answer; see `caption`."""
        written = self.caption(limit)
        return Answer(
            text=written.text,
            finish=written.finish,
            prompt_tokens=int(self.memory.mask.sum()),
            new_tokens=len(written.tokens),
            tokens=written.tokens,
            caption=written,
        )

    def caption(self, limit: int | None = None, beams: int = 1) -> Caption:
        """Write what happens in the video.

        Args:
            limit: Most words; None for as many as the model can write, which bounds it always.
            beams: 1 takes the likeliest word each time; more keep so many captions at once.

        Raises:
            InputError: The model writes no captions, or a number is no whole one or below 1.
        """
        check_sense(self.model, "caption")
        head, words = self.model.caption_head, self.model.collator.captions
        assert head is not None and words is not None
        check_search(head.longest if limit is None else limit, beams)
        memory = self.memory
        with probing(self.model):
            (found,) = head.write(
                memory.features,
                memory.mask,
                limit=head.longest if limit is None else min(limit, head.longest),
                sizes=memory.sizes,
                beams=beams,
                never=(UNKNOWN,),
            )
        return Caption(
            text=words.vocabulary.decode(found.tokens),
            finish="stop" if found.finished else "length",
            score=found.score,
            tokens=found.tokens,
        )

    def segments(self) -> list[Segment]:
        """Return the actions that the model finds, from the highest score down.

        Raises:
            InputError: The model finds no actions, or looks at a single frame of the video.
        """
        check_sense(self.model, "watch")
        head, decoder = self.model.action_head, self.model.decoder
        assert head is not None and decoder is not None and self.pooled is not None
        if len(self.times) < 2:
            raise InputError(
                f"{self.name}: one frame of its {self.duration:g} s is looked at, and what happens "
                "takes two or more; give a longer video"
            )
        times = self.times.to(self.pooled.device)[None]
        with probing(self.model):
            mask = torch.ones(times.shape, dtype=torch.bool, device=times.device)
            named = head.predict(self.pooled, mask, times)
        (found,) = decoder.decode(named, torch.tensor([self.duration]))
        return [Segment(*segment) for segment in found.segments]


def show_video(model: Sensing, video: Any, domain: str | None) -> ShownVideo | None:
    """Read the video that a session was given, if any; arguments and errors as `ShownVideo.look`.

    Raises:
        InputError: A domain is told that nothing reads.
    """
    if domain is not None and (video is None or not takes_domain(as_watching(model))):
        raise InputError(
            f"domain {domain!r}: told of a video, and only to a model that has parts for each "
            "domain and no router; leave it out"
        )
    return None if video is None else ShownVideo.look(as_watching(model), video, domain or "")
