"""A session: show a model something once, ask it many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.inference.answers import Answer, Caption, Completion, Mask, Segment
from chiasm.inference.chain_of_thought import (
    ANSWER_TOKENS,
    Closer,
    Thinking,
    Thought,
    ThoughtAnswer,
    think,
)
from chiasm.inference.exhibits import Exhibit
from chiasm.inference.grounded import GroundedAnswer, ground_answer
from chiasm.inference.kept_videos import VideoInput
from chiasm.inference.pair_sights import PairSight
from chiasm.inference.pairs import Painting, ShownPair
from chiasm.inference.phrases import Extractor
from chiasm.inference.pictures import read_picture
from chiasm.inference.pointing import as_masks, as_pointing, check_phrases, choose_head
from chiasm.inference.responding import Generation, respond, respond_to
from chiasm.inference.self_check import SelfCheck, check_itself
from chiasm.inference.senses import Sensing, check_sense
from chiasm.inference.telling import tell
from chiasm.inference.videos import ShownVideo
from chiasm.models.gate_report import gated
from chiasm.models.video_language import VideoLanguage

ImageInput = str | Path | Image.Image | NDArray[np.uint8]


class Session:
    """Holds what a model is shown, so that each question costs only itself.

    `set` runs the encoders and the fusion once; every `ask` reuses what they made. The answers are
    those of `model.chat` with the same conversation.

    Args:
        model: A loaded model: `chiasm.load(...)`.

    Raises:
        InputError: It is no model that declares its senses.
    """

    def __init__(self, model: Sensing) -> None:
        if not isinstance(model, Sensing):
            raise InputError(
                f"a session needs a model, and was given {type(model).__name__}; load one first: "
                "chiasm.Session(chiasm.load('runs/dual'))"
            )
        self.model = model
        self._exhibit = Exhibit(model)

    def set(
        self,
        image: ImageInput | None = None,
        reconstruction: ImageInput | None = None,
        video: VideoInput | None = None,
        *,
        mask: ImageInput | NDArray[np.bool_] | None = None,
        image_box: Sequence[float] | None = None,
        reconstruction_box: Sequence[float] | None = None,
        domain: str | None = None,
    ) -> None:
        """Show the model something, in place of what was shown before; the history is forgotten.

        With nothing given, questions are about text alone.

        Args:
            image: A path, a PIL image, or an array HWC uint8 in [0, 255].
            reconstruction: The partly hidden thing as somebody rebuilt it; as `image`.
            video: Path of a video file, a folder of frames or a file of features; an array THWC
                uint8 (frames are 25 a second); or a source, as `data.video.ArrayFrames(array, 8)`.
            mask: The pixels of `image` that are hidden: the path of a PNG or a PIL image, where
                every value but 0 says so, or an array bool (H, W).
            image_box: The box of the whole thing in `image`, XYXY in its pixels.
            reconstruction_box: Its box in the reconstruction, in that picture's pixels.
            domain: Of the video, for a model with parts by domain and no router that finds it.

        Raises:
            InputError: The model lacks the sense, an input is of a wrong type or shape, or half of
                a pair is missing.
            DataError: A mask or box does not fit its picture.
            MediaError: A file is missing, or no image or video.
        """
        given = {"image": image, "reconstruction": reconstruction, "video": video}
        for sense, value in given.items():
            if value is not None:
                check_sense(self.model, sense)
        picture = None if image is None else read_picture(image)
        about = {"mask": mask, "image_box": image_box, "reconstruction_box": reconstruction_box}
        self._exhibit = Exhibit.show(self.model, picture, reconstruction, about, video, domain)

    def ask(
        self,
        text: str,
        *,
        keep_history: bool = False,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask about what was set.

        Each question stands alone unless `keep_history` is given.

        Args:
            text: The question.
            keep_history: Put all questions since `set`, with their answers, before this one.
            max_new_tokens: Longest answer in tokens.
            temperature: 0 takes the likeliest token, above 0 samples.
            top_p: With sampling, the share of probability that is kept, in (0, 1].
            stop: Texts that end the answer; they stay in it.
            seed: Of the sampling; None goes on with torch's own numbers.
            on_text: Receives the answer piece by piece as it is written.

        Raises:
            InputError: The model does not answer questions, nothing was set, or a setting is out
                of range.
            DataError: The text is blank or holds a special token of the host.
        """
        generation = Generation(max_new_tokens, temperature, top_p, tuple(stop), seed)
        if "video" in self.model.senses and not isinstance(self.model, VideoLanguage):
            return self.video("ask about").ask(text, generation, keep_history, on_text)
        model = self._exhibit.answering(text)
        sample = self._exhibit.sample(text, keep_history)
        shown = self._exhibit.shown
        if isinstance(self.model, VideoLanguage):
            answer = tell(self.model, self.video("ask about"), sample.turns, generation, on_text)
        elif isinstance(shown, ShownPair):
            answer = shown.answer(sample.turns, generation, on_text)
        elif shown is None:
            answer = respond_to(model, [sample], generation, on_text)[0]
        else:
            batch, sight = shown.collate(sample)
            answer = respond(model, batch, sight, generation, on_text)[0]
        self._exhibit.remember(text, answer.text)
        return answer

    def compare(self, text: str, *, max_new_tokens: int = 128) -> dict[str, Answer]:
        """Ask once with the learned gate, and once with each stream alone.

        Returns:
            Answers by `learned`, `host` and each encoder's name; the gate in each is the one used.

        Raises:
            InputError: The model has no extra encoders or no gate, or no image was set.
        """
        model = self._exhibit.answering(text)
        if isinstance(self._exhibit.shown, ShownPair) or not len(model.encoders):
            raise InputError(
                "this model has no extra encoders to compare; load a model of the family "
                "'dual_encoder' with encoders"
            )
        fusion = gated(model.fusion)
        self._exhibit.picture("compare encoders on")
        sample = self._exhibit.sample(text)
        generation = Generation(max_new_tokens)
        answers = {"learned": respond_to(model, [sample], generation)[0]}
        for name in fusion.names:
            with fusion.forced({name: 1.0}):
                answers[name] = respond_to(model, [sample], generation)[0]
        return answers

    def point(self, phrases: Sequence[str], *, mask: str | None = None) -> list[Mask]:
        """Find the pixels that each phrase means.

        The picture is read at the first call after `set`; every phrase asked later costs only
        itself.

        Args:
            phrases: At least one.
            mask: `coarse` or `refined`; None for the best that the model has.

        Raises:
            InputError: The model has no sense `point` or not that head, a phrase is blank, or no
                image was set.
        """
        model = as_pointing(self.model)
        head, wanted = choose_head(model, mask), check_phrases(phrases)
        image = self._exhibit.picture("point at")
        reading = self._exhibit.reading(model, image)
        return as_masks(model.point_at(reading, wanted, head), wanted, image)

    def converse(
        self,
        text: str,
        *,
        extractor: str | Extractor = "rules",
        mask: str | None = None,
        keep_history: bool = False,
        **generation: Any,
    ) -> GroundedAnswer:
        """Ask about what was set, and point at the phrases of the answer.

        Args:
            text: The question.
            extractor: What finds the phrases: `rules`, `spacy`, or a function that returns
                [start, stop) of each.
            mask: As for `point`.
            keep_history: As for `ask`.
            **generation: Further settings of `ask`.

        Raises:
            InputError: As for `ask` and `point`, or the extractor gave faulty spans.
            DataError: As for `ask`.
        """
        model = as_pointing(self.model)
        head, image = choose_head(model, mask), self._exhibit.picture("ground an answer in")
        self._exhibit.answering(text)
        turns = self._exhibit.sample(text, keep_history).turns
        answer = self.ask(text, keep_history=keep_history, **generation)
        return ground_answer(model, image, turns, answer, head, extractor)

    def think(
        self,
        text: str,
        thought: Thought = "object",
        *,
        mask: str | None = None,
        closer: Closer | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
    ) -> ThoughtAnswer:
        """Find what a question is about, look at it closer, then answer with both pictures.

        The history is neither read nor written. See `inference.chain_of_thought.think`.

        Raises:
            InputError: The model lacks a sense or a head, no image was set, or a setting is out of
                range.
            DataError: As for `ask`.
        """
        as_pointing(self.model)
        self._exhibit.answering(text)
        image = self._exhibit.picture("look at closer")
        model = cast("Thinking", self.model)
        return think(
            model, image, text, thought, mask=mask, closer=closer, max_new_tokens=max_new_tokens
        )

    def look(self) -> PairSight:
        """Return what the model made of image and reconstruction.

        Raises:
            InputError: The model reads no pairs, or image and reconstruction were not both set.
        """
        return self._exhibit.pair("look at").sight

    def complete(
        self,
        text: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        guidance: float = 1.0,
        seed: int | None = None,
    ) -> Completion:
        """Answer about the thing that is partly hidden, and draw the picture complete.

        The history is neither read nor written.

        Args:
            text: The question; it is answered greedily, and the picture drawn after the answer.
            max_new_tokens: Longest answer in tokens.
            temperature: Of the drawing: 0 takes the likeliest code, above 0 samples.
            top_k: How many of the likeliest codes may be drawn; 0 for all.
            guidance: Classifier-free guidance of the drawing; 1 is none.
            seed: Seed of the drawing, the same alone as in `pairs.batch`; None goes on with
                torch's own numbers.

        Raises:
            InputError: The model has no sense `complete`, image and reconstruction were not both
                set, or a setting is out of range.
            DataError: As for `ask`.
        """
        check_sense(self.model, "complete")
        shown = self._exhibit.pair("complete")
        self._exhibit.answering(text)
        painting = Painting(temperature, top_k, guidance, seed)
        turns = self._exhibit.sample(text).turns
        return shown.complete(turns, Generation(max_new_tokens), painting)

    def self_check(self, text: str, **settings: Any) -> SelfCheck:
        """Ask, let the model judge whether it saw clearly, and look closer where it did not.

        The history is neither read nor written. See `inference.self_check.check_itself` for the
        settings.

        Raises:
            InputError: The model reads no pairs, or image and reconstruction were not both set.
            DataError: As for `ask`.
        """
        shown = self._exhibit.pair("check itself on")
        self._exhibit.answering(text)
        return check_itself(shown, text, **settings)

    def watch(self) -> list[Segment]:
        """Find the actions in the video.

        Raises:
            InputError: The model has no sense `watch`, or no video was set.
        """
        check_sense(self.model, "watch")
        return self.video("watch").segments()

    def caption(self, *, max_new_tokens: int | None = None, beams: int = 1) -> Caption:
        """Say what happens in the video.

        Args:
            max_new_tokens: Most words; None for as many as the model can write.
            beams: 1 takes the likeliest word each time; more keep so many captions at once.

        Raises:
            InputError: The model has no sense `caption`, no video was set, or a number is below 1.
        """
        check_sense(self.model, "caption")
        return self.video("describe").caption(max_new_tokens, beams)

    def video(self, purpose: str = "look at") -> ShownVideo:
        """Return what is kept of the video: its times, how much moves, how many tokens it took.

        Args:
            purpose: What it is for, for the message.

        Raises:
            InputError: No video was set.
        """
        return self._exhibit.video(purpose)
