"""What the strategies of merging say that they measure, they measure."""

from __future__ import annotations

import pytest

from chiasm.compression.merging import GuidedMergingConfig
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.places import shipped_recipes


@pytest.mark.parametrize(("name", "words"), [("edge", "edges"), ("residual", "residual")])
def test_progressive_merging_measures_what_its_comment_names(name: str, words: str) -> None:
    recipe = "video-progressive-merging"
    merging = load_recipe(recipe).video_parts.compression
    assert isinstance(merging, GuidedMergingConfig)
    measured = {key for key, weight in merging.importance.saliency.weights().items() if weight}
    assert words in shipped_recipes()[recipe].read_text(encoding="utf-8") and name in measured
    assert measured == {"edge", "colour", "residual"}
