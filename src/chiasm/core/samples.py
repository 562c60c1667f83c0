"""The sample: one conversation with its media and, where known, its exact truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ImageSource = Path | str | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, a PIL image, or an array HWC uint8 in [0, 255]."""


@runtime_checkable
class FrameSource(Protocol):
    """A video whose frames are made when they are asked for."""

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation time of each frame in seconds, float64 (T,), ascending."""
        ...

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last."""
        ...

    def frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames (indices, H, W, 3) uint8 RGB in [0, 255], in the order asked for."""
        ...


VideoSource = Path | str | NDArray[np.uint8] | FrameSource
"""A path of a video file, a folder of frames or a file of features, an array THWC uint8 RGB in
[0, 255], or something that makes frames on demand."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        parts: Text pieces (str) and image references (int, an index into `Sample.images`), in
            order. Each image is referred to exactly once in a sample.
        supervised: Whether training scores this turn; only assistant turns can be.
    """

    role: Role
    parts: tuple[str | int, ...]
    supervised: bool = False

    @property
    def text(self) -> str:
        """The text pieces of the turn, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))


class MaskSource(Protocol):
    """Pixels of an image, read when they are needed."""

    def read(self) -> NDArray[np.bool_]:
        """Return bool (H, W) in original pixels.

        Raises:
            DataError: The mask is broken, or of another size than it says.
            MediaError: A file of it is missing or no image.
        """
        ...


@dataclass(frozen=True)
class Phrase:
    """A piece of a turn's text that means pixels of an image.

    Attributes:
        turn: Index into `Sample.turns`.
        start: Its first character in `Turn.text`.
        stop: One past its last character.
        image: Index into `Sample.images`.
        mask: The pixels, where they are known.
        identifier: What names it in messages and predictions; unique within its sample.
        thing: Whether it means countable things rather than stuff; None where nobody said.
        plural: Whether it means several things.
    """

    turn: int
    start: int
    stop: int
    image: int = 0
    mask: MaskSource | None = None
    identifier: str = ""
    thing: bool | None = None
    plural: bool = False


Box = tuple[float, float, float, float]
"""XYXY in the pixels of an image: left, top, right, bottom."""


@dataclass(frozen=True)
class Pair:
    """What helps to see behind an occluder: the sample's image is the first of a pair.

    Attributes:
        reconstruction: The thing as somebody rebuilt it, on a plain background; it need not be
            right, nor in the right place.
        hidden: The pixels of the sample's image that are occluded, where they are known.
        image_box: The box of the whole thing, hidden parts included, in the sample's image.
        reconstruction_box: Its box in the reconstruction.
        target: The sample's image without the occluder, where it is known; of the image's size.
    """

    reconstruction: ImageSource
    hidden: MaskSource | None = None
    image_box: Box | None = None
    reconstruction_box: Box | None = None
    target: ImageSource | None = None


@dataclass(frozen=True)
class Segment:
    """Something that happens in a video.

    Attributes:
        start: When it begins, in seconds of the video's own time.
        end: When it is over, in seconds; after `start`.
        label: What happens.
    """

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Sample:
    """What every dataset format is read into.

    Attributes:
        identifier: Unique within its dataset.
        turns: The conversation, in order.
        images: The images the turns refer to.
        group: A label for grouped reports (a domain, a question kind); empty when there is none.
        truth: Exact annotations by name, where the source has them: `answers` (accepted answers),
            `kind` (question kind), `boxes`, `masks`, `cells` (dense labels). Values are plain
            Python or arrays; the documentation of each format says which it fills.
        origin: File and line the sample was read from, for messages.
        phrases: Pieces of the text that mean pixels, for grounding.
        pair: What completes the first image, for occlusion; the turns refer to the image alone.
        video: The video the conversation is about; it opens the first user turn, without a part of
            its own there.
        segments: What happens in the video and when; None where nobody said, empty where nothing
            happens.
    """

    identifier: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    group: str = ""
    truth: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    phrases: tuple[Phrase, ...] = ()
    pair: Pair | None = None
    video: VideoSource | None = None
    segments: tuple[Segment, ...] | None = None
