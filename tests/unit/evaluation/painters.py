"""Samples with painted things, and a stand-in that finds them with known errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import Phrase, Sample
from chiasm.data.masks import ArrayMask
from chiasm.data.phrases import Said, naming_turns
from chiasm.evaluation.grounding import Grounded

HEIGHT, WIDTH = 61, 83
CELL = 11


def box(top: int, left: int, bottom: int, right: int) -> Any:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def painted(number: int) -> Sample:
    """Two phrases: a thing whose place depends on the number, and stuff in a lower strip."""
    top, left = 3 + number % 5, 7 + 3 * number % 31
    masks = [box(top, left, top + 23, left + 29), box(43, 0, HEIGHT, WIDTH)]
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[masks[1]] = (40, 160, 60)
    pixels[masks[0]] = (200, 40, 30)
    said = [
        Said("the red block", ArrayMask(masks[0]), "thing", thing=True, plural=number % 3 == 0),
        Said("the meadow", ArrayMask(masks[1]), "stuff", thing=False),
    ]
    turns, phrases = naming_turns(said, "Name what you see.", supervised=True)
    return Sample(
        identifier=f"scene-{number}",
        turns=turns,
        images=(Image.fromarray(pixels),),
        group=("left", "right")[left > 20],
        phrases=phrases,
        origin=f"scenes.jsonl:{number + 1}",
    )


def moved(mask: Any, down: int, right: int) -> Any:
    """A mask moved inside its picture; what leaves it is gone."""
    found = np.zeros_like(mask)
    found[down:, right:] = mask[: HEIGHT - down, : WIDTH - right]
    return found


GEOMETRY = ImageGeometry.from_resize((HEIGHT, WIDTH), (6 * CELL, 8 * CELL), (CELL, CELL))


class Painter:
    """Finds the truth, moved: coarse by (5, 7) pixels, refined by (0, 2).

    Args:
        heads: Which heads it has.
        drop: Masks that it leaves out at the end.
    """

    def __init__(self, heads: Sequence[str] = ("coarse", "refined"), drop: int = 0) -> None:
        self.heads = tuple(heads)
        self.drop = drop
        self.seen: list[str] = []
        self.refined: list[torch.Tensor] = []

    def describe(self) -> dict[str, Any]:
        return {"model": "m", "prompt": "p", "dtype": "d", "attention": "a", "pixels": {}}

    def ground(self, samples: Sequence[Sample]) -> Grounded:
        self.seen += [sample.identifier for sample in samples]
        truths = [read(phrase) for sample in samples for phrase in sample.phrases]
        shifts = {"coarse": (5, 7), "refined": (0, 2)}
        masks = {
            head: tuple(
                torch.from_numpy(moved(truth, *shifts[head])).float() * 6 - 3
                for truth in truths[: len(truths) - self.drop]
            )
            for head in self.heads
        }
        return Grounded(
            masks=masks,
            truths=tuple(map(torch.from_numpy, truths)),
            geometries=(GEOMETRY,) * len(truths),
            refine=self.refine if "refined" in self.heads else None,
        )

    def refine(self, coarse: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Grow a mask by what it lacks of whole rows: a refiner with an effect that can be seen."""
        self.refined += list(coarse)
        return [logits + 0.5 for logits in coarse]


def read(phrase: Phrase) -> Any:
    assert phrase.mask is not None
    return phrase.mask.read()
