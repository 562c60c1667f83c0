"""Scenes in words: positions, referring expressions, captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.core.errors import InputError
from chiasm.data.world.scene import Scene, Thing

ROWS = ("top", "", "bottom")
COLUMNS = ("left", "", "right")
CENTER = "center"
EDGE = 0.03
"""A thing nearer than this part of the canvas to a border of a ninth has no clear position."""

ATTRIBUTE_ORDER = ("size", "colour", "texture")
"""The order of adjectives before the shape."""

REFERENCES = (("shape",), ("colour",), ("colour", "shape"))
"""Sets of attributes that a referring expression uses, shortest first."""

LONGER_REFERENCES = (
    ("size", "shape"),
    ("texture", "shape"),
    ("size", "colour", "shape"),
    ("colour", "texture", "shape"),
    ("size", "colour", "texture", "shape"),
)
"""Sets for the things that no short reference tells from the others, and for variety."""


def position(scene: Scene, thing: Thing) -> str:
    """Return where a thing's centre lies on a grid of 3 x 3: "top left", "top", ..., "center"."""
    row = ROWS[min(2, int(3 * thing.y / scene.height))]
    column = COLUMNS[min(2, int(3 * thing.x / scene.width))]
    return f"{row} {column}".strip() or CENTER


def has_clear_position(scene: Scene, thing: Thing) -> bool:
    """Return whether a thing's centre keeps its distance from the borders of its ninth."""
    parts = (thing.x / scene.width, thing.y / scene.height)
    return all(abs(part - border) >= EDGE for part in parts for border in (1 / 3, 2 / 3))


def article(word: str) -> str:
    """Return "a" or "an", as the word asks for."""
    return "an" if word[0] in "aeiou" else "a"


def phrase(words: dict[str, str], using: Sequence[str]) -> str:
    """Return a noun phrase without article, for example "small red circle" or "red thing".

    Args:
        words: Attribute words, see `Scene.attributes`.
        using: The attributes to name. "plain" is named only where texture is asked for.
    """
    adjectives = [words[name] for name in ATTRIBUTE_ORDER if name in using]
    return " ".join([*adjectives, words["shape"] if "shape" in using else "thing"])


def references(scene: Scene, index: int, hide: str = "", longer: bool = False) -> list[str]:
    """Return the phrases that fit thing `index` and no other, shortest first, without article.

    Args:
        scene: The scene.
        index: The thing meant.
        hide: An attribute that no phrase may give away. Fine textures are never named, since not
            every eye can see them.
        longer: Whether to add phrases with size and texture even where shorter ones do.
    """
    every = [scene.attributes(place) for place in range(len(scene.things))]
    hidden = {hide, "texture"} if any(thing.fine for thing in scene.things) else {hide}
    found = ["thing"] if len(every) == 1 else []
    found += [phrase(every[index], using) for using in _telling(every, index, REFERENCES, hidden)]
    if longer or not found:
        telling = _telling(every, index, LONGER_REFERENCES, hidden)
        found += [phrase(every[index], using) for using in telling]
    return found


def _telling(
    every: list[dict[str, str]], index: int, sets: Sequence[tuple[str, ...]], hidden: set[str]
) -> list[tuple[str, ...]]:
    """Return the sets of attributes that no other thing shares with thing `index`."""
    return [
        using
        for using in sets
        if not hidden & set(using)
        and sum(all(words[n] == every[index][n] for n in using) for words in every) == 1
    ]


def refer(scene: Scene, index: int, rng: np.random.Generator | None = None) -> str:
    """Return a phrase with article that fits thing `index` and no other.

    Args:
        scene: The scene.
        index: The thing meant.
        rng: Chooses among all phrases that name a shape; without it the shortest is returned.

    Raises:
        InputError: Another thing looks the same in every attribute.
    """
    found = references(scene, index, longer=rng is not None)
    found = [text for text in found if not text.endswith("thing")]
    if not found:
        raise InputError(
            f"thing {index} ({phrase(scene.attributes(index), ('size', 'colour', 'shape'))}) looks "
            "like another thing of its scene, so no phrase fits it alone; sample with distinct=true"
        )
    return "the " + (found[int(rng.integers(len(found)))] if rng is not None else found[0])


def describe(scene: Scene, index: int) -> str:
    """Return a full description, for example "a large red striped circle at the top left"."""
    words = scene.attributes(index)
    using = [name for name in words if words[name] != "plain"]
    text = phrase(words, using)
    return f"{article(text)} {text} at the {position(scene, scene.things[index])}"


CAPTIONS = ("{}", "a picture of {}", "there is {}")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return one sentence that describes every thing, from left to right."""
    order = sorted(range(len(scene.things)), key=lambda index: scene.things[index].x)
    template = CAPTIONS[int(rng.integers(len(CAPTIONS)))]
    return template.format(" and ".join(describe(scene, index) for index in order))
