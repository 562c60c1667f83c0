"""Hidden things: exact shares, errors of known size, targets, boxes and questions."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from chiasm.core.errors import ConfigError, InputError, UnknownNameError
from chiasm.core.samples import Pair, Sample
from chiasm.data.world.occluders import COVERS, cover
from chiasm.data.world.occlusion import NAMES, OcclusionConfig, box_of
from chiasm.data.world.reconstruction import STEADY, Errors, ReconstructionConfig, reconstruct
from chiasm.data.world.render import masks, render
from chiasm.data.world.sampling import SceneConfig, is_held_out, sample_scene, stream
from chiasm.data.world.scene import COLOURS, SHAPES, TEXTURES, Occluder, Scene
from chiasm.data.world.worlds import WORLDS, WorldConfig, WorldDataset, draw

PART = WORLDS["occluded"].parts[0]


def scene(index: int = 0) -> Scene:
    return sample_scene(stream(0, "train", index, 0), PART, "train")


def world(**changes: object) -> WorldConfig:
    return WorldConfig(parts=(PART,), occlusion=OcclusionConfig.model_validate(changes))


def pair(sample: Sample) -> Pair:
    assert sample.pair is not None
    return sample.pair


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    dataset = WorldDataset(world="occluded", count=240, seed=5)
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("kind", sorted(COVERS))
@pytest.mark.parametrize("least", [0.0, 0.2, 0.5])
def test_covers_hide_the_share_asked_for(kind: str, least: float) -> None:
    found = 0
    for index in range(12):
        covered = cover(scene(index), stream(1, "train", index), kind, least, least + 0.25)  # type: ignore[arg-type]
        if covered is None:
            continue
        found += 1
        visible, whole = masks(covered)
        assert least <= 1 - visible[0].sum() / whole[0].sum() <= least + 0.25
        assert visible[0].any()
        assert np.array_equal(whole[0], masks(scene(index))[1][0]), "the thing stays where it is"
        assert bool(covered.occluders) == (kind != "thing")
        assert len(covered.things) == (2 if kind == "thing" else 1)
    assert found >= 11


def test_what_cannot_be_hidden_gives_none() -> None:
    assert cover(scene(), stream(1, "train", 0), "bars", 0.4999999, 0.5) is None
    with pytest.raises(UnknownNameError, match="unknown occluder 'hat'; known: bars, hand, thing"):
        cover(scene(), stream(1, "train", 0), "hat", 0, 1)  # type: ignore[arg-type]


def test_a_finger_is_rounded_and_coloured() -> None:
    """The painted pixels of a finger are a capsule: a bar with half a disc at each end."""
    bare = replace(scene(), things=(), noise=0.0)
    finger = Occluder(32, 32, 12, 40, angle=0.0, colour=(10.0, 200.0, 30.0), corner=6.0)
    image = render(replace(bare, occluders=(finger,))).image.astype(int)
    painted = image[..., 1] - image[..., 0] > 70
    y, x = (np.indices((64, 64)) + 0.5) - 32
    middle = np.clip(y, -14, 14)
    capsule = np.hypot(x, y - middle) <= 6
    assert np.mean(painted != capsule) < 0.01
    square = render(replace(bare, occluders=(replace(finger, corner=0.0),))).image.astype(int)
    corner = square[12:14, 26:28, 1] - square[12:14, 26:28, 0] > 70
    assert corner.all() and not painted[12:14, 26:28].any()


def test_each_level_has_its_exact_part_and_its_shares(samples: list[Sample]) -> None:
    levels = Counter(sample.truth["level"] for sample in samples)
    assert levels == {"0%-20%": 80, "20%-50%": 80, "50%-80%": 80}
    for sample in samples:
        truth = sample.truth
        least, most = (float(part.strip("%")) / 100 for part in truth["level"].split("-"))
        share = truth["hidden"].sum() / truth["whole"].sum()
        assert least <= share <= most and truth["fraction"] == share
        assert not (truth["hidden"] & ~truth["whole"]).any()
    assert {sample.truth["cover"] for sample in samples} == set(COVERS)


def test_the_target_differs_where_the_occluder_is_and_nowhere_else(samples: list[Sample]) -> None:
    item = draw(WORLDS["occluded"], "train", 5, 0)
    for index in range(24):
        item = draw(WORLDS["occluded"], "train", 5, index)
        assert item.occlusion is not None
        target = np.asarray(pair(samples[index]).target).astype(int)
        changed = np.abs(samples[index].images[0].astype(int) - target).max(2) > 0  # type: ignore[union-attr]
        assert changed[samples[index].truth["hidden"]].mean() > 0.9
        if item.occlusion.cover != "thing":
            bars = replace(item.scene, things=(), background=item.scene.background)
            nothing = replace(bars, occluders=())
            touched = np.abs(render(bars).image.astype(int) - render(nothing).image).max(2) > 0
            assert not (changed & ~_grown(touched)).any()
        whole = render(item.occlusion.clear).whole[0]
        assert np.array_equal(whole, samples[index].truth["whole"])


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask and its neighbours: a soft edge may be too faint to be seen on a grey like its own."""
    wide = np.pad(mask, 1)
    shifts = [wide[1 + dy : 65 + dy, 1 + dx : 65 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.logical_or.reduce(shifts)


def test_reconstructions_are_wrong_by_what_the_truth_says(samples: list[Sample]) -> None:
    words = Counter(sample.truth["errors"]["word"] for sample in samples)
    assert set(words) == {"exact", "pose", "texture", "object"}
    for sample in samples:
        truth, errors, shown = sample.truth, sample.truth["errors"], sample.truth["shown"]
        attributes = truth["attributes"]
        rebuilt = np.array(truth["reconstruction_box"])
        moved = (rebuilt.reshape(2, 2).mean(0) - 32) / 64
        assert max(map(abs, errors["shift"])) <= 0.25 and 0.7 <= errors["scale"] <= 1.3
        if errors["word"] == "object":
            assert shown["shape"] != attributes["shape"]
            assert shown["colour"] != attributes["colour"]
            continue
        assert (shown["shape"], shown["colour"]) == (attributes["shape"], attributes["colour"])
        assert (shown["texture"] != attributes["texture"]) == errors["wrong_texture"]
        # A turned box has another middle than its thing, by less than a tenth of the picture.
        assert np.abs(moved - errors["shift"]).max() < 0.1
        side = math.sqrt(np.prod(rebuilt[2:] - rebuilt[:2])) / 64
        if attributes["shape"] in ("circle", "ring"):
            assert side == pytest.approx(0.65 * errors["scale"], abs=0.05)
        assert (errors["word"] == "exact") == (errors == Errors().to_plain())


def test_a_reconstruction_in_the_scene_s_own_frame_lies_on_its_thing() -> None:
    config = ReconstructionConfig(fill=None, wrong_texture=0, wrong_object=0)
    words = set()
    for index in range(40):
        clear = scene(index)
        shown, errors = reconstruct(clear, stream(2, "train", index), config)
        (truth,), (thing,) = clear.things, shown.things
        words.add(errors.word)
        if errors.word == "exact":
            assert thing == truth
        assert thing.size == pytest.approx(truth.size * errors.scale)
        assert thing.x == pytest.approx(truth.x + 64 * errors.shift[0])
        assert thing.texture_period == truth.texture_period
    assert words == {"exact", "pose"}


def test_a_renderer_frames_things_alike_and_enlarges_their_texture() -> None:
    config = ReconstructionConfig(fill=0.5, exact=1, wrong_texture=0, wrong_object=0)
    for index in range(20):
        clear = scene(index)
        (thing,) = reconstruct(clear, stream(2, "train", index), config)[0].things
        assert (thing.x, thing.y, thing.size) == (32, 32, 32)
        assert thing.texture_period % 2 == 0
        enlarged = clear.things[0].texture_period * 32 / clear.things[0].size
        assert abs(thing.texture_period - enlarged) <= 1


def test_the_shares_of_errors_are_those_asked_for() -> None:
    config = ReconstructionConfig(exact=0.1, wrong_texture=0.2, wrong_object=0.3)
    clear = scene(3)
    words = Counter(reconstruct(clear, stream(2, "train", i), config)[1].word for i in range(1500))
    shares = {word: count / 1500 for word, count in words.items()}
    assert shares == pytest.approx(
        {"exact": 0.1, "texture": 0.2, "object": 0.3, "pose": 0.4}, abs=0.04
    )


def test_a_reconstruction_is_whole_alone_on_black() -> None:
    config = ReconstructionConfig(exact=0, wrong_texture=0, wrong_object=0.5)
    for index in range(60):
        shown, errors = reconstruct(scene(index), stream(2, "train", index), config)
        picture = render(shown)
        (thing,) = shown.things
        limit = 0.31 if thing.shape in STEADY else 0.15 + math.radians(30)
        assert abs(thing.angle) <= limit and abs(errors.rotation) <= 30
        for place in (thing.x, thing.y):
            assert thing.size / 2 - 1e-6 <= place <= 64 - thing.size / 2 + 1e-6
        assert picture.image[picture.whole[0]].any(1).all()
        y, x = np.indices((64, 64)) + 0.5 - np.array([[[thing.y]], [[thing.x]]])
        # The corners of a square reach farthest, and a sharp corner has a soft edge.
        assert not picture.image[np.hypot(x, y) > 1.14 * thing.size / 2 + 2].any()
        assert not is_held_out(thing.shape, thing.colour, thing.texture)


def test_a_reconstruction_without_a_place_is_an_error() -> None:
    config = ReconstructionConfig(fill=None, exact=0, shift=0.01, scale=(30.0, 30.0))
    with pytest.raises(ConfigError, match=r"\d{3,} pixels has no place within 1% of"):
        reconstruct(scene(), stream(2, "train", 0), config)


def test_a_reconstruction_without_a_pixel_is_an_error() -> None:
    tiny = {"exact": 0, "scale": (1e-3, 2e-3)}
    with pytest.raises(ConfigError, match=r"of 0\.\d+ pixels, at a scale of 0\.001\d*, shows no"):
        WorldDataset(world=world(reconstruction=tiny), count=1)[0]


def test_boxes_are_those_of_a_detector(samples: list[Sample]) -> None:
    errors = []
    for sample in samples:
        whole = np.array(box_of(sample.truth["whole"]))
        assert sample.truth["whole_box"] == whole.tolist()
        found = np.array(pair(sample).image_box)
        assert found.min() >= 0 and found.max() <= 64
        size = whole[2:] - whole[:2]
        inside = (whole > 4) & (whole < 60)
        errors += ((found - whole) / np.tile(size, 2))[inside].tolist()
        rebuilt = np.asarray(pair(sample).reconstruction).any(2)
        edges = np.array(box_of(np.asarray(rebuilt, bool))) - pair(sample).reconstruction_box
        assert np.abs(edges).max() <= 2, "exact, but for pixels less than half covered"
    assert np.std(errors) == pytest.approx(0.04, abs=0.006)
    assert abs(np.mean(errors)) < 0.006


def test_boxes_and_mask_are_told_or_not() -> None:
    silent = pair(WorldDataset(world=world(boxes=False), count=1)[0])
    assert silent.image_box is None and silent.reconstruction_box is None
    assert silent.hidden is None
    open_ = WorldDataset(world=world(hidden=True, box_error=0.0), count=1)[0]
    hidden = pair(open_).hidden
    assert hidden is not None and np.array_equal(hidden.read(), open_.truth["hidden"])
    assert list(pair(open_).image_box or ()) == open_.truth["whole_box"]


def test_questions_are_about_the_hidden_thing_and_give_nothing_away(samples: list[Sample]) -> None:
    told = {*SHAPES, *COLOURS, *TEXTURES}
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        question, answer = (turn.text for turn in sample.turns)
        (kind,) = sample.truth["kinds"]
        assert answer == sample.truth["attributes"][kind] == sample.truth["answers"][0][0]
        assert any(name in question for name in NAMES)
        assert not told & set(question.strip("?").split())
        assert sample.group == kind
        answers[kind][answer] += 1
    assert {kind: len(found) for kind, found in answers.items()} == {
        "colour": len(COLOURS),
        "shape": len(SHAPES),
        "texture": len(TEXTURES),
        "size": 2,
    }
    share = {kind: max(c.values()) / c.total() for kind, c in answers.items()}
    # A sample of 60 a kind scatters; over thousands the largest are 1/8, 1/7, 1/5 and 1/2.
    assert share["colour"] < 0.3 and share["shape"] < 0.3
    assert share["texture"] < 0.4 and share["size"] < 0.65


def test_several_questions_have_several_kinds() -> None:
    sample = WorldDataset(world="occluded", count=1, questions_per_image=9)[0]
    assert sorted(sample.truth["kinds"]) == ["colour", "shape", "size", "texture"]
    assert sample.group == "mixed" and [0 in turn.parts for turn in sample.turns][:3] == [
        True,
        False,
        False,
    ]


def test_samples_are_the_same_in_every_process_and_differ_by_split() -> None:
    dataset = WorldDataset(world="occluded", count=9)
    copy = pickle.loads(pickle.dumps(dataset))
    for index in (8, 0, 4):
        one, other = dataset[index], copy[index]
        for field in ("reconstruction", "target"):
            assert np.array_equal(getattr(pair(one), field), getattr(pair(other), field))
        assert pair(one).image_box == pair(other).image_box
        test = WorldDataset(world="occluded", split="test", count=9)[index]
        assert not np.array_equal(test.images[0], one.images[0])  # type: ignore[arg-type]


def test_wrong_objects_change_the_reconstruction_alone() -> None:
    right = WorldDataset(world="occluded", count=24)
    wrong = WorldDataset(world="occluded", count=24, wrong_objects=True)
    for index in range(24):
        one, other = right[index], wrong[index]
        assert np.array_equal(one.images[0], other.images[0])  # type: ignore[arg-type]
        assert one.turns == other.turns and one.identifier == other.identifier
        assert pair(one).image_box == pair(other).image_box
        assert other.truth["errors"]["word"] == "object"


def test_the_composition_split_hides_what_was_never_shown() -> None:
    dataset = WorldDataset(world="occluded", split="composition", count=18)
    for index in range(18):
        things = dataset[index].truth["things"]
        held = [is_held_out(t["shape"], t["colour"], t["texture"]) for t in things]
        assert held[0] and not any(held[1:])


def test_a_coarse_texture_is_seen_up_to_a_bar() -> None:
    """Little of a hidden thing is visible, so its texture may not fade before the occluder."""
    item = draw(world(covers=["bars"], levels=[(0.4, 0.6)]), "train", 0, 3)
    assert item.occlusion is not None
    seen = item.rendering.visible[0]
    clear = render(item.occlusion.clear).image.astype(int)
    assert (np.abs(item.rendering.image.astype(int) - clear).max(2)[seen] > 3).mean() < 0.3


def test_faults_of_the_configuration_are_named() -> None:
    with pytest.raises(ValidationError, match=r"levels: \[\(0.5, 0.2\)\]; give ranges"):
        OcclusionConfig(levels=((0.5, 0.2),))
    with pytest.raises(ValidationError, match="add up to more than 1"):
        ReconstructionConfig(exact=0.5, wrong_object=0.6)
    with pytest.raises(ValidationError, match=r"fill, scale: 0.9 x 1.3 is larger than the picture"):
        ReconstructionConfig(fill=0.9)
    assert ReconstructionConfig(fill=1.0, exact=1, wrong_texture=0, wrong_object=0).fill == 1
    with pytest.raises(ValidationError, match=r"scale: \(1.3, 0.7\) is no range"):
        ReconstructionConfig(scale=(1.3, 0.7))
    several = SceneConfig(things=(1, 2))
    with pytest.raises(ValidationError, match=r"occlusion: things \(1, 2\) and occluders"):
        WorldConfig(parts=(several,), occlusion=OcclusionConfig())
    counting = SceneConfig(things=(1, 1), kinds=("count",))
    with pytest.raises(ValidationError, match="of what is hidden there are: colour, shape"):
        WorldConfig(parts=(counting,), occlusion=OcclusionConfig())
    with pytest.raises(InputError, match="wrong_objects in the world 'single', which has no rec"):
        WorldDataset(world="single", wrong_objects=True)
    with pytest.raises(InputError, match="phrases=2 in the world 'occluded'"):
        WorldDataset(world="occluded", phrases=2)
    with pytest.raises(ConfigError, match="after 20 scenes"):
        draw(world(levels=[(0.1234567, 0.1234568)]), "train", 0, 0)


def test_errors_are_plain_values(samples: list[Sample]) -> None:
    for sample in samples[:9]:
        assert json.loads(json.dumps(sample.truth["errors"])) == sample.truth["errors"]
