"""Questions: answers agree with a second reading from masks, pixels and plain words."""

import re
from collections import Counter

import numpy as np
import pytest

from chiasm.core.errors import UnknownNameError
from chiasm.data.world.kinds import DEFAULT_KINDS, KINDS, NUMBERS
from chiasm.data.world.questions import Question, ask
from chiasm.data.world.render import Rendering, render
from chiasm.data.world.sampling import SceneConfig, is_held_out, sample_scene, stream
from chiasm.data.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene
from chiasm.data.world.worlds import WORLDS

OVERLAPPING = SceneConfig(things=(2, 3), overlap=0.6, least_visible=0.3)
WORDS = {w: name for name, t in (("shape", SHAPES), ("colour", COLOURS)) for w in t}
WORDS |= {w: name for name, t in (("texture", TEXTURES), ("size", SIZES)) for w in t}


def asked(
    kind: str, scenes: int, config: SceneConfig | None = None, seed: int = 11
) -> list[tuple[Scene, Rendering, Question]]:
    found = []
    for index in range(scenes):
        scene = sample_scene(stream(seed, "test", index), config or SceneConfig(), "test")
        rendering = render(scene)
        for question in ask(scene, rendering, stream(seed, "test", index, 1), (kind,), 1):
            found.append((scene, rendering, question))
    assert len(found) > scenes / 3
    return found


def meant(scene: Scene, phrase: str) -> list[int]:
    """Find the things that a phrase of a question fits, from its words alone."""
    spoken = [word for word in re.findall(r"[a-z]+", phrase) if word in WORDS]
    return [
        index
        for index in range(len(scene.things))
        if all(scene.attributes(index)[WORDS[word]] == word for word in spoken)
    ]


def centroid(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)


@pytest.mark.parametrize("kind", ["shape", "colour", "texture", "size"])
def test_attribute_answers(kind: str) -> None:
    for scene, _, question in asked(kind, 80):
        text = question.text.replace("small or large", "").replace("What size", "")
        (index,) = meant(scene, text)
        assert question.things == (index,)
        assert question.answer == scene.attributes(index)[kind]
        assert question.answer not in text.split()
        assert question.answers[0] == question.answer


def test_colour_answers_agree_with_pixels() -> None:
    for _, rendering, question in asked("colour", 40):
        mean = rendering.image[rendering.visible[question.things[0]]].mean(0)
        mean /= np.linalg.norm(mean)
        nearest = max(
            COLOURS, key=lambda n: mean @ np.array(COLOURS[n]) / np.hypot.reduce(COLOURS[n])
        )
        assert nearest == question.answer


def test_size_answers_agree_with_masks() -> None:
    for _, rendering, question in asked("size", 60):
        rows, columns = np.nonzero(rendering.whole[question.things[0]])
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        assert (extent > 35) == (question.answer == "large"), extent


def test_position_answers_agree_with_masks() -> None:
    for _, rendering, question in asked("position", 100):
        x, y = centroid(rendering.whole[question.things[0]])
        side = rendering.image.shape[0]
        rows, columns = ("top", "", "bottom"), ("left", "", "right")
        words = f"{rows[int(3 * y / side)]} {columns[int(3 * x / side)]}".strip() or "center"
        assert question.answer == words


def test_count_answers() -> None:
    answers = Counter()
    for scene, _, question in asked("count", 300):
        singular = re.sub(
            r"(crosse|[a-z]+?)s\b",
            lambda m: m[1].removesuffix("e") if m[1] == "crosse" else m[1],
            question.text,
        )
        number = len(meant(scene, singular))
        assert question.answer == NUMBERS[number], question.text
        assert question.answers == (NUMBERS[number], str(number))
        answers[question.answer] += 1
    assert set(answers) == {"zero", "one", "two", "three"}
    assert max(answers.values()) < 0.5 * sum(answers.values())


def test_exists_answers_and_balance() -> None:
    answers = Counter()
    halves = Counter()
    for scene, _, question in asked("exists", 400):
        fitting = meant(scene, question.text)
        assert (question.answer == "yes") == bool(fitting), question.text
        assert question.things == tuple(fitting)
        answers[question.answer] += 1
        spoken = [word for word in re.findall(r"[a-z]+", question.text) if word in WORDS]
        if question.answer == "no" and len(spoken) == 2:
            halves[any(meant(scene, word) for word in spoken)] += 1
    assert 0.42 < answers["yes"] / sum(answers.values()) < 0.58
    assert halves[False] == 0, "an absent pair shares a word with what is there"


