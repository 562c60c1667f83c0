"""Something partly hidden, with a reconstruction of it that need not be right.

A scene of one thing gets an occluder that hides a drawn share of it. Beside the picture stand the
reconstruction, the boxes of the thing in both, the pixels that are hidden, and the same scene
painted without the occluder. Questions are about the hidden thing as it truly is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chiasm.core.config import Config
from chiasm.core.errors import ConfigError
from chiasm.core.samples import Box, Pair
from chiasm.data.masks import ArrayMask
from chiasm.data.world.cells import cell_labels
from chiasm.data.world.occluders import Cover, cover
from chiasm.data.world.reconstruction import Errors, ReconstructionConfig, reconstruct
from chiasm.data.world.render import Rendering, render
from chiasm.data.world.scene import Scene
from chiasm.data.world.view import Question, View

NAMES = ("the hidden thing", "the covered thing", "the partly hidden thing")
"""What questions call the thing; no name tells anything of it."""

KINDS = ("colour", "shape", "texture", "size")
"""The question kinds there are about a hidden thing."""

TRUTHS = (
    "scene",
    "fraction",
    "level",
    "cover",
    "errors",
    "whole",
    "hidden",
    "whole_box",
    "reconstruction_box",
    "attributes",
    "shown",
)
"""What is true of a pair, and goes into files; no model is given it."""


class OcclusionConfig(Config):
    """What hides things, how much of them, and what is told beside the reconstruction."""

    levels: tuple[tuple[float, float], ...] = Field(
        default=((0.0, 0.2), (0.2, 0.5), (0.5, 0.8)), min_length=1
    )
    """Ranges of the hidden share, taken in turn, so that each has its exact part of the samples."""
    covers: tuple[Cover, ...] = Field(default=("bars", "hand", "thing"), min_length=1)
    """What may stand in front, drawn evenly."""
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    """How wrong the reconstruction is."""
    boxes: bool = True
    """Whether the boxes of the thing, in the picture and in its reconstruction, are told."""
    box_error: float = Field(default=0.04, ge=0, le=0.2)
    """Error of a detector: standard deviation of each side of the box in the picture, as a part of
    its width or height. The box in the reconstruction is exact."""
    hidden: bool = False
    """Whether the hidden pixels are told."""

    @model_validator(mode="after")
    def _check(self) -> OcclusionConfig:
        wrong = [level for level in self.levels if not 0 <= level[0] < level[1] < 1]
        if wrong:
            raise ValueError(f"levels: {wrong}; give ranges (least >= 0, most < 1) of the share")
        return self


@dataclass(frozen=True)
class Occlusion:
    """One occluded scene before it is painted.

    Attributes:
        clear: The scene without its occluder.
        scene: The scene with it; the hidden thing is the first.
        level: Index of the range of its hidden share.
        cover: What stands in front, a name in `COVERS`.
        shown: The reconstruction.
        errors: How that differs from the truth.
        jitter: Error of the box in the picture: each side, as a part of its width or height.
    """

    clear: Scene
    scene: Scene
    level: int
    cover: str
    shown: Scene
    errors: Errors
    jitter: tuple[float, float, float, float]


def occlude(
    clear: Scene, rng: np.random.Generator, config: OcclusionConfig, index: int
) -> Occlusion | None:
    """Hide the thing of a scene, and draw its reconstruction.

    Args:
        clear: A scene of one thing.
        rng: The random numbers.
        config: What hides it, and how much of it.
        index: Number of the sample; says which level it has.

    Returns:
        None where no occluder hides the right share.
    """
    # Two streams, so that neither changes with the other: a world of wrong reconstructions has the
    # same pictures.
    before, beside = rng.spawn(2)
    level = index % len(config.levels)
    kind = config.covers[int(before.integers(len(config.covers)))]
    left, top, right, bottom = (config.box_error * before.standard_normal(4)).tolist()
    scene = cover(clear, before, kind, *config.levels[level])
    if scene is None:
        return None
    shown, errors = reconstruct(clear, beside, config.reconstruction)
    return Occlusion(clear, scene, level, kind, shown, errors, (left, top, right, bottom))


def ask_hidden(
    scene: Scene, rendering: Rendering, rng: np.random.Generator, kinds: Sequence[str], count: int
) -> list[Question]:
    """Ask up to `count` questions about the hidden thing, each of another kind."""
    view = View(scene, rendering, rng)
    chosen = [kind for kind in kinds or KINDS if kind in KINDS]
    questions = []
    for place in view.shuffled(len(chosen))[:count]:
        kind = chosen[place]
        answer = view.words[0][kind]
        text = view.fill(kind, view.choose(NAMES))
        questions.append(Question(kind, text, answer, (answer,), (0,)))
    return questions


def pair_of(
    occlusion: Occlusion,
    rendering: Rendering,
    config: OcclusionConfig,
    dense: tuple[int, int] = (0, 0),
) -> tuple[Pair, dict[str, Any]]:
    """Return what completes the picture, and what is true of it.

    Args:
        occlusion: The scene.
        rendering: Its picture and masks.
        config: What is told.
        dense: Rows and columns of the dense labels of the reconstruction; zeros for none.

    Returns:
        The pair, and for `Sample.truth`: `fraction` (hidden share), `level` (its range as text),
        `cover`, `errors` (see `Errors`), `whole` and `hidden` (bool (H, W), pixels of the thing),
        `whole_box` and `reconstruction_box` (exact), `attributes` of the thing and `shown`, those
        of the reconstruction, by name; where asked for, `shown_cells`, what each cell of it shows.

    Raises:
        ConfigError: The reconstruction is too small for a pixel of its thing.
    """
    whole = rendering.whole[0]
    hidden = whole & ~rendering.visible[0]
    shown = render(occlusion.shown)
    if not shown.whole[0].any():
        raise ConfigError(
            f"a reconstruction of {occlusion.shown.things[0].size:.2g} pixels, at a scale of "
            f"{occlusion.errors.scale:.2g}, shows no pixel of its thing; raise "
            "`reconstruction.scale`"
        )
    box, shown_box = box_of(whole), box_of(shown.whole[0])
    least, most = config.levels[occlusion.level]
    pair = Pair(
        reconstruction=shown.image,
        hidden=ArrayMask(hidden, "hidden pixels") if config.hidden else None,
        image_box=_jittered(box, occlusion) if config.boxes else None,
        reconstruction_box=shown_box if config.boxes else None,
        target=render(occlusion.clear).image,
    )
    cells = {} if dense == (0, 0) else {"shown_cells": cell_labels(occlusion.shown, shown, *dense)}
    return pair, {
        **cells,
        "fraction": float(hidden.sum() / whole.sum()),
        "level": f"{least:.0%}-{most:.0%}",
        "cover": occlusion.cover,
        "errors": occlusion.errors.to_plain(),
        "whole": whole,
        "hidden": hidden,
        "whole_box": list(box),
        "reconstruction_box": list(shown_box),
        "attributes": occlusion.scene.attributes(0),
        "shown": occlusion.shown.attributes(0),
    }


def pair_truth(truth: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `Sample.truth` that is about the pair."""
    return {key: truth[key] for key in TRUTHS if key in truth}


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box of a mask (H, W) that is not empty, XYXY."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _jittered(box: Box, occlusion: Occlusion) -> Box:
    """Move each side of a box as a detector might; its boxes end at the border of the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top, right, bottom = (
        side + error * length
        for side, error, length in zip(
            box, occlusion.jitter, (width, height, width, height), strict=True
        )
    )
    across, down = float(occlusion.scene.width), float(occlusion.scene.height)
    return max(0.0, left), max(0.0, top), min(across, right), min(down, bottom)


def always_wrong(config: OcclusionConfig) -> OcclusionConfig:
    """Return a configuration in which every reconstruction shows another thing."""
    wrong = {"exact": 0.0, "wrong_texture": 0.0, "wrong_object": 1.0}
    reconstruction = config.reconstruction.model_copy(update=wrong)
    return config.model_copy(update={"reconstruction": reconstruction})
