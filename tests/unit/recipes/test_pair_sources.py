"""Pairs as sources of a recipe: a world or a file, under a control named there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from chiasm.core.errors import ConfigError, DataError
from chiasm.core.samples import Sample
from chiasm.data.pair_controls import PAIR_CONTROLS
from chiasm.data.world.write import make
from chiasm.recipes.data_choice import Source
from chiasm.recipes.sources import build_source


def first(source: Source, base: Path = Path()) -> Sample:
    return build_source(source, None, base)[0]


@pytest.mark.parametrize("control", PAIR_CONTROLS)
def test_every_control_can_be_named_for_the_world(control: str) -> None:
    plain = first(Source(world="occluded", count=6, seed=2))
    values = {"world": "occluded", "count": 6, "seed": 2, "pair": control}
    made = first(Source.model_validate(values))
    assert made.turns == plain.turns and made.pair is not None and plain.pair is not None
    shown = np.array_equal(made.images[0], plain.images[0])  # type: ignore[arg-type]
    assert shown == (control != "reconstruction_only")
    kept = np.array_equal(made.pair.reconstruction, plain.pair.reconstruction)  # type: ignore[arg-type]
    assert kept == (control in ("given", "reconstruction_only", "mask_known"))
    assert (made.pair.hidden is not None) == (control == "mask_known")


def test_a_file_of_pairs_has_controls_too(tmp_path: Path) -> None:
    make("occluded", tmp_path / "w", 4, splits=("train",))
    for control in ("original_only", "shuffled", "mask_known"):
        source = Source.model_validate({"path": "w/pairs.json", "pair": control, "count": 3})
        assert first(source, tmp_path).truth["control"] == control
    with pytest.raises(DataError, match="take `shuffled`"):
        wrong = Source(path="w/pairs.json", pair="wrong")
        [build_source(wrong, None, tmp_path)[index] for index in range(4)]


def test_pictures_without_questions_keep_their_pairs() -> None:
    sample = first(Source(world="occluded", count=2, questions=0))
    assert sample.turns[0].parts == (0,) and len(sample.turns) == 1
    assert sample.pair is not None and sample.pair.target is not None


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ValidationError, match="'given', 'original_only'"):
        Source.model_validate({"world": "occluded", "count": 2, "pair": "none"})
    with pytest.raises(ConfigError, match="shrink=2 in the world 'occluded': pairs are drawn in"):
        first(Source(world="occluded", count=2, shrink=2))
    with pytest.raises(DataError, match=r"world single .*has no reconstruction"):
        first(Source(world="single", count=2, pair="original_only"))
