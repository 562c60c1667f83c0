"""Phrases that point at the things of a scene, each with the pixels that show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.core.errors import InputError
from chiasm.data.masks import ArrayMask
from chiasm.data.phrases import Said
from chiasm.data.world.render import Rendering
from chiasm.data.world.scene import Scene
from chiasm.data.world.words import references


def point(
    scene: Scene,
    rendering: Rendering,
    rng: np.random.Generator,
    count: int,
    focus: Sequence[int] = (),
) -> list[tuple[int, Said]]:
    """Say up to `count` different phrases, each of which fits one thing alone.

    Every thing is named once, in a random order, before one is named again in other words.

    Args:
        scene: The scene.
        rendering: Its picture and masks; a phrase means the visible pixels of its thing.
        rng: Chooses order and wording.
        count: How many phrases; fewer come back where the scene has no more.
        focus: Indices of the things to be named first.

    Returns:
        (index of the thing, phrase with article) in the order they are said.

    Raises:
        InputError: No phrase fits one thing alone.
    """
    order = sorted(rng.permutation(len(scene.things)).tolist(), key=lambda i: i not in focus)
    wordings = {
        thing: [found[place] for place in rng.permutation(len(found))]
        for thing in order
        if (found := references(scene, thing, longer=True))
    }
    rounds = max(map(len, wordings.values()), default=0)
    chosen = [
        (thing, wordings[thing][turn])
        for turn in range(rounds)
        for thing in wordings
        if turn < len(wordings[thing])
    ][:count]
    if not chosen:
        raise InputError(
            "every thing of the scene looks like another one, so no phrase points at one alone; "
            "sample with distinct=true"
        )
    return [
        (thing, Said(f"the {text}", _mask(rendering, thing), f"{place}", thing=True))
        for place, (thing, text) in enumerate(chosen)
    ]


def _mask(rendering: Rendering, thing: int) -> ArrayMask:
    return ArrayMask(rendering.visible[thing], f"visible pixels of thing {thing}")
