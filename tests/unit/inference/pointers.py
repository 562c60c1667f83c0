"""A model that points by colour and answers with a real tiny host.

Its masks are the truth of what a phrase says: the pixels of the colour that the phrase names. So
every number that follows from a mask is known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from chiasm.inference.pointing import Found, Span
from tests.unit.inference.duals import build_host_alone

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 60, 200)}
GROUND = (120, 120, 120)
CELL = 7
"""Side of the coarse masks' blocks."""


def scene(height: int = 61, width: int = 83) -> Image.Image:
    """A red bar and a blue block on grey; nothing is green."""
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    pixels[11:30, 13:42] = COLOURS["red"]
    pixels[37:53, 50:71] = COLOURS["blue"]
    return Image.fromarray(pixels)


class Pointer:
    """Points at colours; answers by the tiny host it is given.

    Args:
        base: A host alone, or None for a model that only points.
        heads: The mask heads it has.
    """

    request = "Name what is in the picture."

    def __init__(self, base: Any = None, heads: tuple[str, ...] = ("coarse", "refined")) -> None:
        self.base = base
        self.mask_heads = heads
        self.senses = frozenset({"image", "point"} | ({"ask"} if base else set()))
        self.read: list[Image.Image] = []
        self.grounded: list[tuple[Any, ...]] = []

    @property
    def host(self) -> Any:
        return self.base.host

    @property
    def encoders(self) -> Any:
        return self.base.encoders

    @property
    def fusion(self) -> Any:
        return self.base.fusion

    @property
    def collator(self) -> Any:
        return self.base.collator

    def see(self, batch: Any) -> Any:
        return self.base.see(batch)

    def modules(self) -> Any:
        return self.base.modules()

    def parameters(self) -> Any:
        return self.base.parameters()

    def eval(self) -> Any:
        self.base.eval()
        return self

    def to(self, device: Any) -> Pointer:
        return self

    def read_picture(self, image: Image.Image, seen: Any = None) -> Any:
        self.read.append(image)
        return np.asarray(image).astype(int)

    def point_at(self, reading: Any, phrases: Sequence[str], mask: str) -> Found:
        return [find(reading, phrase, mask) for phrase in phrases]

    def ground_text(
        self,
        image: Image.Image,
        messages: Sequence[Mapping[str, Any]],
        text: str,
        spans: Sequence[Span],
        mask: str,
    ) -> Found:
        self.grounded.append((image, messages, text, tuple(spans), mask))
        reading = np.asarray(image).astype(int)
        return [find(reading, text[start:stop], mask) for start, stop in spans]


def find(reading: Any, phrase: str, mask: str) -> tuple[Any, float]:
    """The pixels of the first colour that a phrase names; coarse ones in whole blocks."""
    named = [colour for name, colour in COLOURS.items() if name in phrase]
    if not named:
        return np.zeros(reading.shape[:2], bool), 0.0
    found = (np.abs(reading - np.array(named[0])).sum(-1)) < 30
    if mask == "coarse":
        rows, columns = found.shape
        whole = np.pad(found, ((0, -rows % CELL), (0, -columns % CELL)))
        blocks = whole.reshape(whole.shape[0] // CELL, CELL, -1, CELL).any((1, 3))
        found = blocks.repeat(CELL, 0).repeat(CELL, 1)[:rows, :columns]
    return found, 0.75 if found.any() else 0.0


def build_pointer(**options: Any) -> Pointer:
    """A pointer that also answers, by a random tiny host."""
    return Pointer(build_host_alone(), **options)
