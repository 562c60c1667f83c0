"""The question kinds: each is one function that asks about a scene or finds nothing to ask."""

from __future__ import annotations

from collections.abc import Callable

from chiasm.data.world.scene import COLOURS, SHAPES
from chiasm.data.world.view import Question, View
from chiasm.data.world.words import article, has_clear_position, position, references

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

CLEAR = 0.12
"""Two centres nearer than this part of the canvas are neither left nor right of each other."""

TOUCH = 12
"""Whole masks that share fewer pixels than this have no clear front and back."""

RELATIONS: dict[str, tuple[float, float]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation -> the direction in which the first thing lies from the second (X, Y down)."""


def _attribute(view: View, attribute: str) -> Question | None:
    for index in view.things():
        name = view.name(index, hide=attribute)
        if name is not None:
            answer = view.words[index][attribute]
            grain = attribute == "texture" and view.scene.things[index].fine
            kind = "grain" if grain else attribute
            return Question(kind, view.fill(attribute, name), answer, (answer,), (index,))
    return None


def _colour(view: View) -> Question | None:
    return _attribute(view, "colour")


def _shape(view: View) -> Question | None:
    return _attribute(view, "shape")


def _texture(view: View) -> Question | None:
    return _attribute(view, "texture")


def _size(view: View) -> Question | None:
    return _attribute(view, "size")


def _position(view: View) -> Question | None:
    for index in view.things():
        name = view.name(index)
        if name is not None and has_clear_position(view.scene, view.scene.things[index]):
            answer = position(view.scene, view.scene.things[index])
            return Question("position", view.fill("position", name), answer, (answer,), (index,))
    return None


def _count(view: View) -> Question | None:
    everything = tuple(range(len(view.scene.things)))
    attribute = view.choose(("all", "colour", "shape"))
    if attribute == "all":
        text, counted = view.fill("count_all"), everything
    else:
        table = COLOURS if attribute == "colour" else SHAPES
        holders = {
            value: tuple(i for i in everything if view.words[i][attribute] == value)
            for value in table
        }
        if view.focus:
            holders = {v: h for v, h in holders.items() if set(h) & set(view.focus)}
        sizes = sorted({len(h) for h in holders.values()})
        size = sizes[int(view.rng.integers(len(sizes)))]
        value = view.choose([v for v, h in holders.items() if len(h) == size])
        counted = holders[value]
        text = view.fill("count" if attribute == "colour" else "count_shape", _plural(value))
    number = len(counted)
    answer = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return Question("count", text, answer, tuple(dict.fromkeys((answer, str(number)))), counted)


def _plural(value: str) -> str:
    """Return the stem to which a template adds "s"."""
    return f"{value}e" if value.endswith("ss") else value


def _exists(view: View) -> Question | None:
    if view.focus:
        # Only "yes" could be about a given thing, and a question with one answer tests nothing.
        return None
    using = view.choose(("shape", "colour", "both"))
    options = _present(view, using)
    wanted = view.coin()
    if not wanted:
        options = {text: () for text in _candidates(view, using) if text not in options}
    if not options:
        return None
    text = view.choose(list(options))
    answer = "yes" if wanted else "no"
    asked = view.fill("exists", f"{article(text)} {text}")
    return Question("exists", asked, answer, (answer,), options[text])


def _present(view: View, using: str) -> dict[str, tuple[int, ...]]:
    """Return the phrases that fit some thing, each with the things it fits."""
    found: dict[str, tuple[int, ...]] = {}
    for index, words in enumerate(view.words):
        text = _look(words["colour"], words["shape"], using)
        found[text] = (*found.get(text, ()), index)
    return found


def _candidates(view: View, using: str) -> list[str]:
    """Return phrases to be asked about; half of each pair is there, so one half does not tell."""
    if using == "shape":
        return list(SHAPES)
    if using == "colour":
        return [_look(colour, "", using) for colour in COLOURS]
    words = view.words[int(view.rng.integers(len(view.words)))]
    return [_look(words["colour"], shape, using) for shape in SHAPES] + [
        _look(colour, words["shape"], using) for colour in COLOURS
    ]


def _look(colour: str, shape: str, using: str) -> str:
    return {"shape": shape, "colour": f"{colour} thing", "both": f"{colour} {shape}"}[using]


def _reach(view: View, first: int, second: int, relation: str) -> float:
    """Return how far the first thing lies from the second in a direction, in canvas parts."""
    x, y = RELATIONS[relation]
    one, other = view.scene.things[first], view.scene.things[second]
    return x * (one.x - other.x) / view.scene.width + y * (one.y - other.y) / view.scene.height


def _relation(view: View) -> Question | None:
    wanted = view.coin()
    relations = list(RELATIONS)
    for first in view.things():
        for second in view.others(first):
            names = view.name(first), view.name(second)
            for place in view.shuffled(len(relations)):
                reach = _reach(view, first, second, relations[place])
                if abs(reach) < CLEAR or (reach > 0) != wanted or None in names:
                    continue
                answer = "yes" if wanted else "no"
                text = view.fill("relation", str(names[0]), relations[place], str(names[1]))
                return Question("relation", text, answer, (answer,), (first, second))
    return None


def _which(view: View) -> Question | None:
    relations = list(RELATIONS)
    for second in view.things():
        name = view.name(second)
        for place in view.shuffled(len(relations)):
            reaches = {i: _reach(view, i, second, relations[place]) for i in view.others(second)}
            ahead = [index for index, reach in reaches.items() if reach > 0]
            if name is None or len(ahead) != 1 or abs(reaches[ahead[0]]) < CLEAR:
                continue
            words = view.words[ahead[0]]
            full = f"{words['colour']} {words['shape']}"
            if full not in references(view.scene, ahead[0]):
                continue
            text = view.fill("which", relations[place], name)
            return Question("which", text, full, (full, f"the {full}"), (ahead[0], second))
    return None


def _front(view: View) -> Question | None:
    whole = view.rendering.whole
    for first in view.things():
        for second in view.others(first):
            shared = int((whole[first] & whole[second]).sum())
            words = [view.words[first], view.words[second]]
            full = [f"{each['colour']} {each['shape']}" for each in words]
            if shared < TOUCH or full[0] == full[1]:
                continue
            answer = full[0] if first > second else full[1]
            text = view.fill("front", f"the {full[0]}", f"the {full[1]}")
            return Question("front", text, answer, (answer, f"the {answer}"), (first, second))
    return None


KINDS: dict[str, Callable[[View], Question | None]] = {
    "colour": _colour,
    "shape": _shape,
    "texture": _texture,
    "size": _size,
    "position": _position,
    "count": _count,
    "exists": _exists,
    "relation": _relation,
    "which": _which,
    "front": _front,
}
"""Question kind -> the function that asks it."""

DEFAULT_KINDS = ("colour", "shape", "texture", "size", "position", "count", "exists", "relation")
"""The kinds that are on unless a world says otherwise."""
