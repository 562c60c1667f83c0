"""A source whose domains are balanced: what a recipe draws, counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from chiasm.core.errors import ConfigError, InputError
from chiasm.data.world import write
from chiasm.recipes.build import build_model, build_training
from chiasm.recipes.loading import load_recipe
from tests.recipes.small import tiny_strategy

NEWS, SPORTS = "news", "sports"
VIDEOS = {NEWS: 5, SPORTS: 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about 7 videos, of which 2 are of sports."""
    pytest.importorskip("av", reason="the extra 'video' is not installed")
    folder = tmp_path_factory.mktemp("balance")
    write.make("motion", folder / "world", sum(VIDEOS.values()), 3)
    path = folder / "world" / "training" / "annotations" / "video_qa.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name, count in VIDEOS.items() for _ in range(count)]
    for video, name in zip(document, names, strict=True):
        video["domain"] = name
    path.write_text(json.dumps(document), encoding="utf-8")
    return folder


def drawn(folder: Path, source: str, *changes: str) -> Counter[str]:
    """Return how often each domain is drawn in the 512 samples of a stage."""
    small = [one for one in tiny_strategy("video-domain-aware") if not one.startswith("data.")]
    size = ["training.batch_size=8", "training.stages.0.steps=64"]
    data = ["data.validation=[]", f"data.train=[{source}]"]
    recipe = load_recipe("video-domain-aware", [*small, *size, *data, *changes])
    _, samples = build_training(recipe, build_model(recipe, folder), folder)
    return Counter(samples[position].group for position in range(512))


PATH = "path: world/training/annotations/video_qa.json"


def test_each_domain_is_drawn_as_often_as_asked(world: Path) -> None:
    plain = drawn(world, f"{{{PATH}}}")
    assert plain[NEWS] / plain[SPORTS] == pytest.approx(5 / 2, rel=0.05)
    assert drawn(world, f"{{{PATH}, balance: 0}}") == plain
    assert drawn(world, f"{{{PATH}, balance: 1.0}}") == {NEWS: 256, SPORTS: 256}
    half = drawn(world, f"{{{PATH}, balance: 0.5}}")
    assert half[NEWS] / half[SPORTS] == pytest.approx((5 / 2) ** 0.5, rel=0.05)


def test_the_domains_of_a_source_share_its_weight(world: Path) -> None:
    moving = "world: motion, count: 40, weight: 3, balance: 1.0"
    found = drawn(world, f"{{{PATH}, weight: 1, balance: 1.0}}, {{{moving}}}")
    # A quarter from the file, half of it sports; three quarters of four domains alike.
    assert found[SPORTS] == 512 // 8 + 512 * 3 // 16
    assert found[NEWS] == 512 // 8 + 512 * 3 // 16
    assert found["general"] == 512 * 3 // 16


def test_a_moving_world_knows_its_domains_before_it_draws(world: Path) -> None:
    found = drawn(world, "{world: motion, count: 100000, balance: 1.0}")
    assert set(found.values()) == {128}


def test_the_strategy_balances_its_domains() -> None:
    recipe = load_recipe("video-domain-aware")
    assert [source.balance for source in recipe.data.train] == [1.0]


def test_what_cannot_be_balanced_is_named(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"balance: 1\.5 is not allowed"):
        drawn(world, f"{{{PATH}, balance: 1.5}}")
    told = r"balance of the validation sources \['world/.*'\]: each .* leave it out there"
    with pytest.raises(ConfigError, match=told):
        drawn(world, f"{{{PATH}}}", f"data.validation=[{{{PATH}, balance: 1.0}}]")
    annotated = world / PATH.removeprefix("path: ")
    videos = json.loads(annotated.read_text(encoding="utf-8"))
    plain = [{key: value for key, value in one.items() if key != "domain"} for one in videos]
    annotated.with_name("plain.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(InputError, match="has no domain; give each record a 'domain'"):
        drawn(world, f"{{{PATH.replace('video_qa', 'plain')}, balance: 1.0}}")
