"""What a model was shown in a session, and what was said about it; checked where it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from PIL import Image

from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Sample, Turn
from chiasm.inference.pairs import ShownPair
from chiasm.inference.pointing import Pointing
from chiasm.inference.responding import Answering
from chiasm.inference.senses import Sensing, check_sense
from chiasm.inference.showing import ShownImage, show
from chiasm.inference.videos import ShownVideo, show_video


@dataclass
class Exhibit:
    """What is shown, with what the model made of it.

    Attributes:
        model: The model.
        image: The image, if there is one.
        shown: What the model made of the image, or of the pair; None where it answers nothing.
        watched: What is kept of the video, if there is one.
        begun: Whether anything was set, be it nothing but text.
        history: Questions with their answers, in order.
    """

    model: Sensing
    image: Image.Image | None = None
    shown: ShownImage | ShownPair | None = None
    watched: ShownVideo | None = None
    begun: bool = False
    history: tuple[Turn, ...] = ()
    _reading: Any = field(default=None, init=False)

    @classmethod
    def show(
        cls,
        model: Sensing,
        image: Image.Image | None,
        reconstruction: Any,
        about: Mapping[str, Any],
        video: Any,
        domain: str | None,
    ) -> Exhibit:
        """Let the model look; arguments and errors as for `showing.show` and `show_video`."""
        shown = show(model, image, reconstruction, about)
        return cls(model, image, shown, show_video(model, video, domain), begun=True)

    def picture(self, purpose: str) -> Image.Image:
        """Return the image.

        Args:
            purpose: What it is for, for the message.

        Raises:
            InputError: No image was set.
        """
        if self.image is None:
            raise InputError(f"there is no image to {purpose}; call set(image=...) first")
        return self.image

    def pair(self, purpose: str) -> ShownPair:
        """Return what is kept of the pair; arguments as for `picture`.

        Raises:
            InputError: The model reads no pairs, or image and reconstruction were not both set.
        """
        check_sense(self.model, "reconstruction")
        if not isinstance(self.shown, ShownPair):
            raise InputError(
                f"there is no pair to {purpose}; call set(image=..., reconstruction=...) first"
            )
        return self.shown

    def video(self, purpose: str) -> ShownVideo:
        """Return what is kept of the video; arguments as for `picture`.

        Raises:
            InputError: No video was set.
        """
        if self.watched is None:
            raise InputError(f"there is no video to {purpose}; call set(video=...) first")
        return self.watched

    def reading(self, model: Pointing, image: Image.Image) -> Any:
        """Return what pointing needs of the image, which is read at the first call."""
        if self._reading is None:
            sight = self.shown.sight if isinstance(self.shown, ShownImage) else None
            seen = None if sight is None else (sight.fused, sight.extras)
            self._reading = model.read_picture(image, seen)
        return self._reading

    def answering(self, text: str) -> Answering:
        """Return the model as one that can answer a question about what was set.

        Raises:
            InputError: It answers no questions, the question is no text, or nothing was set that
                it could be asked about.
            DataError: The question is blank.
        """
        check_sense(self.model, "ask")
        if not isinstance(text, str):
            raise InputError(f"the question is of type {type(text).__name__}; allowed: a text")
        if not text.strip():
            raise DataError(f"the question is {text!r}; give a text, not blank")
        if "video" in self.model.senses:
            self.video("ask about")
        if not self.begun:
            raise InputError(
                "nothing was set to ask about; call set(image=...) first, or set() to ask about "
                "text alone"
            )
        if "reconstruction" in self.model.senses and self.shown is None:
            raise InputError(
                "this model answers about an image and its reconstruction; call "
                "set(image=..., reconstruction=...) first"
            )
        return cast("Answering", self.model)

    def sample(self, text: str, keep_history: bool = False) -> Sample:
        """Return a question about the image, after the earlier ones where they are to be kept."""
        before = self.history if keep_history else ()
        first, *others = (*before, Turn("user", (text,)))
        if self.image is None:
            return Sample("question", (first, *others))
        first = replace(first, parts=(0, *first.parts))
        return Sample("question", (first, *others), (self.image,))

    def remember(self, text: str, answer: str) -> None:
        """Keep a question and its answer."""
        self.history = (*self.history, Turn("user", (text,)), Turn("assistant", (answer,)))
