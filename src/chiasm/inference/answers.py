"""What a session returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiasm.core.run_length import encode_run_length
from chiasm.core.samples import Box
from chiasm.inference.pair_sights import PairSight
from chiasm.models.gate_report import GateReport

Finish = Literal["stop", "length"]

DIGITS = 4
"""Decimals of shares in JSON."""


@dataclass(frozen=True)
class Choice:
    """How an answer was chosen out of a closed set.

    Attributes:
        likeliest: The likeliest answers with their probabilities, the chosen one first.
        unknown: Words of the question that the model does not tell apart from others.
    """

    likeliest: Mapping[str, float]
    unknown: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {"likeliest": _rounded(self.likeliest), "unknown_words": list(self.unknown)}


@dataclass(frozen=True)
class Segment:
    """An action in a video.

    Attributes:
        start: First moment in seconds.
        end: Last moment in seconds, after `start`.
        label: The action.
        score: How sure the model is, in [0, 1].
    """

    start: float
    end: float
    label: str
    score: float

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {
            "label": self.label,
            "score": round(self.score, DIGITS),
            "start": round(self.start, DIGITS),
            "end": round(self.end, DIGITS),
        }


@dataclass(frozen=True)
class Caption:
    """What happens in a video, in words.

    Attributes:
        text: The words, in lower case and without punctuation.
        finish: `stop` when the model ended it, `length` when it was cut off at the limit.
        score: Mean log probability in nats of its words, its end included where it has one.
        tokens: The words, ids of the model's vocabulary of captions.
    """

    text: str
    finish: Finish
    score: float
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {"text": self.text, "finish": self.finish, "score": round(self.score, DIGITS)}


@dataclass(frozen=True)
class Answer:
    """An answer, and what the gate did while the model looked.

    Attributes:
        text: The answer.
        finish: `stop` when the model ended it (or a stop text did), `length` when it was cut off at
            `max_new_tokens`.
        prompt_tokens: Tokens read, visual ones included.
        new_tokens: Tokens written, without the one that ends.
        report: The gate over the images, or None where there is no gate or no image.
        views: For each image the box that its gate map covers, XYXY in original pixels.
        pair: What was made of image and reconstruction, or None where no pair was shown.
        tokens: The tokens written.
        choice: How it was chosen, or None where the model wrote it freely.
        segments: What happens in the video, or None where nobody looked for that.
        caption: The caption that it is, or None where no caption was asked for.
    """

    text: str
    finish: Finish = "stop"
    prompt_tokens: int = 0
    new_tokens: int = 0
    report: GateReport | None = None
    views: tuple[Box, ...] = ()
    pair: PairSight | None = None
    tokens: tuple[int, ...] = ()
    choice: Choice | None = None
    segments: tuple[Segment, ...] | None = None
    caption: Caption | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def gate(self) -> Mapping[str, float] | None:
        """Weights by encoder name, `host` for the host's own; None without gate or image."""
        return None if self.report is None else self.report.weights

    @property
    def dominant(self) -> str | None:
        """The stream with the largest weight."""
        return None if self.report is None else self.report.dominant

    @property
    def confidence(self) -> float | None:
        """How far the weights are from equal, in [0, 1]; see `GateReport`."""
        return None if self.report is None else self.report.confidence

    def gate_document(self, maps: bool = True) -> dict[str, Any]:
        """Return `gate`, `dominant`, `confidence` and `images` in plain values, for JSON.

        Args:
            maps: Whether each image also gets its `maps` and the `view` they cover.
        """
        if self.report is None:
            return {"gate": None, "dominant": None, "confidence": None, "images": []}
        images = []
        for image, view in zip(self.report.images, self.views, strict=True):
            entry: dict[str, Any] = {
                "weights": _rounded(image.weights),
                "contributions": _rounded(image.contributions),
            }
            if maps:
                entry["maps"] = {
                    name: [[round(share, DIGITS) for share in row] for row in rows]
                    for name, rows in image.maps.items()
                }
                entry["view"] = [round(side, DIGITS) for side in view]
            images.append(entry)
        return {
            "gate": _rounded(self.report.weights),
            "dominant": self.report.dominant,
            "confidence": round(self.report.confidence, DIGITS),
            "images": images,
        }

    def document(self, maps: bool = True) -> dict[str, Any]:
        """Return everything in plain values, for JSON; `maps` as in `gate_document`."""
        return {
            "text": self.text,
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            **self.family_document(maps),
        }

    def family_document(self, maps: bool = True) -> dict[str, Any]:
        """Return what the family adds to a text.

        That is `likeliest`, `unknown_words` of an answer out of a closed set, `finish` and `score`
        of a caption and, where they were looked for, `segments` of both; of others `gate_document`,
        and `pair` where there is one.
        """
        own: dict[str, Any] | None = None
        if self.choice is not None:
            own = self.choice.document()
        elif self.caption is not None:
            own = self.caption.document()
            del own["text"]
        if own is not None:
            found = None if self.segments is None else [one.document() for one in self.segments]
            return {**own, **({} if found is None else {"segments": found})}
        pair = {} if self.pair is None else {"pair": self.pair.document()}
        return {**self.gate_document(maps), **pair}


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels that a phrase means; two masks are equal when they are one object.

    Attributes:
        array: bool (H, W) in original pixels.
        score: How sure the model is, in [0, 1].
        phrase: The phrase.
    """

    array: NDArray[np.bool_]
    score: float
    phrase: str

    @property
    def rle(self) -> dict[str, Any]:
        """The mask as COCO run lengths: `size` [H, W] and `counts` as text."""
        return encode_run_length(self.array)

    @property
    def area(self) -> int:
        """How many pixels the mask has."""
        return int(self.array.sum())

    @property
    def box(self) -> Box | None:
        """The smallest box that holds the mask, XYXY in original pixels; None where it is empty."""
        rows, columns = np.flatnonzero(self.array.any(1)), np.flatnonzero(self.array.any(0))
        if not len(rows):
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def document(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        return {
            "phrase": self.phrase,
            "score": round(self.score, DIGITS),
            "area": self.area,
            "box": None if self.box is None else list(self.box),
            "rle": self.rle,
        }


@dataclass(frozen=True, eq=False)
class Completion:
    """What lies behind the occluder.

    Attributes:
        image: The completed picture, RGB, of the original's size.
        answer: What the model said before it drew, with what it made of the pair.
        codes: The codes of the picture, row by row over the view.
    """

    image: Image.Image
    answer: Answer
    codes: tuple[int, ...]

    @property
    def text(self) -> str:
        """What the model says about it."""
        return self.answer.text

    @property
    def pair(self) -> PairSight:
        """What was made of image and reconstruction."""
        return cast("PairSight", self.answer.pair)

    @property
    def alpha(self) -> NDArray[np.float32]:
        """float32 (H, W) in [0, 1]: the original's share of what the model saw at each pixel."""
        return self.pair.alpha

    @property
    def boxes(self) -> Mapping[str, Box]:
        """The box of the thing by picture, XYXY in the pixels of that picture."""
        return self.pair.boxes

    @property
    def attention(self) -> Mapping[str, NDArray[np.float32]]:
        """Where the reconstruction was looked at; see `PairSight`."""
        return self.pair.attention


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, DIGITS) for name, share in shares.items()}