def test_relation_answers_and_balance() -> None:
    answers = Counter()
    config = SceneConfig(things=(2, 3))
    for scene, rendering, question in asked("relation", 400, config):
        match = re.fullmatch(r"Is (.+) (left of|right of|above|below) (.+)\?", question.text)
        assert match is not None
        (first,), (second,) = meant(scene, match[1]), meant(scene, match[3])
        (x, y), (u, v) = (centroid(rendering.whole[i]) for i in (first, second))
        truth = {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}[match[2]]
        assert question.answer == ("yes" if truth else "no")
        assert max(abs(x - u), abs(y - v)) > 0.1 * 112
        answers[question.answer, match[2]] += 1
    total = sum(answers.values())
    for relation in ("left of", "right of", "above", "below"):
        for answer in ("yes", "no"):
            assert 0.07 < answers[answer, relation] / total < 0.18


def test_which_answers() -> None:
    for scene, rendering, question in asked("which", 150, SceneConfig(things=(2, 3))):
        relation = next(r for r in ("left of", "right of", "above", "below") if r in question.text)
        (second,) = meant(scene, question.text.split(relation)[1])
        x, y = centroid(rendering.whole[second])
        sides = {
            index: {
                "left of": centroid(rendering.whole[index])[0] < x,
                "right of": centroid(rendering.whole[index])[0] > x,
                "above": centroid(rendering.whole[index])[1] < y,
                "below": centroid(rendering.whole[index])[1] > y,
            }[relation]
            for index in range(len(scene.things))
            if index != second
        }
        assert [index for index, there in sides.items() if there] == meant(scene, question.answer)


def test_front_answers() -> None:
    seen = Counter()
    for index in range(150):
        scene = sample_scene(stream(12, "test", index), OVERLAPPING, "test")
        rendering = render(scene)
        for question in ask(scene, rendering, stream(12, "test", index, 1), ("front",)):
            (front,) = meant(scene, question.answer)
            (back,) = set(question.things) - {front}
            shared = rendering.whole[front] & rendering.whole[back]
            assert shared.sum() >= 12
            assert not (shared & rendering.visible[back]).any()
            seen[question.text.index(question.answer) < len(question.text) / 2] += 1
    assert min(seen[True], seen[False]) > 5, "the answer is named first as often as second"


def test_grain_is_the_texture_of_fine_things() -> None:
    config = WORLDS["grain"].parts[0]
    answers = Counter()
    for scene, _, question in asked("texture", 300, config):
        assert question.kind == "grain"
        assert scene.things[question.things[0]].fine
        answers[question.answer] += 1
    assert set(answers) == {"striped", "banded", "checkered", "dotted"}
    assert max(answers.values()) < 0.35 * sum(answers.values())


def test_several_questions_are_different_and_of_balanced_kinds() -> None:
    kinds = Counter()
    for index in range(200):
        scene = sample_scene(stream(13, "train", index), SceneConfig(things=(3, 3)), "train")
        questions = ask(scene, render(scene), stream(13, "train", index, 1), count=4)
        assert len(questions) == 4
        assert len({(q.kind, q.things, q.answer) for q in questions}) == 4
        kinds.update(question.kind for question in questions)
    assert set(kinds) == set(DEFAULT_KINDS)
    assert min(kinds.values()) > 0.7 * sum(kinds.values()) / len(DEFAULT_KINDS)


@pytest.mark.parametrize("kind", [kind for kind in DEFAULT_KINDS if kind != "exists"])
def test_focus_keeps_every_question_on_its_things(kind: str) -> None:
    found = 0
    for index in range(60):
        scene = sample_scene(stream(14, "composition", index), SceneConfig(), "composition")
        focus = [i for i, t in enumerate(scene.things) if is_held_out(t.shape, t.colour, t.texture)]
        rng = stream(14, "composition", index, 1)
        for question in ask(scene, render(scene), rng, (kind,), 2, focus):
            assert set(question.things) & set(focus), question
            found += 1
    assert found > 10


def test_focus_silences_exists() -> None:
    scene = sample_scene(stream(14, "test", 1), SceneConfig(), "test")
    assert ask(scene, render(scene), stream(14, "test", 1, 1), ("exists",), 3, focus=(0,)) == []


def test_wordings_vary_and_answers_are_short_and_lower_case() -> None:
    openings = {kind: set() for kind in DEFAULT_KINDS}
    for kind in DEFAULT_KINDS:
        for _, _, question in asked(kind, 60, SceneConfig(things=(2, 3))):
            openings[kind].add(question.text.split(" the ")[0].split(" a ")[0][:14])
            assert question.answer == question.answer.lower()
            assert len(question.answer.split()) <= 2
            assert "colour" not in question.text
    assert all(len(openings[kind]) >= 2 for kind in DEFAULT_KINDS if kind != "relation")


def test_unknown_kind_lists_the_known_ones() -> None:
    scene = sample_scene(stream(0, "test", 0), SceneConfig(), "test")
    with pytest.raises(UnknownNameError, match=r"question kind 'color'.*Did you mean 'colour'"):
        ask(scene, render(scene), stream(0, "test", 0), ("color",))
    assert set(DEFAULT_KINDS) < set(KINDS)
