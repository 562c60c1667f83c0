"""A stand-in with two eyes that really look: the host sees colour, the extra eye sees stripes.

Images are 24 x 36 pixels, red or blue, with stripes across (rows) or down (columns) in their green
channel. `Eyes` answers from pixels, so every intervention has a known consequence.
"""

from __future__ import annotations

import numpy as np

from chiasm.core.grid import ImageGeometry
from chiasm.core.samples import ImageSource, Sample, Turn
from chiasm.data.media import load_image
from chiasm.evaluation.protocols import GateReading

HEIGHT, WIDTH = 24, 36
GEOMETRY = ImageGeometry.from_resize((HEIGHT, WIDTH), (HEIGHT, WIDTH), (12, 12))
COLOUR, STRIPES = "What colour?", "How do the stripes run?"


def picture(red: bool, across: bool, strength: float = 1.0) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0 if red else 2] = 200
    value = round(250 * strength)
    if across:
        image[::4, :, 1] = value
    else:
        image[:, ::4, 1] = value
    return image


def pixels(source: ImageSource) -> np.ndarray:
    return np.asarray(load_image(source))


def sees_red(source: ImageSource) -> bool:
    image = pixels(source)
    return image[..., 0].mean() > image[..., 2].mean()


def sees_across(source: ImageSource) -> bool:
    green = pixels(source)[..., 1].astype(float)
    return green.std(axis=0).mean() > green.std(axis=1).mean()


def sample(number: int, *, group: str = "", both: bool = True) -> Sample:
    """Two questions about one image; the number decides colour (1s), stripes (2s), strength."""
    red, across = bool(number & 1), bool(number & 2)
    turns = [
        Turn("user", (0, STRIPES)),
        Turn("assistant", ("across" if across else "down",), supervised=True),
    ]
    if both:
        turns += [
            Turn("user", (COLOUR,)),
            Turn("assistant", ("red" if red else "blue",), supervised=True),
        ]
    return Sample(
        identifier=f"scene-{number}",
        turns=tuple(turns),
        images=(picture(red, across, 0.4 + 0.6 * (number % 7) / 6),),
        group=group,
        truth={"kinds": ["stripes", "colour"][: 2 if both else 1]},
        origin=f"scenes.jsonl:{number + 1}",
    )


class Eyes:
    """Answers from pixels. `weights` fixes the gate; otherwise it follows the stripes' strength."""

    def __init__(
        self,
        *,
        streams: tuple[str, ...] = ("host", "dino"),
        gated: bool = True,
        weight: float | None = None,
        blind: bool = False,
    ) -> None:
        self.streams = streams
        self.gated = gated
        self.weight = weight
        self.blind = blind
        self.calls: list[tuple[object, bool, tuple[str, ...]]] = []

    def describe(self) -> dict[str, object]:
        return {
            "prompt": "<user> <image> question",
            "dtype": "float32",
            "attention": "sdpa",
            "pixels": {"min_pixels": 784, "max_pixels": 3136},
            "generation": {"max_new_tokens": 11},
            "model": "runs/control" if self.blind else "runs/eyes",
        }

    def gates(self, samples):
        images = [image for item in samples for image in item.images]
        extra = np.array([self._extra(image) for image in images]).reshape(-1)
        weights = np.stack([1 - extra, extra], axis=1)
        tilt = np.array([[-0.2, 0.0, 0.2], [-0.1, 0.0, 0.1]])
        maps = tuple(np.stack([1 - share - tilt, share + tilt], axis=-1) for share in extra)
        return GateReading(
            weights=weights,
            contributions=weights * np.array([3.0, 1.0]),
            maps=maps,
            geometries=(GEOMETRY,) * len(images),
        )

    def answers(self, samples, force=None, shuffle=False):
        self.calls.append((force, shuffle, tuple(item.identifier for item in samples)))
        for item in samples:
            assert item.turns[-1].role == "user" and not item.truth
        donors = [*samples[1:], samples[0]] if shuffle else list(samples)
        return [self._say(*pair, force) for pair in zip(samples, donors, strict=True)]

    def _extra(self, image) -> float:
        strength = pixels(image)[..., 1].max() / 250
        return 0.2 + 0.5 * strength if self.weight is None else self.weight

    def _say(self, item: Sample, donor: Sample, force) -> str:
        shares = {
            None: (0.5, 0.5),
            "host": (1.0, 0.0),
            "dino": (0.0, 1.0),
        }.get(force if isinstance(force, str | None) else "", force)
        if item.turns[-1].text == STRIPES:
            blind = self.blind or shares[1] == 0
            return "down" if blind or not sees_across(donor.images[0]) else "Across."
        return "blue" if shares[0] == 0 or not sees_red(item.images[0]) else "Red"
