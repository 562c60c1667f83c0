"""What a question kind looks at, says and returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chiasm.data.world.render import Rendering
from chiasm.data.world.scene import Scene
from chiasm.data.world.words import references

TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": ("What color is {}?", "What is the color of {}?", "Which color does {} have?"),
    "shape": ("What shape is {}?", "What is the shape of {}?", "Which shape does {} have?"),
    "texture": ("What texture is {}?", "What is the texture of {}?", "Which texture does {} have?"),
    "size": ("What size is {}?", "What is the size of {}?", "Is {} small or large?"),
    "position": ("Where is {}?", "In which part of the picture is {}?"),
    "count_all": ("How many things are there?", "What is the number of things?"),
    "count": ("How many {} things are there?", "What is the number of {} things?"),
    "count_shape": ("How many {}s are there?", "What is the number of {}s?"),
    "exists": ("Is there {}?", "Does the picture show {}?"),
    "relation": ("Is {} {} {}?",),
    "which": ("What is {} {}?", "Which thing is {} {}?"),
    "front": ("Which is in front, {} or {}?",),
}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: Name in `KINDS`, or "grain" for the texture of a thing whose texture is fine.
        text: The question.
        answer: The answer to learn.
        answers: All accepted answers, the one to learn first.
        things: Indices of the things it is about; empty where it is about none or all.
    """

    kind: str
    text: str
    answer: str
    answers: tuple[str, ...]
    things: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """What a question kind looks at: the scene, its masks, chance, and the things to ask about.

    Attributes:
        scene: The scene.
        rendering: Its picture and masks.
        rng: Chance.
        focus: Indices of the things that questions must be about; all things when empty.
    """

    scene: Scene
    rendering: Rendering
    rng: np.random.Generator
    focus: tuple[int, ...] = ()
    words: list[dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        words = [self.scene.attributes(index) for index in range(len(self.scene.things))]
        object.__setattr__(self, "words", words)

    def shuffled(self, count: int) -> list[int]:
        """Return the numbers below `count` in random order."""
        return [int(place) for place in self.rng.permutation(count)]

    def things(self) -> list[int]:
        """Return the things to ask about in random order."""
        indices = self.focus or range(len(self.scene.things))
        return [indices[place] for place in self.shuffled(len(indices))]

    def others(self, index: int) -> list[int]:
        """Return all things but one in random order."""
        return [other for other in self.shuffled(len(self.scene.things)) if other != index]

    def coin(self) -> bool:
        """Return yes or no with equal chance."""
        return bool(self.rng.integers(2))

    def choose(self, options: Sequence[str]) -> str:
        """Return one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def fill(self, template: str, *pieces: str) -> str:
        """Return one of the paraphrases of a template with its gaps filled."""
        return self.choose(TEMPLATES[template]).format(*pieces)

    def name(self, index: int, hide: str = "") -> str | None:
        """Return a phrase with article for a thing, or None when none fits it alone."""
        found = references(self.scene, index, hide)
        return f"the {self.choose(found)}" if found else None
