"""The worlds by name, and any of them as a dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field, model_validator

from chiasm.core.config import Config, lookup
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.data.phrases import naming_turns
from chiasm.data.world.cells import cell_labels
from chiasm.data.world.occlusion import KINDS as HIDDEN_KINDS
from chiasm.data.world.occlusion import (
    Occlusion,
    OcclusionConfig,
    always_wrong,
    ask_hidden,
    box_of,
    occlude,
    pair_of,
)
from chiasm.data.world.pointing import point
from chiasm.data.world.questions import DEFAULT_KINDS, KINDS, Question, ask
from chiasm.data.world.render import Rendering, render
from chiasm.data.world.sampling import SceneConfig, is_held_out, sample_scene, stream
from chiasm.data.world.scene import Scene
from chiasm.data.world.textures import FINE_PERIOD

SCENE_STREAM = 0
QUESTION_STREAM = 1
WORDS_STREAM = 2
PHRASE_STREAM = 3
OCCLUSION_STREAM = 4
ATTEMPTS = 20

POINTING_REQUEST = "Describe this image."
"""What the user asks where the answer is the phrases that point at things."""

GRAINS = ("striped", "banded", "checkered", "dotted")


class WorldConfig(Config):
    """A world: one kind of scenes, or several taken in turn."""

    parts: tuple[SceneConfig, ...] = Field(min_length=1)
    """Item i is drawn from part i modulo their number, so each has its exact share."""
    occlusion: OcclusionConfig | None = None
    """What hides the thing of each scene, in worlds of pairs; None where nothing is hidden."""

    @model_validator(mode="after")
    def _check(self) -> WorldConfig:
        unknown = sorted({kind for part in self.parts for kind in part.kinds} - set(KINDS))
        if unknown:
            raise ValueError(f"kinds: {unknown} given; known: {', '.join(KINDS)}")
        if self.occlusion is not None:
            for part in self.parts:
                if part.things != (1, 1) or part.occluders != (0, 0):
                    raise ValueError(
                        f"occlusion: things {part.things} and occluders {part.occluders}; a scene "
                        "of pairs has one thing (1, 1) and draws its own occluder, so give (0, 0)"
                    )
                if not set(part.kinds) <= set(HIDDEN_KINDS):
                    raise ValueError(
                        f"kinds: {list(part.kinds)} given; of what is hidden there are: "
                        f"{', '.join(HIDDEN_KINDS)}"
                    )
        return self


_SHAPES = SceneConfig()
_GRAIN = SceneConfig(textures=GRAINS, periods=(FINE_PERIOD,), kinds=("texture",))

_ATTRIBUTES = SceneConfig(things=(1, 1), kinds=("colour", "shape", "texture", "size"))
_HIDDEN = SceneConfig(height=64, width=64, things=(1, 1), periods=(4, 6), kinds=tuple(HIDDEN_KINDS))
_SINGLE_GRAIN = _GRAIN.model_copy(update={"things": (1, 1)})

WORLDS: dict[str, WorldConfig] = {
    "attributes": WorldConfig(parts=(_ATTRIBUTES,)),
    "single_grain": WorldConfig(parts=(_SINGLE_GRAIN,)),
    "attributes_and_grain": WorldConfig(parts=(_ATTRIBUTES, _SINGLE_GRAIN)),
    "shapes": WorldConfig(parts=(_SHAPES,)),
    "single": WorldConfig(parts=(SceneConfig(things=(1, 1)),)),
    "grain": WorldConfig(parts=(_GRAIN,)),
    "shapes_and_grain": WorldConfig(parts=(_SHAPES, _GRAIN)),
    "occluded": WorldConfig(parts=(_HIDDEN,), occlusion=OcclusionConfig()),
}
"""World name -> configuration.

