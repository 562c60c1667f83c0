"""Questions about a scene, with their answers.

References are unique in the scene, and answers are balanced as far as the scene allows: what is
random is first the kind, then the answer where the kind can choose it (yes or no, a count), then
the thing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chiasm.core.config import lookup
from chiasm.data.world.kinds import DEFAULT_KINDS, KINDS
from chiasm.data.world.render import Rendering
from chiasm.data.world.scene import Scene
from chiasm.data.world.view import Question, View

__all__ = ["DEFAULT_KINDS", "KINDS", "Question", "ask"]


def ask(
    scene: Scene,
    rendering: Rendering,
    rng: np.random.Generator,
    kinds: Sequence[str] = DEFAULT_KINDS,
    count: int = 1,
    focus: Sequence[int] = (),
) -> list[Question]:
    """Ask up to `count` different questions about a scene.

    Args:
        scene: The scene.
        rendering: Its picture and masks.
        rng: Chooses kind, answer, thing and wording.
        kinds: Names in `KINDS`.
        count: How many questions; fewer come back where the scene gives no more.
        focus: Indices of the things that every question must be about; any when empty.

    Raises:
        UnknownNameError: A kind is not known.
    """
    asked: dict[tuple[str, tuple[int, ...], str], Question] = {}
    askers = [lookup(KINDS, kind, "question kind") for kind in kinds]
    view = View(scene, rendering, rng, tuple(focus))
    for _ in range(4 * count):
        if len(asked) == count:
            break
        for place in view.shuffled(len(askers)):
            question = askers[place](view)
            if question is None:
                continue
            # The same fact in other words is no second question.
            fact = (question.kind, question.things, question.answer)
            if fact not in asked:
                asked[fact] = question
                break
    return list(asked.values())