`attributes` is what tiny-host answers by itself: one thing, and what can be said of it. With
`single_grain` beside it, `attributes_and_grain` is what tiny-dual answers. The others have more to
them: `shapes` has up to three things with coarse textures and every question kind. `grain` asks for
textures that are gone when the picture is halved, so only an eye that reads the full picture can
answer. `single` is `shapes` with one thing, to start learning with.
`occluded` has pictures of 64 x 64 pixels with one thing partly hidden, and a reconstruction of it.
"""


@dataclass(frozen=True)
class Item:
    """One item of a world before it becomes a sample or a file.

    Attributes:
        scene: The scene.
        rendering: Its picture and masks.
        questions: At least one question.
        focus: Indices of the things that a split is about; empty for any.
        occlusion: What hides the thing, in worlds of pairs.
    """

    scene: Scene
    rendering: Rendering
    questions: tuple[Question, ...]
    focus: tuple[int, ...] = ()
    occlusion: Occlusion | None = None


def draw(
    config: WorldConfig, split: str, seed: int, index: int, questions_per_image: int = 1
) -> Item:
    """Draw item `index` of a split: a pure function of its arguments, in constant time.

    Raises:
        ConfigError: The scenes of this world give no question of the kinds asked for.
    """
    part = config.parts[index % len(config.parts)]
    for attempt in range(ATTEMPTS):
        scene = sample_scene(stream(seed, split, index, SCENE_STREAM, attempt), part, split)
        hidden = None
        if config.occlusion is not None:
            chance = stream(seed, split, index, OCCLUSION_STREAM, attempt)
            # Parts and levels are both taken in turn; together they go through all combinations.
            hidden = occlude(scene, chance, config.occlusion, index // len(config.parts))
            if hidden is None:
                continue
            scene = hidden.scene
        rendering = render(scene)
        focus = [
            place
            for place, thing in enumerate(scene.things)
            if split == "composition" and is_held_out(thing.shape, thing.colour, thing.texture)
        ]
        rng = stream(seed, split, index, QUESTION_STREAM, attempt)
        kinds = part.kinds or DEFAULT_KINDS
        if hidden is not None:
            questions = ask_hidden(scene, rendering, rng, part.kinds, questions_per_image)
        else:
            questions = ask(scene, rendering, rng, kinds, questions_per_image, focus)
        if questions:
            return Item(scene, rendering, tuple(questions), tuple(focus), hidden)
    raise ConfigError(
        f"no question of the kinds {part.kinds or DEFAULT_KINDS} fits item {index} of split "
        f"{split!r} after {ATTEMPTS} scenes; add a kind, or allow more things"
    )


class WorldDataset:
    """A world as samples made on demand.

    Args:
        world: A name in `WORLDS`, or a configuration.
        split: One of `train`, `validation`, `test`, `composition`.
        seed: Seed of the whole data set; the same seed gives splits that share nothing.
        count: Number of samples.
        questions_per_image: Most questions about one picture, each a user and an assistant turn.
        dense_rows: Rows of the dense labels in `truth["cells"]`; 0 for none.
        dense_columns: Columns of the dense labels; 0 for none.
        with_masks: Whether truth holds `masks` and `whole_masks`, bool (K, H, W).
        phrases: Most phrases that point at things of one picture, for grounding; 0 asks questions.
            With phrases the user asks `POINTING_REQUEST` and the assistant says them, separated by
            a full stop; `Sample.phrases` says where each stands and what pixels of its thing show,
            and `truth["referred"]` which thing it means. Pictures are those of the questions.
        supervise_phrases: Whether training scores the words of the phrases.
        wrong_objects: Whether every reconstruction of a world of pairs shows another thing.
    """

    def __init__(
        self,
        *,
        world: str | WorldConfig,
        split: str = "train",
        seed: int = 0,
        count: int = 1000,
        questions_per_image: int = 1,
        dense_rows: int = 0,
        dense_columns: int = 0,
        with_masks: bool = False,
        phrases: int = 0,
        supervise_phrases: bool = False,
        wrong_objects: bool = False,
    ) -> None:
        if count < 1 or questions_per_image < 1 or phrases < 0:
            raise InputError(
                f"count={count}, questions_per_image={questions_per_image}, phrases={phrases}; "
                "the first two must be at least 1, phrases at least 0"
            )
        self.name = world if isinstance(world, str) else "custom"
        self.config = lookup(WORLDS, world, "world") if isinstance(world, str) else world
        hiding = self.config.occlusion
        if hiding is None and wrong_objects:
            raise InputError(
                f"wrong_objects in the world {self.name!r}, which has no reconstructions; take a "
                "world of pairs, for example 'occluded'"
            )
        if hiding is not None and phrases:
            raise InputError(
                f"phrases={phrases} in the world {self.name!r}, which asks about what is hidden; "
                "take a world without occlusion"
            )
        if hiding is not None and wrong_objects:
            self.config = self.config.model_copy(update={"occlusion": always_wrong(hiding)})
        self.split = split
        self.seed = seed
        self.count = count
        self.questions_per_image = questions_per_image
        self.dense = (dense_rows, dense_columns)
        self.with_masks = with_masks
        self.phrases = phrases
        self.supervise_phrases = supervise_phrases
        if phrases and not all(part.distinct for part in self.config.parts):
            raise InputError(
                f"phrases={phrases} in a world whose things may look alike, so that no phrase "
                "would fit one alone; sample with distinct=true"
            )
        stream(seed, split, 0)  # an unknown split is an error now, not at the first sample

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`; a pure function of the index.

        Raises:
            IndexError: The index is not in [0, count).
        """
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}; indices go from 0")
        item = draw(self.config, self.split, self.seed, index, self.questions_per_image)
        if self.phrases:
            return self._pointing(item, index)
        kinds = [question.kind for question in item.questions]
        pair: Pair | None = None
        hidden: dict[str, Any] = {}
        if item.occlusion is not None and self.config.occlusion is not None:
            pair, hidden = pair_of(
                item.occlusion, item.rendering, self.config.occlusion, self.dense
            )
        return Sample(
            identifier=f"{self.name}/{self.split}/{self.seed}/{index}",
            turns=_turns(item.questions),
            images=(item.rendering.image,),
            group=kinds[0] if len(set(kinds)) == 1 else "mixed",
            truth={**self._truth(item), **hidden},
            origin=f"world {self.name}",
            pair=pair,
        )

    def _pointing(self, item: Item, index: int) -> Sample:
        """Return the sample that names things of the picture instead of asking about them."""
        rng = stream(self.seed, self.split, index, PHRASE_STREAM)
        said = point(item.scene, item.rendering, rng, self.phrases, item.focus)
        turns, phrases = naming_turns(
            [phrase for _, phrase in said], POINTING_REQUEST, self.supervise_phrases
        )
        return Sample(
            identifier=f"{self.name}/{self.split}/{self.seed}/{index}",
            turns=turns,
            images=(item.rendering.image,),
            group="phrases",
            truth={"referred": [thing for thing, _ in said], **self._seen(item)},
            origin=f"world {self.name}",
            phrases=phrases,
        )

    def _truth(self, item: Item) -> dict[str, Any]:
        return {
            "answers": [list(question.answers) for question in item.questions],
            "kinds": [question.kind for question in item.questions],
            "asked": [list(question.things) for question in item.questions],
            **self._seen(item),
        }

    def _seen(self, item: Item) -> dict[str, Any]:
        """Return what is known of the picture, whatever is said about it."""
        truth: dict[str, Any] = {
            "boxes": boxes(item.rendering),
            "things": [asdict(thing) for thing in item.scene.things],
            "scene": item.scene.to_plain(),
        }
        if self.dense != (0, 0):
            truth["cells"] = cell_labels(item.scene, item.rendering, *self.dense)
        if self.with_masks:
            truth["masks"] = item.rendering.visible
            truth["whole_masks"] = item.rendering.whole
        return truth


def _turns(questions: tuple[Question, ...]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for place, question in enumerate(questions):
        parts: tuple[str | int, ...] = (question.text,) if place else (0, question.text)
        turns.append(Turn("user", parts))
        turns.append(Turn("assistant", (question.answer,), supervised=True))
    return tuple(turns)


def boxes(rendering: Rendering) -> list[list[int]]:
    """Return the box of each thing's visible pixels, XYXY; four zeros where none is visible."""
    return [
        [int(side) for side in box_of(mask)] if mask.any() else [0, 0, 0, 0]
        for mask in rendering.visible
    ]
